"""What a worker does, for the process that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ojs_client.worker.execution import Runner
from ojs_client.worker.held_jobs import HeldJob
from ojs_client.worker.prefetch import WaitingJobs


@dataclass(slots=True)
class WorkerView:
    """The numbers of a worker.

    Args:
        url: the address of its server.
        grace_s: how long its handlers may go on when it drains, in seconds.
        runner: its handlers.
        waiting_jobs: its jobs that wait for a handler.

    Attributes:
        on_attempt: called when an attempt has ended, with its run time in seconds.
        loop_lag_s: how late the event loop was at the last check, in seconds.
        has_given_id: whether its user has chosen its id.
        exit_code: the exit code of the process if it ends without handlers that do not end.
    """

    url: str
    grace_s: float
    runner: Runner
    waiting_jobs: WaitingJobs
    on_attempt: Callable[[HeldJob, float], None] | None = None
    loop_lag_s: float = 0.0
    has_given_id: bool = False
    exit_code: int = 1

    @property
    def running(self) -> int:
        """Number of handlers that run."""
        return self.runner.running

    @property
    def waiting(self) -> int:
        """Number of fetched jobs that wait for a handler."""
        return len(self.waiting_jobs)
