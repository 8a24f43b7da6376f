"""Heartbeats: leases extended, the worker's record kept (spec: ojs-worker-protocol, BEAT)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Final, Literal

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import own_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.fetch.lease_ids import shard_of_lease
from ojs_cluster.store.jobs.by_id import restore_alias
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.workers.workers import Desired, contact_beat

log = logging.getLogger("ojs.store")

SILENT_S: Final = 1.0
"""How long a heartbeat of several shards waits for one that is known not to answer, in seconds."""

WorkerState = Literal["running", "quiet", "terminate"]


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat.

    Args:
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

    Jobs it does not hold are left out of ``extended``; nothing is created for them. So are jobs of
    shards that do not answer, as long as any shard does: a worker must not lose the leases of the
    others. A state that could not be asked for is the one that the worker reports.

    Raises:
        BackendUnavailable: no shard of its jobs answered in time.
    """
    extension = _Extension(store, beat)
    by_shard: dict[Shard, list[str]] = {}
    for job_id in dict.fromkeys(beat.job_ids):
        if is_job_id(job_id):
            by_shard.setdefault(store.keys.shard_of_id(job_id), []).append(job_id)
    extension.alone = len(by_shard) < 2
    noted: list[tuple[Desired, int]] = []
    failures: list[OJSError] = []

    async def note_contact() -> None:
        home = store.keys.shard_of_worker(beat.worker_id)
        try:
            with trio.move_on_after(_patience_s(store, home) if by_shard else inf):
                noted.append(await _contact(store, beat))
        except OJSError as error:
            failures.append(error)

    await own_task()
    # All at once: a worker must not be taken for dead because a shard of one of its jobs is away.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(note_contact)
        nursery.start_soon(over_shards, by_shard.items(), extension.of_shard)
    if by_shard and extension.now_ms is None:
        raise extension.failure or BackendUnavailable("no shard answered", outcome="unknown")
    if noted:
        return extension.reply(*noted[0])
    if extension.now_ms is None:
        raise failures[0]
    log.warning("heartbeat of worker '%s' could not be noted", beat.worker_id)
    return extension.reply(beat.state or "running", extension.now_ms)


async def _contact(store: Store, beat: Beat) -> tuple[Desired, int]:
    """Note that the worker lives; returns the state it should be in, and the server's ms."""
    return await contact_beat(
        store,
        beat.worker_id,
        state=beat.state or "running",
        active=beat.active_count if beat.active_count is not None else len(beat.job_ids),
        info=beat.info,
    )


class _Extension:
    """The leases of one heartbeat while they are extended, shard by shard.

    Attributes:
        alone: whether all jobs have the same shard: then no other waits for it.
        now_ms: the ms of a shard that answered, None while none has.
        failure: why a shard did not.
    """

    def __init__(self, store: Store, beat: Beat) -> None:
        self._store = store
        self._beat = beat
        self._extended: set[str] = set()
        self._away: set[Shard] = set()
        self.alone = True
        self.now_ms: int | None = None
        self.failure: OJSError | None = None

    def reply(self, desired: Desired, now_ms: int) -> BeatReply:
        """What the worker is told."""
        extended = [job_id for job_id in self._beat.job_ids if job_id in self._extended]
        return BeatReply(desired, extended, now_ms)

    async def of_shard(self, item: tuple[Shard, list[str]]) -> None:
        """Extend jobs whose ids name a shard, there or where they are; note a failure."""
        shard, ids = item
        moved = await self._extend(shard, ids)
        for job_id, target in moved.items():
            await self._extend(target, [job_id])
        for job_id in ids:
            leased_by = shard_of_lease(self._store.keys, self._beat.leases.get(job_id))
            if leased_by is None or leased_by is shard:
                continue
            if job_id in self._extended or job_id in moved:
                continue
            # Its id does not lead to where it lives: a failover has lost the alias, or it is away.
            await self._extend(leased_by, [job_id])
            if job_id in self._extended and shard not in self._away:
                with suppress(OJSError):  # the janitor does it, too
                    await restore_alias(self._store, leased_by, job_id)

    async def _extend(self, shard: Shard, ids: list[str]) -> dict[str, Shard]:
        """Extend jobs in a shard; returns those that their aliases there lead away from it."""
        store = self._store
        patience_s = inf if self.alone else _patience_s(store, shard)
        try:
            with trio.move_on_after(patience_s):
                reply = await store.run(
                    shard,
                    "heartbeat",
                    [shard.active, shard.events, *(shard.job(job_id) for job_id in ids)],
                    _args(store, self._beat, ids),
                    idempotent=True,
                )
                self.now_ms = int(reply[0])
                self._extended.update(job_id.decode() for job_id in reply[1])
                moved = iter(reply[2])
                pairs = zip(moved, moved, strict=True)
                return {raw.decode(): store.keys.shard(int(target)) for raw, target in pairs}
            self.failure = BackendUnavailable("a shard did not answer", outcome="unknown")
        except OJSError as error:
            self.failure = error
        self._away.add(shard)
        return {}


def _patience_s(store: Store, shard: Shard) -> float:
    """How long jobs of other shards wait for this one, in seconds."""
    return inf if store.redis.answers(shard.slot) else SILENT_S


def _args(store: Store, beat: Beat, ids: Sequence[str]) -> list[Arg]:
    args: list[Arg] = [
        store.settings.events_per_shard,
        beat.worker_id,
        beat.visibility_timeout_ms if beat.visibility_timeout_ms is not None else "",
    ]
    for job_id in ids:
        args += (job_id, beat.leases.get(job_id, ""))
    return args
