"""Only workers, on filled queues: the rate at which a backlog is processed."""

from loadtest.users import BatchWorker, Worker

__all__ = ["BatchWorker", "Worker"]
