"""The processes of a server: API and scheduler."""
