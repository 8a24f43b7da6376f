"""List the failed attempts of a job, as ojs-cli shows them."""

from __future__ import annotations

import orjson

from ojs_cluster.core.durations import format_duration
from ojs_cluster.core.jobs.retry import DEFAULT_RETRY
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes.jobs import BackoffPolicy, FailedAttempt, Retries
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground import job_fields as f


async def list_retries(app: App, _request: Request, job_id: str) -> Response:
    """Return the failed attempts that the job keeps, oldest first, and its retry policy."""
    job = await store_jobs.get(app.store, fields.job_id(job_id))
    retries = [_retry(error) for error in job.errors()]
    if retries and job.state is State.RETRYABLE and job.due_ms is not None:
        retries[-1]["next_retry_at"] = replies.iso(job.due_ms)
    if retries and job.started_ms is not None and retries[-1]["attempt"] == job.attempt:
        retries[-1]["started_at"] = replies.iso(job.started_ms)
    return replies.json_response(
        200,
        Retries(
            job_id=job.id,
            state=job.state,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            retries=retries,
            policy=_policy(job),
        ),
    )


def _retry(error: bytes) -> FailedAttempt:
    """Return a failed attempt; ``error`` is its message, which the command line client shows."""
    try:
        found = orjson.loads(error)
    except orjson.JSONDecodeError:
        found = {}
    message = found.get("message")
    return {
        "attempt": found.get("attempt"),
        "state": "failed",
        "error": message if isinstance(message, str) else "",
        "code": found.get("code"),
        "type": found.get("type"),
        "failed_at": found.get("occurred_at"),
    }


def _policy(job: JobRecord) -> BackoffPolicy:
    """Return the retry policy of a job. The scripts also use the default for a malformed policy."""
    strategy, initial_ms, max_ms = (
        DEFAULT_RETRY.strategy,
        DEFAULT_RETRY.initial_ms,
        DEFAULT_RETRY.max_ms,
    )
    # The parts are strategy, initial interval (ms), coefficient, maximum interval (ms), jitter.
    parts = job.fields.get(f.RETRY, b"").decode(errors="replace").split(":")
    if len(parts) == 5 and parts[1].isdecimal() and parts[3].isdecimal():
        strategy, initial_ms, max_ms = parts[0], int(parts[1]), int(parts[3])
    return {
        "max_attempts": job.max_attempts,
        "backoff_strategy": strategy,
        "initial_interval": format_duration(initial_ms),
        "max_interval": format_duration(max_ms),
    }
