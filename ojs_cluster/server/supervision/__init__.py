"""Child processes of a server, and the supervisor that starts and replaces them."""
