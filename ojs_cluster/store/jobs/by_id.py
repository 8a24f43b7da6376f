"""Transitions of one job, found by its id.

The id names a shard. A job whose id a client chose may live elsewhere: the shard that its id
names then holds an alias, and the call is made once more where the alias points. A job that is
prepared to replace another (see ``transactions``) is revealed before anything is done to it.

A failover may have lost the alias. A caller that names its lease is served all the same, because
the lease id says where the job lives; the alias is then written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ojs_cluster.core.errors import Conflict, MalformedJob, NotFound, OJSError
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fetch.lease_ids import shard_of_lease
from ojs_cluster.store.jobs.record import JobRecord, record
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.runtime import Arg


async def on_job(
    store: Store,
    name: str,
    job_id: str,
    shard_keys: Sequence[str],
    args: Sequence[Arg],
    *,
    idempotent: bool = False,
    lease_id: str | None = None,
) -> JobRecord:
    """Run a transition of one job where the job lives.

    Args:
        name: the script; KEYS[1] is the job's hash, then the shard's keys named by ``shard_keys``
            (attributes of ``keys.Shard``). One that serves plain jobs only answers 'any' for
            others; these are for the script called ``name`` and ``_full``.
        lease_id: the caller's lease, if it names one: its shard is asked where the id leads to
            no job of that lease.

    Raises:
        NotFound: there is no such job.
        Conflict: the job's state, or its holder, does not allow the transition; nothing was
            changed.
        MalformedJob: its stored fields cannot be used; nothing was changed.
        BackendUnavailable: Redis did not answer in time.
    """
    reply = await reply_of(
        store, name, job_id, shard_keys, args, idempotent=idempotent, lease_id=lease_id
    )
    return record(job_id, reply[1])


async def reply_of(
    store: Store,
    name: str,
    job_id: str,
    shard_keys: Sequence[str],
    args: Sequence[Arg],
    *,
    idempotent: bool = False,
    lease_id: str | None = None,
) -> list[Any]:
    """As ``on_job``, for scripts whose answer is not a job."""
    if not is_job_id(job_id):
        raise NotFound("job", job_id)
    shard = store.keys.shard_of_id(job_id)
    refused: list[Any] | None = None
    for _ in range(6):
        keys = [shard.job(job_id), *[getattr(shard, key) for key in shard_keys]]
        reply: list[Any] = await store.run(shard, name, keys, args, idempotent=idempotent)
        status = reply[0]
        if status == b"ok":
            if len(reply) > 2 and reply[2]:
                await deliver(store, shard, reply[2])
            if refused is not None:
                with suppress(OJSError):  # the janitor does it, too
                    await restore_alias(store, shard, job_id)
            return reply
        if status == b"full_path":
            name = f"{name}_full"
            continue
        if status == b"moved":
            shard = store.keys.shard(int(reply[1]))
            continue
        if status == b"prepared":
            await store.finish_transaction(store, shard, reply[1])
            continue
        leased_by = shard_of_lease(store.keys, lease_id)
        if refused is not None or leased_by is None or leased_by is shard:
            known = reply if refused is None or status != b"missing" else refused
            raise refusal(job_id, known, shard)
        refused, shard = reply, leased_by
    raise NotFound("job", job_id)


async def restore_alias(store: Store, shard: Shard, job_id: str) -> bool:
    """Let a job's id lead to ``shard``, where the job is, unless it leads to another job.

    Returns whether it leads there now.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    home = store.keys.shard_of_id(job_id)
    args: list[Arg] = [job_id, shard.index, 0, ""]
    reply = await store.run(
        home, "claim_alias", [home.job(job_id), home.alias_claims], args, idempotent=True
    )
    return bool(reply[0] == b"ok")


def refusal(job_id: str, reply: Sequence[Any], shard: Shard) -> OJSError:
    """What a script's answer means that has not made the transition."""
    if reply[0] == b"conflict":
        state = reply[1].decode()
        return Conflict(f"job '{job_id}' is {state}", job_id=job_id, state=state)
    if reply[0] == b"not_holder":
        return Conflict(f"job '{job_id}' is held by another lease", job_id=job_id)
    if reply[0] == b"malformed":
        return MalformedJob(job_id, "fields are missing or not numbers", shard.index)
    return NotFound("job", job_id)
