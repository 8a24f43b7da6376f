"""How many jobs a worker fetches, and the fetched jobs that wait for a free handler."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup

from ojs_client.worker.execution import Runner
from ojs_client.worker.fetching import MAX_COUNT
from ojs_client.worker.held_jobs import HeldJob

_SHORT_S: Final = 0.005
"""Maximum run time in seconds of a short handler. A longer one gains little by a shared fetch."""
_SHORT_IN_A_ROW: Final = 10
"""Number of short handlers, without a longer one in between, after which fetches ask for more jobs
than handlers are free."""
_AHEAD: Final = 3
"""Number of these jobs. While handlers are short, the last one waits for less than
``_MAX_WAIT_S``."""
_MAX_WAIT_S: Final = 0.02
"""Maximum time in seconds that a job waits for a free handler if the number of jobs to prefetch is
not given. Then another worker can have it."""


@dataclass(slots=True)
class WaitingJobs:
    """Fetched jobs that wait for a free handler. Heartbeats keep their leases.

    Args:
        runner: starts the handlers, and returns the jobs that do not start.
        concurrency: maximum number of handlers that run at the same time.
        prefetch: number of jobs to fetch beyond the free handlers. If it is None, a fetch for free
            handlers asks for three jobs more while handlers are short.

    Attributes:
        group: the task group of the handlers; None while no job may start.
    """

    runner: Runner
    concurrency: int
    prefetch: int | None
    group: TaskGroup | None = None
    _jobs: deque[HeldJob] = field(default_factory=deque)
    _short_in_a_row: int = 0
    _give_back_at: float = math.inf
    """When the jobs are given back, on the clock of the event loop."""

    def __len__(self) -> int:
        return len(self._jobs)

    def wanted(self) -> int:
        """Return how many jobs the next fetch asks for; 0 if enough jobs wait.

        With a fixed number, a fetch is sent when half of the prefetched jobs are left. One for each
        job that starts would take as many requests as no prefetch.
        """
        free = self.concurrency - self.runner.running
        if self.prefetch is None:
            # A fetch for a waiting job alone could take the job from a worker with free handlers.
            if self._jobs or free < 1:
                return 0
            ahead = _AHEAD if self._short_in_a_row >= _SHORT_IN_A_ROW else 0
            return min(free + ahead, MAX_COUNT)
        if len(self._jobs) > self.prefetch // 2:
            return 0
        return min(free + self.prefetch - len(self._jobs), MAX_COUNT)

    def add(self, jobs: Sequence[HeldJob]) -> None:
        """Add jobs that a fetch has returned, and start them as far as handlers are free."""
        self._jobs.extend(jobs)
        self._start()
        if self._jobs and self.prefetch is None:
            self._give_back_at = anyio.current_time() + _MAX_WAIT_S

    def handler_ended(self, run_s: float) -> None:
        """Start the next job.

        Args:
            run_s: how long the handler has run, in seconds.
        """
        self._short_in_a_row = self._short_in_a_row + 1 if run_s <= _SHORT_S else 0
        self._start()

    def seconds_left(self) -> float:
        """Return the time in seconds after which ``give_back`` must be called, if jobs wait."""
        return self._give_back_at - anyio.current_time() if self._jobs else math.inf

    def give_back(self) -> None:
        """Return the jobs to their queues, because the running handlers are not short any more."""
        self._short_in_a_row = 0
        self._return_all()

    def end(self) -> None:
        """Return the jobs to their queues. Jobs that are added later do not start."""
        self.group = None
        self._return_all()

    def _start(self) -> None:
        while self._jobs and self.group and self.runner.running < self.concurrency:
            self.runner.start(self._jobs.popleft(), self.group)

    def _return_all(self) -> None:
        while self._jobs:
            self.runner.return_unstarted(self._jobs.pop())  # each goes to the front of its queue
