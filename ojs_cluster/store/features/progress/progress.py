"""Store what a worker reports about an active job (spec: ojs-progress)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson

from ojs_cluster.core.errors import PayloadTooLarge
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import run_on_job
from ojs_cluster.store.engine.jobs.record import JobRecord

MAX_BYTES: Final = 16 * 1024
"""Maximum size in bytes of a report's message and data together. The spec recommends 4 KiB."""
_MAX_EVENT_MESSAGE: Final = 200
"""Maximum number of characters of a message in an event.

The event stream is bounded by its number of entries, so long messages would use much memory."""


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's report about the progress of a job.

    Args:
        value: the progress from 0 to 1, values outside are clamped; None keeps the last value.
        message: a text for people, '' for none.
        data: a JSON object, empty for none.
    """

    value: float | None
    message: str = ""
    data: bytes = b""


async def report_progress(
    store: Store, job_id: str, report: Report, *, worker_id: str | None, lease_id: str | None
) -> JobRecord:
    """Store the progress of an active job, and extend its lease like a heartbeat.

    A report about a job in another state changes nothing. Within an attempt the progress does not
    fall: a report with a lower value only extends the lease.

    Args:
        store: the store.
        job_id: the job.
        report: what its worker reports.
        worker_id: the caller's worker id, None when it names none.
        lease_id: the caller's lease id, None when it names none.

    Returns:
        A record that has only the state and the progress of the job.

    Raises:
        NotFound: no such job.
        Conflict: the job is held by another lease.
        PayloadTooLarge: the message and the data have more than ``MAX_BYTES`` bytes.
        MalformedJob: the job's stored fields are malformed.
        BackendUnavailable: Redis did not answer in time.
    """
    parts = []
    if report.message:
        parts.append(b'"message":' + orjson.dumps(report.message))
    if report.data:
        parts.append(b'"data":' + report.data)
    data = b"{%b}" % b",".join(parts) if parts else b""
    if len(data) > MAX_BYTES:
        raise PayloadTooLarge(
            f"message and data have {len(data)} bytes, the limit is {MAX_BYTES} bytes",
            field="data",
            limit=MAX_BYTES,
        )
    value = "" if report.value is None else repr(min(1.0, max(0.0, float(report.value))))
    return await run_on_job(
        store,
        "progress",
        job_id,
        ("active", "events"),
        [
            store.events_arg,
            worker_id or "",
            lease_id or "",
            value,
            data,
            report.message[:_MAX_EVENT_MESSAGE],
        ],
        idempotent=True,
        lease_id=lease_id,
    )
