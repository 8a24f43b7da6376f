"""The last finished jobs of the same type and queue, beside a job."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import msgspec

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.states import State
from ojs_cluster.ui.drawings.type_runs_chart import Run, TypeRunsChart, type_runs_chart
from ojs_cluster.ui.formats import epoch_s
from ojs_cluster.ui.visit import ApiError, Visit

MAX_RUNS: Final = 50
_KEPT_S: Final = 30.0
"""Maximum age of the runs in seconds: to find them among other types may take a tenth of a
second."""


class _Job(msgspec.Struct):
    id: str
    state: str
    attempt: int = 0
    started_at: str = ""
    completed_at: str = ""
    discarded_at: str = ""


class _Listed(msgspec.Struct):
    items: list[_Job]


_decode_listed: Final = msgspec.json.Decoder(_Listed).decode
_decode_runs: Final = msgspec.json.Decoder(list[Run]).decode


async def read_runs(visit: Visit, queue: str, job_type: str) -> TypeRunsChart | None:
    """Return the last finished runs of a type in a queue; None if there is none.

    Viewers share what is read. So the user must be allowed to see the jobs of the queue.

    Args:
        visit: the request.
        queue: the queue of the job that the page shows.
        job_type: its type.
    """
    if visit.principal.tenant is not None:
        return None  # the list has the jobs of all tenants
    neutral = visit.as_any_viewer()
    name = f"type runs {queue} {job_type}"  # a queue has no space in its name
    runs = await visit.snapshots.get(name, lambda: _read(neutral, queue, job_type), _KEPT_S)
    return type_runs_chart(_decode_runs(runs))


async def _read(visit: Visit, queue: str, job_type: str) -> bytes:
    runs: list[Run] = []
    for state in (State.COMPLETED, State.DISCARDED):
        # The page of the job is worth showing without them.
        with suppress(ApiError, OJSError, msgspec.ValidationError):
            filters = {"queue": queue, "type": job_type, "state": state.value}
            listed = await visit.get("admin", "jobs", **filters, per_page=MAX_RUNS)
            runs += map(_run, _decode_listed(listed).items)
    runs.sort(key=lambda run: run.ended_at)
    return msgspec.json.encode(runs[-MAX_RUNS:])


def _run(job: _Job) -> Run:
    ended = job.discarded_at or job.completed_at
    start_s, end_s = epoch_s(job.started_at), epoch_s(ended)
    ran_ms = None if start_s is None or end_s is None else max(0.0, (end_s - start_s) * 1000)
    return Run(job.id, job.state, ended, ran_ms, job.attempt)
