"""HTTP sockets of a process: listening, connections, limits, graceful shutdown."""
