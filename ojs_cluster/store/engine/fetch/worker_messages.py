"""Messages for workers: a job or its run was cancelled, or there is a directive.

(spec: ojs-worker-protocol 4)

A heartbeat that waits gets them, so the worker need not wait for its next one. They use the wake
channel of a shard. A lost message costs the time until the next heartbeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

_MARK: Final = b"!"
"""The first byte of a message for a worker. No name of a queue begins with it."""
_MAX_CANCELLED: Final = 1000


def directive_message(worker_id: str) -> bytes:
    """Return the message that tells a worker of a directive."""
    return cancel_message("", worker_id)


def cancel_message(job_id: str, worker_id: str) -> bytes:
    """Return the message that tells a worker of a cancelled run. ``cancel_job.lua`` has it, too."""
    return b"%b%b %b" % (_MARK, job_id.encode(), worker_id.encode())


class Inbox:
    """What a waiting heartbeat has been told.

    Attributes:
        cancelled: ids of jobs of the worker that were cancelled while they ran, 1000 at most.
    """

    __slots__ = ("_told", "cancelled")

    def __init__(self) -> None:
        self._told = trio.Event()
        self.cancelled: list[str] = []

    def tell(self, job_id: str) -> None:
        """Add a cancelled job, '' for a directive, and end the wait."""
        if job_id and len(self.cancelled) < _MAX_CANCELLED:
            self.cancelled.append(job_id)
        self._told.set()

    @property
    def told(self) -> bool:
        """Whether a message has arrived."""
        return self._told.is_set()

    async def wait(self) -> None:
        """Wait for the first message."""
        await self._told.wait()


class WorkerMessages:
    """The heartbeats of this process that wait, by worker."""

    def __init__(self) -> None:
        self._inboxes: dict[str, set[Inbox]] = {}

    @contextmanager
    def listen(self, worker_id: str) -> Iterator[Inbox]:
        """Collect the messages for a worker while the context is open."""
        inbox = Inbox()
        self._inboxes.setdefault(worker_id, set()).add(inbox)
        try:
            yield inbox
        finally:
            listening = self._inboxes[worker_id]
            listening.discard(inbox)
            if not listening:
                del self._inboxes[worker_id]

    def deliver(self, payload: bytes) -> bool:
        """Deliver a message; return False if it is not for a worker."""
        if not payload.startswith(_MARK):
            return False
        job_id, _, worker_id = payload[len(_MARK) :].decode(errors="replace").partition(" ")
        for inbox in self._inboxes.get(worker_id, ()):
            inbox.tell(job_id)
        return True

    def tell_all(self) -> None:
        """End all waits, because messages may be lost."""
        for listening in self._inboxes.values():
            for inbox in listening:
                inbox.tell("")
