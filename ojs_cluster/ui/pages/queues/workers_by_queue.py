"""How many workers serve each queue, which queues lack one, and which workers have gone silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

UNSERVED_MS: Final = 10_000
"""Age in milliseconds of a waiting job from which its queue counts as one without workers."""


@dataclass(frozen=True, slots=True)
class WorkersByQueue:
    """How many workers take jobs of each queue.

    Attributes:
        counts: the number by the name of the queue, for queues that a running worker reports.
        is_complete: whether no other worker can be known to serve a queue: all workers and names
            are counted, and each worker reports its queues.
        silent: the stale workers that hold active jobs, by name, as far as these are among the
            first hundred active jobs.
    """

    counts: Mapping[str, int]
    is_complete: bool
    silent: Sequence[str] = ()

    def lacks(self, queue: Mapping[str, Any], oldest_ms: int) -> bool:
        """Return whether the jobs of a queue wait because no worker fetches them.

        Args:
            queue: the queue, as the API shows it.
            oldest_ms: the age of its oldest available job.
        """
        jobs = queue["counts"]
        is_idle = jobs["available"] and not jobs["active"] and not queue["paused"]
        return bool(is_idle and self.may_lack(queue["name"], oldest_ms))

    def may_lack(self, name: str, oldest_ms: int) -> bool:
        """Return whether a queue lacks workers if it is not paused and has no active job.

        Args:
            name: the name of the queue.
            oldest_ms: the age of its oldest available job.
        """
        return oldest_ms >= UNSERVED_MS and self.is_complete and name not in self.counts
