"""Checkpoints: what a further attempt of a job continues from (spec: ojs-durable-execution).

A checkpoint has a key of its own in the shard of its job. A field of the job says that there is
one. So a fetch, an ack or a removal of a job without a checkpoint needs no further command.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from ojs_cluster.core.errors import NotFound, PayloadTooLarge
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.keys import Shard
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import run_for_reply
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.lease_ids import shard_of_lease

log = logging.getLogger("ojs.store")

MAX_BYTES: Final = 1024 * 1024
"""Maximum size of a checkpoint in bytes (spec: ojs-durable-execution 9.1)."""
_NUMBER = re.compile(rb"\d{1,14}")
"""A stored sequence or time; a value of another form is damaged."""


class Checkpoint(msgspec.Struct, frozen=True):
    """A stored checkpoint.

    Args:
        job_id: the job.
        state: JSON as the worker sent it; empty in the result of a save.
        sequence: the number of this checkpoint of the job, from 1.
        created_ms: when it was stored, in Unix milliseconds.
        more: further JSON members as the worker sent them, without braces.
    """

    job_id: str
    state: bytes
    sequence: int
    created_ms: int
    more: bytes = b""

    def members(self) -> bytes:
        """Return its members as JSON, without braces."""
        members = b'"job_id":"%b","sequence":%d,"created_at":"%b"' % (
            self.job_id.encode(),
            self.sequence,
            format_ms(self.created_ms),
        )
        if self.state:
            members += b',"state":' + self.state
        return members + b"," + self.more if self.more else members


async def save(
    store: Store,
    job_id: str,
    state: bytes,
    *,
    more: bytes = b"",
    worker_id: str | None,
    lease_id: str | None,
) -> Checkpoint:
    """Store a checkpoint in place of the one before.

    Args:
        store: the store.
        job_id: the job, which is available, active or retryable.
        state: any JSON value.
        more: further JSON members, without braces.
        worker_id: the caller's worker id, None when it names none.
        lease_id: the caller's lease id, None when it names none.

    Returns:
        The checkpoint without its state.

    Raises:
        NotFound: no such job.
        Conflict: the job's state allows no checkpoint, or another lease holds it.
        PayloadTooLarge: the checkpoint is over the limit.
        MalformedJob: the job's stored fields are malformed.
        BackendUnavailable: Redis did not answer in time, or is full.
    """
    size = len(state) + len(more)
    if size > MAX_BYTES:
        raise PayloadTooLarge(
            f"the checkpoint has {size} bytes, the limit is {MAX_BYTES} bytes",
            field="state",
            limit=MAX_BYTES,
        )
    reply = await run_for_reply(
        store,
        "checkpoint_save",
        job_id,
        ("events",),
        [store.events_arg, worker_id or "", lease_id or "", state, more],
        lease_id=lease_id,
    )
    sequence, created_ms = reply[1]
    return Checkpoint(job_id, b"", int(sequence), int(created_ms), more)


async def read_checkpoint(store: Store, job_id: str) -> Checkpoint | None:
    """Return the checkpoint of a job, None if the job has none.

    Raises:
        NotFound: no such job.
        MalformedJob: the job's stored fields are malformed.
        BackendUnavailable: Redis did not answer in time.
    """
    reply = await run_for_reply(store, "checkpoint_read", job_id, (), [], idempotent=True)
    return _parse(job_id, reply[1])


async def delete(store: Store, job_id: str) -> None:
    """Delete the checkpoint of a job, if it has one.

    Raises:
        NotFound: no such job.
        MalformedJob: the job's stored fields are malformed.
        BackendUnavailable: Redis did not answer in time.
    """
    await run_for_reply(store, "checkpoint_delete", job_id, (), [], idempotent=True)


async def read_of_fetched(store: Store, jobs: Iterable[JobRecord]) -> dict[str, Checkpoint]:
    """Return the checkpoints of jobs that a fetch has leased, by job id.

    A checkpoint whose key has a wrong type is left out, as one with damaged numbers. Otherwise the
    job would stay first in its queue, and no fetch of the queue would succeed.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: dict[str, Checkpoint] = {}

    async def read(item: tuple[Shard, str]) -> None:
        shard, job_id = item
        keys = [shard.job(job_id)]
        try:
            reply = await store.run(shard, "checkpoint_read", keys, [], idempotent=True)
        except RedisReplyError as error:
            if error.code != "WRONGTYPE":
                raise
            log.warning("the checkpoint of job %s is damaged: %s", job_id, error)
            return
        checkpoint = _parse(job_id, reply[1]) if reply[0] == b"ok" else None
        if checkpoint is not None:
            found[job_id] = checkpoint

    with_checkpoint: list[tuple[Shard, str]] = []
    for job in jobs:
        shard = shard_of_lease(store.keys, job.lease_id)
        if shard is not None and job.fields.get(f.CHECKPOINT):
            with_checkpoint.append((shard, job.id))
    await run_concurrently(with_checkpoint, read)
    return found


def _parse(job_id: str, stored: list[bytes]) -> Checkpoint | None:
    """Return a stored checkpoint, None if there is none or its numbers are damaged."""
    if not stored:
        return None
    state, more, sequence, created = stored
    if not (_NUMBER.fullmatch(sequence) and _NUMBER.fullmatch(created)):
        return None
    return Checkpoint(job_id, state, int(sequence), int(created), more)


def missing(job_id: str) -> NotFound:
    """Return the error for a job without a checkpoint."""
    return NotFound("checkpoint", job_id, f"job '{job_id}' has no checkpoint")
