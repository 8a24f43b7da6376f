"""Return the result of a job, and wait for it if the client asks (spec: ojs-results 8)."""

from __future__ import annotations

import trio

from ojs_cluster.core.errors import NotFound, ResultExpired, ResultPending
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http import fields, query
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5


async def get(app: App, request: Request, job_id: str) -> Response:
    """Return the result of a job.

    Without ``wait`` the response for an unfinished job has the state of the job and a null result.
    With ``wait`` the response is delayed until the job is finished, for at most ``timeout``
    seconds.

    (spec: ojs-results 8)

    Raises:
        NotFound: there is no such job.
        ResultExpired: there is no such job, and its id is older than the retention of completed
            jobs.
        ResultPending: the job is not finished at the end of the wait.
    """
    given = query.parameters(request.query)
    wait = query.boolean(given, "wait")
    max_timeout_s = int(app.settings.max_result_wait_s)
    timeout_s = query.integer(given, "timeout", 30, low=0, high=max_timeout_s)
    fields.job_id(job_id)
    try:
        job = await _wait_until_finished(app, job_id, timeout_s if wait else 0)
    except NotFound:
        if _age_ms(job_id, app.store.clock.now_ms()) > app.store.settings.retention_completed_ms:
            raise ResultExpired(
                f"job '{job_id}' and its result have been removed", resource="job", id=job_id
            ) from None
        raise
    if wait and job.state not in TERMINAL:
        raise ResultPending(
            f"job '{job_id}' is still {job.state} after {timeout_s} s", id=job_id, state=job.state
        )
    return Response(200, _body(job))


async def _wait_until_finished(app: App, job_id: str, timeout_s: float) -> JobRecord:
    """Return the job when it is finished, the timeout has passed, or the process drains.

    The job is read again after growing pauses. A published message for each ack was refused,
    because clients wait for few results.
    """
    job = await store_jobs.get(app.store, job_id)
    pause_s = _FIRST_PAUSE_S
    extend_deadline(timeout_s)
    with trio.move_on_after(timeout_s):
        while job.state not in TERMINAL and timeout_s > 0:
            with trio.move_on_after(pause_s):
                await app.draining.wait()
                break
            job = await store_jobs.get(app.store, job_id)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    return job


def _age_ms(job_id: str, now_ms: int) -> int:
    """Return the age of a job id in milliseconds. Its first 48 bits are its time (UUIDv7)."""
    return now_ms - int(job_id[:8] + job_id[9:13], 16)


def _body(job: JobRecord) -> bytes:
    body = b'{"job_id":"%b","id":"%b","state":"%b","result":%b' % (
        job.id.encode(),
        job.id.encode(),
        job.state.value.encode(),
        job.result or b"null",
    )
    errors = job.errors()
    if errors and job.state is not State.COMPLETED:
        body += b',"error":' + errors[-1]
    finished = job.finished_ms
    if finished is not None:
        body += b',"%b":"%b"' % (_TIME_NAMES[job.state], format_ms(finished))
    return body + b"}"


_TIME_NAMES = {
    State.COMPLETED: b"completed_at",
    State.CANCELLED: b"cancelled_at",
    State.DISCARDED: b"discarded_at",
}
