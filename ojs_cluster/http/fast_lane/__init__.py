"""The fast lane: the entry point that serves the hot routes over HTTP/1.1 without hypercorn."""
