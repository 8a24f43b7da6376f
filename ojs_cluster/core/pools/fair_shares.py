"""Divide jobs among queues in proportion to weights, or by depth (spec: ojs-fair-scheduling 7).

Each queue has a position: the jobs that it got, divided by its weight. The next job comes from the
queue with the smallest position that has a job. So while all queues have jobs, the positions of two
queues differ by at most the sum of their steps, and the shares are exact in the long run: after any
number of jobs, no queue is more than one job per queue away from its share.

A queue that was empty continues at the position of the others. So it neither loses its share nor
saves it up, and the others use the time in which it is empty. Smooth weighted round robin was
refused: it needs one pass over all queues for each job, and has no rule for a queue that was empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heapreplace
from typing import Final

_REBASE_AT: Final = 1e6
"""Position at which all positions are reduced, so that steps of 1/1000 are never rounded away."""


class FairShares:
    """The positions of the queues of one pool in this process.

    Args:
        weights: the weight of each queue, in the order that decides between equal positions.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._steps = {queue: 1 / weight for queue, weight in weights.items()}
        self._rank = {queue: number for number, queue in enumerate(weights)}
        self._positions = dict.fromkeys(weights, 0.0)
        self._reached = 0.0

    def plan(self, count: int, depths: Mapping[str, int]) -> dict[str, int]:
        """Choose the queues of the next ``count`` jobs, and advance these queues.

        Concurrent callers choose different jobs, because a queue advances before its jobs are
        fetched. Call ``undo`` for jobs that the queue did not have.

        Args:
            count: number of jobs.
            depths: how many jobs each queue has; queues that are left out have none.

        Returns:
            The number of jobs by queue, ``count`` in all if the queues have as many.
        """
        heap = [
            (max(self._positions[queue], self._reached), self._rank[queue], queue)
            for queue, depth in depths.items()
            if depth > 0
        ]
        heapify(heap)
        planned: dict[str, int] = {}
        while heap and count:
            position, rank, queue = heap[0]
            self._reached = position
            self._positions[queue] = position + self._steps[queue]
            planned[queue] = planned.get(queue, 0) + 1
            count -= 1
            if planned[queue] < depths[queue]:
                heapreplace(heap, (self._positions[queue], rank, queue))
            else:
                heappop(heap)
        self._rebase()
        return planned

    def undo(self, queue: str, count: int) -> None:
        """Take back ``count`` jobs that were planned and not found."""
        self._positions[queue] -= count * self._steps[queue]

    def add(self, queue: str, count: int) -> None:
        """Count jobs that a fetch got from a queue without a plan."""
        # The queues that were passed over had no job, so they go on from here, too.
        start = self._reached = max(self._positions[queue], self._reached)
        self._positions[queue] = start + count * self._steps[queue]

    def order(self, queues: Sequence[str]) -> list[str]:
        """Return the queues in the order in which they would get the next job."""
        return sorted(
            queues,
            key=lambda queue: (max(self._positions[queue], self._reached), self._rank[queue]),
        )

    def _rebase(self) -> None:
        if self._reached > _REBASE_AT:
            for queue in self._positions:
                self._positions[queue] -= self._reached
            self._reached = 0.0


def plan_deepest(count: int, depths: Mapping[str, int]) -> dict[str, int]:
    """Choose ``count`` jobs, each from the queue that then has the most jobs.

    Args:
        count: number of jobs.
        depths: how many jobs each queue has. Of equal depths the first one is chosen.

    Returns:
        The number of jobs by queue.
    """
    heap = [
        (-depth, rank, queue) for rank, (queue, depth) in enumerate(depths.items()) if depth > 0
    ]
    heapify(heap)
    planned: dict[str, int] = {}
    while heap and count:
        negative, rank, queue = heap[0]
        planned[queue] = planned.get(queue, 0) + 1
        count -= 1
        if negative < -1:
            heapreplace(heap, (negative + 1, rank, queue))
        else:
            heappop(heap)
    return planned
