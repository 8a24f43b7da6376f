"""Heartbeats: leases extended, the worker's record kept (spec: ojs-worker-protocol, BEAT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.ids import is_job_id
from ojs_cluster.keys import Shard
from ojs_cluster.store.by_id import restore_alias
from ojs_cluster.store.context import Arg, Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.lease_ids import shard_of_lease
from ojs_cluster.store.workers import Desired, contact_beat

WorkerState = Literal["running", "quiet", "terminate"]


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat.

    Parameters
    ----------
    job_ids: active jobs to extend.
    leases: lease ids of some of them; a job named here is extended only for that lease.
    state: the state the worker reports, normalised; '' when it does not.
    active_count: how many jobs it says it runs.
    visibility_timeout_ms: new lease length from now; None for each job's own.
    info: JSON object of what else it says of itself (hostname, pid, queues, labels).
    """

    worker_id: str
    job_ids: Sequence[str] = ()
    leases: Mapping[str, str] = field(default_factory=dict)
    state: WorkerState | Literal[""] = ""
    active_count: int | None = None
    visibility_timeout_ms: int | None = None
    info: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class BeatReply:
    """What the worker is told: the state it should be in, the jobs extended, the server's ms."""

    state: Desired
    extended: list[str]
    now_ms: int


async def heartbeat(store: Store, beat: Beat) -> BeatReply:
    """Extend the leases that the worker holds, and note that it lives.

    Jobs it does not hold are left out of ``extended``; nothing is created for them. A shard that
    does not answer fails the call when all else is done.

    Raises
    ------
    BackendUnavailable: Redis did not answer in time.
    """
    extended: set[str] = set()

    async def extend(shard: Shard, ids: list[str], hops: int) -> None:
        reply = await store.run(
            shard,
            "heartbeat",
            [shard.active, shard.events, *(shard.job(job_id) for job_id in ids)],
            _args(store, beat, ids),
            idempotent=True,
        )
        extended.update(job_id.decode() for job_id in reply[1])
        moved = iter(reply[2])
        elsewhere: set[str] = set()
        for raw, target in zip(moved, moved, strict=True):
            elsewhere.add(raw.decode())
            if hops:
                await extend(store.keys.shard(int(target)), [raw.decode()], hops - 1)
        for job_id in ids if hops else ():
            leased_by = shard_of_lease(store.keys, beat.leases.get(job_id))
            if leased_by is None or leased_by is shard or job_id in extended | elsewhere:
                continue
            # Its id does not lead to where it lives: a failover has lost the alias.
            await extend(leased_by, [job_id], 0)
            if job_id in extended:
                with suppress(OJSError):  # the janitor does it, too
                    await restore_alias(store, leased_by, job_id)

    by_shard: dict[Shard, list[str]] = {}
    for job_id in dict.fromkeys(beat.job_ids):
        if is_job_id(job_id):
            by_shard.setdefault(store.keys.shard_of_id(job_id), []).append(job_id)

    failures: list[OJSError] = []
    desired: Desired = "running"
    now_ms = 0

    async def extend_first(shard: Shard) -> None:
        try:
            await extend(shard, by_shard[shard], hops=1)
        except OJSError as error:
            failures.append(error)

    async def note_contact() -> None:
        nonlocal desired, now_ms
        try:
            desired, now_ms = await contact_beat(
                store,
                beat.worker_id,
                state=beat.state or "running",
                active=beat.active_count if beat.active_count is not None else len(beat.job_ids),
                info=beat.info,
            )
        except OJSError as error:
            failures.append(error)

    # All at once: a worker must not be taken for dead because a shard of one of its jobs is away.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(note_contact)
        nursery.start_soon(over_shards, by_shard, extend_first)
    if failures:
        raise failures[0]
    return BeatReply(desired, [job_id for job_id in beat.job_ids if job_id in extended], now_ms)


def _args(store: Store, beat: Beat, ids: Sequence[str]) -> list[Arg]:
    args: list[Arg] = [
        store.settings.events_per_shard,
        beat.worker_id,
        beat.visibility_timeout_ms if beat.visibility_timeout_ms is not None else "",
    ]
    for job_id in ids:
        args += (job_id, beat.leases.get(job_id, ""))
    return args
