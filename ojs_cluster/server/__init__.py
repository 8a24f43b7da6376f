"""Processes: the supervisor, the API process, the embedded servers and the one-command ``dev``."""
