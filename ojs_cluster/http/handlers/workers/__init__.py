"""Handlers that workers call, and those about workers."""
