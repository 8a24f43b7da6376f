"""Workers alone, on queues that were filled before: how fast a backlog is worked off."""

from loadtest.users import BatchWorker, Worker

__all__ = ["BatchWorker", "Worker"]
