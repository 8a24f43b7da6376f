"""Valkey or Redis servers that run as child processes, for ``dev`` and for tests."""
