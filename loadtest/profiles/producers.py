"""Only producers: the rate of enqueues. The queues grow: empty them afterwards."""

from loadtest.users import Producer

__all__ = ["Producer"]
