"""Producers alone: how fast jobs can be taken in. The queues grow: empty them afterwards."""

from loadtest.users import Producer

__all__ = ["Producer"]
