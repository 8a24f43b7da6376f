"""The settings of a worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ojs_client._version import __version__
from ojs_client.options import JSON, Duration, milliseconds, names
from ojs_client.worker.handlers import Lifespan, Middleware
from ojs_client.worker.memory import resident_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """The arguments of ``Worker`` that a copy of the worker shares. ``Worker`` describes them.

    Raises:
        ValueError: a value is not allowed.
    """

    queues: tuple[str, ...]
    """Those that its fetches name: none for all queues of the pool."""
    pool: str | None
    concurrency: int
    prefetch: int | None
    lease: Duration
    heartbeat: Duration
    poll: Duration
    grace: Duration
    jobs_per_process: int
    middleware: tuple[Middleware, ...]
    lifespan: Lifespan | None
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the values."""
        if self.pool == "":
            raise ValueError("pool must not be empty")
        if self.concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        if self.jobs_per_process < 1:
            raise ValueError("jobs_per_process must be at least 1")
        if self.prefetch is not None and self.prefetch < 0:
            raise ValueError("prefetch must not be negative")
        if milliseconds(self.heartbeat) < 1:
            raise ValueError("heartbeat must be at least a millisecond")
        if min(milliseconds(self.poll), milliseconds(self.grace)) < 0:
            raise ValueError("poll and grace must not be negative")
        if milliseconds(self.heartbeat) * 2 > milliseconds(self.lease):
            raise ValueError("a lease must be at least twice as long as the heartbeat interval")

    @property
    def lease_s(self) -> float:
        """The length of a lease in seconds."""
        return milliseconds(self.lease) / 1000

    @property
    def heartbeat_s(self) -> float:
        """The time between two heartbeats in seconds."""
        return milliseconds(self.heartbeat) / 1000

    @property
    def poll_s(self) -> float:
        """The maximum time in seconds that one fetch waits for jobs."""
        return milliseconds(self.poll) / 1000

    @property
    def grace_s(self) -> float:
        """The time in seconds that handlers have to end when the worker drains."""
        return milliseconds(self.grace) / 1000

    @property
    def jobs_of(self) -> str:
        """The queues and the pool, for the log."""
        named = ", ".join(self.queues)
        if self.pool is None:
            return f"queues {named}"
        return f"pool {self.pool}, " + (f"queues {named}" if named else "all of its queues")

    def description(self, types: list[str] | None) -> dict[str, JSON]:
        """Return what a heartbeat tells about the worker and its process.

        Args:
            types: the job types that it runs; None for any.
        """
        memory = resident_bytes()
        return {
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "queues": self.queues,
            "concurrency": self.concurrency,
            "labels": self.labels,
            "language": "python",
            "sdk": "ojs-client",
            "version": __version__,
            **({} if self.pool is None else {"pool": self.pool}),
            **({} if types is None else {"types": types}),
            **({} if memory is None else {"memory_bytes": memory}),
        }

    def arguments(self) -> dict[str, Any]:
        """Return the settings as arguments of ``Worker``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "queues": self.queues or None}


def queues_of(queues: Sequence[str] | None, pool: str | None) -> tuple[str, ...]:
    """Return the queues that a worker names in its fetches: none for all queues of its pool.

    Raises:
        ValueError: ``queues`` is empty or one string.
    """
    if queues is None:
        return ("default",) if pool is None else ()
    if not (named := names(queues, "queues")):
        raise ValueError("queues must not be empty")
    return named
