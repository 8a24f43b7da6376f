"""The job of a task that runs without a server."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from ojs_client.options import JSON, NewJob, new_job_id
from ojs_client.worker.held_jobs import HeldJob
from ojs_client.worker.processes import ProcessJob
from ojs_client.worker.running import BlockingJob, JobInfo, RunningJob


def local_job(job: NewJob, kind: type[JobInfo]) -> JobInfo:
    """Return the first attempt of a job, for a function that runs here."""
    body = job.json(trace=False)
    members = {**body, **body.pop("options", {}), "state": "active", "attempt": 1}
    members = {"id": new_job_id(), "queue": "default", "max_attempts": 1, **members}
    scope: Any = None  # nothing cancels it
    held = HeldJob(members["id"], "", members, 0.0, math.inf, scope=scope)
    return (_LocalRunning if kind is RunningJob else _LocalBlocking)(held)


class _LocalRunning(RunningJob):
    """Progress and checkpoints of a local job have no effect."""

    def __init__(self, held: HeldJob) -> None:
        context: Any = None
        super().__init__(held, context)

    @property
    def client(self) -> NoReturn:
        raise RuntimeError("a local run has no client: open one, or use ojs_client.testing")

    async def progress(self, *args: Any, **data: Any) -> None:
        pass

    async def save_checkpoint(self, state: JSON) -> None:
        pass


class _LocalBlocking(BlockingJob, ProcessJob):
    """The job of a sync task or of one in a child process."""

    def __init__(self, held: HeldJob) -> None:
        context: Any = None
        JobInfo.__init__(self, held, context)

    @property
    def client(self) -> NoReturn:
        raise RuntimeError("a local run has no client: open one, or use ojs_client.testing")

    def progress(self, *args: Any, **data: Any) -> None:
        pass

    def save_checkpoint(self, state: JSON) -> None:
        pass
