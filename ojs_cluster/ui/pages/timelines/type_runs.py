"""The last finished jobs of the same type and queue, beside a job."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import msgspec

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.search.last_ended import read_last_ended
from ojs_cluster.ui.drawings.type_runs_chart import Run, TypeRunsChart, type_runs_chart
from ojs_cluster.ui.patience import await_while_healthy
from ojs_cluster.ui.visit import Visit

MAX_RUNS: Final = 50
_KEPT_S: Final = 30.0
"""Maximum age of the runs in seconds: to find them among other types may take a tenth of a
second."""


class _Runs(msgspec.Struct):
    runs: list[Run]
    is_cut: bool


_decode_runs: Final = msgspec.json.Decoder(_Runs).decode


async def read_runs(visit: Visit, queue: str, job_type: str) -> TypeRunsChart | None:
    """Return the last finished runs of a type in a queue; None if none is known.

    Viewers share what is read. So the user must be allowed to see the jobs of the queue.

    Args:
        visit: the request.
        queue: the queue of the job that the page shows.
        job_type: its type.
    """
    if visit.principal.tenant is not None:
        return None  # the list has the jobs of all tenants
    store, snapshots = visit.app.store, visit.snapshots
    name = f"type-runs {queue} {job_type}"  # a queue has no space in its name
    kept: bytes | None = None
    with suppress(OJSError):  # the page of the job is worth showing without them
        kept = await await_while_healthy(
            visit.app,
            lambda: snapshots.get(name, lambda: _read(store, queue, job_type), _KEPT_S),
        )
    if kept is None:
        return None
    known = _decode_runs(kept)
    return type_runs_chart(known.runs, is_cut=known.is_cut)


async def _read(store: Store, queue: str, job_type: str) -> bytes:
    last = await read_last_ended(store, queue, job_type, MAX_RUNS)
    return msgspec.json.encode(_Runs([_run(job) for job in last.jobs], last.is_cut))


def _run(job: JobRecord) -> Run:
    ended_ms, started_ms = job.finished_ms or 0, job.started_ms
    ran_ms = None if started_ms is None else float(max(0, ended_ms - started_ms))
    return Run(job.id, job.state.value, format_ms(ended_ms).decode(), ran_ms, job.attempt)
