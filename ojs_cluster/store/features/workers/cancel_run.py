"""Cancel the run of an active job: its attempt fails, and its retry policy decides what follows."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from ojs_cluster.core.errors import Conflict, OJSError
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.worker_messages import cancel_message
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.nack import nack
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.lease_ids import first_shard

_ERROR: Final = (
    b'{"code":"run_cancelled","type":"run_cancelled",'
    b'"message":"an operator has cancelled this run","retryable":true}'
)


async def cancel_run(store: Store, job_id: str) -> JobRecord:
    """End the current attempt of a job as failed, and tell its worker.

    The lease ends at once. A heartbeat that waits gets the news, otherwise the worker learns it
    from its next heartbeat. The retry policy may name ``run_cancelled`` like any other error.

    Args:
        store: the store.
        job_id: the job.

    Returns:
        The job after the transition.

    Raises:
        NotFound: no such job.
        Conflict: the job is not active, or its run has just ended.
        BackendUnavailable: Redis did not answer in time.
    """
    job = await read_jobs.get(store, job_id)
    if job.state is not State.ACTIVE:
        raise Conflict(f"the job is {job.state}, so there is no run to cancel", state=job.state)
    failure = parse_failure(_ERROR)
    ended = await nack(
        store, job.id, worker_id=job.worker_id, lease_id=job.lease_id, failure=failure
    )
    if job.worker_id:
        shard = first_shard(store.keys, store.keys.shard_of_id(job.id), job.lease_id)
        message = cancel_message(job.id, job.worker_id)
        with suppress(OJSError):  # the worker learns it from its next heartbeat
            await store.redis.call(
                shard.slot, "SPUBLISH", shard.wake_channel, message, idempotent=True
            )
    return ended
