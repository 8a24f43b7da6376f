"""How many workers serve each queue, which queues lack one, and which workers have gone silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

UNSERVED_MS: Final = 10_000
"""Age in milliseconds of a waiting job from which its queue counts as one without workers."""
RECENT_MINUTES: Final = 5
"""For how many minutes after the end of an attempt a queue counts as one with workers: those
without an id send no heartbeats, and may have no active job for a moment."""


@dataclass(frozen=True, slots=True)
class WorkersByQueue:
    """How many workers take jobs of each queue.

    Attributes:
        counts: the number by the name of the queue, for queues that a running worker reports.
        is_complete: whether ``counts`` has every queue that a running worker may serve: all workers
            and names are counted, none is hidden, and each worker that was seen lately reports its
            queues.
        types: for the same queues, the lists of job types that their workers report, each list
            once; an empty one for a worker that may run any type.
        silent: the stale workers that hold active jobs, by name, as far as these are among the
            active jobs that ``serving`` reads, those whose leases end first.
    """

    counts: Mapping[str, int]
    is_complete: bool
    types: Mapping[str, Set[tuple[str, ...]]] = field(default_factory=dict)
    silent: Sequence[str] = ()

    def runs(self, queue: str, job_type: str) -> bool:
        """Return whether a worker may run jobs of a type in a queue."""
        lists = self.types.get(queue, ())
        return not self.is_complete or any(job_type in types or not types for types in lists)

    def lacks(self, queue: Mapping[str, Any], oldest_age_ms: int, has_run: bool) -> bool:
        """Return whether the jobs of a queue wait because no worker fetches them.

        Args:
            queue: the ``name``, ``paused`` and ``counts`` of the queue, as the API shows them.
            oldest_age_ms: the age of its oldest available job in milliseconds.
            has_run: whether an attempt has ended in it in the last ``RECENT_MINUTES``.
        """
        jobs = queue["counts"]
        is_idle = jobs["available"] and not jobs["active"] and not queue["paused"] and not has_run
        return bool(is_idle and self.may_lack(queue["name"], oldest_age_ms))

    def may_lack(self, name: str, oldest_age_ms: int) -> bool:
        """Return whether a queue lacks workers, for one for which ``lacks`` finds no other reason.

        Args:
            name: the name of the queue.
            oldest_age_ms: the age of its oldest available job in milliseconds.
        """
        return oldest_age_ms >= UNSERVED_MS and self.is_complete and name not in self.counts
