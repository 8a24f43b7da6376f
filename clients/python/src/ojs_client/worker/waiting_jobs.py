"""Fetched jobs that wait for a free handler."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from anyio.abc import TaskGroup

from ojs_client.worker.execution import Runner
from ojs_client.worker.fetching import MAX_COUNT
from ojs_client.worker.held_jobs import HeldJob
from ojs_client.worker.settling import Settler, release


@dataclass(slots=True)
class WaitingJobs:
    """Fetched jobs that wait for a free handler. Heartbeats keep their leases.

    Args:
        runner: starts the handlers.
        settler: gets the nacks of jobs that do not start.
        concurrency: maximum number of handlers that run at the same time.
        prefetch: number of jobs to fetch beyond the free handlers.

    Attributes:
        group: the task group of the handlers; None while no job may start.
    """

    runner: Runner
    settler: Settler
    concurrency: int
    prefetch: int
    group: TaskGroup | None = None
    _jobs: deque[HeldJob] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._jobs)

    def wanted(self) -> int:
        """Return how many jobs the next fetch asks for; 0 if enough jobs wait.

        A fetch is sent when half of the prefetched jobs are left. One for each job that starts
        would take as many requests as no prefetch.
        """
        if len(self._jobs) > self.prefetch // 2:
            return 0
        free = self.concurrency - self.runner.running
        return min(free + self.prefetch - len(self._jobs), MAX_COUNT)

    def add(self, jobs: Iterable[HeldJob]) -> None:
        """Add jobs that a fetch has returned, and start them as far as handlers are free."""
        self._jobs.extend(jobs)
        self.start()

    def start(self) -> None:
        """Start jobs as far as handlers are free."""
        while self._jobs and self.group and self.runner.running < self.concurrency:
            self.runner.start(self._jobs.popleft(), self.group)

    def requeue(self) -> None:
        """Return all jobs to their queues. Jobs that are added later do not start."""
        self.group = None
        while self._jobs:
            job = self._jobs.pop()  # each goes to the front of its queue
            if job.lost is None:
                self.settler.add(release(job))
            else:
                self.runner.drop_lost(job)
