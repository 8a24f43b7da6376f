"""Announce that bounded queues are nearly full, and that they are not any more."""
