"""How many workers serve each queue, and which queues lack one."""

from __future__ import annotations

from collections.abc import Mapping
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
    """

    counts: Mapping[str, int]
    is_complete: bool

    def lacks(self, queue: Mapping[str, Any], oldest_ms: int) -> bool:
        """Return whether the jobs of a queue wait because no worker fetches them.

        Args:
            queue: the queue, as the API shows it.
            oldest_ms: the age of its oldest available job.
        """
        jobs = queue["counts"]
        is_idle = jobs["available"] and not jobs["active"] and not queue["paused"]
        is_served = queue["name"] in self.counts or not self.is_complete
        return bool(is_idle and oldest_ms >= UNSERVED_MS and not is_served)
