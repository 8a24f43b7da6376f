"""Heartbeats: extend leases and update the worker's record (spec: ojs-worker-protocol, BEAT)."""

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
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import restore_alias
from ojs_cluster.store.features.workers.workers import DesiredState, touch_by_heartbeat
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.lease_ids import shard_of_lease
from ojs_cluster.store.ground.runtime import Arg

log = logging.getLogger("ojs.store")

UNREACHABLE_TIMEOUT_S: Final = 1.0
"""How long a heartbeat of several shards waits for an unreachable one, in seconds."""

WorkerState = Literal["running", "quiet", "terminate"]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One heartbeat.

    Args:
        worker_id: the worker that sent it.
        job_ids: active jobs whose leases are extended.
        leases: lease ids by job id, for some of the jobs. Such a job is extended only if it has
            this lease.
        state: the state that the worker reports, normalised; '' when it reports none.
        active_count: number of jobs that the worker reports as running, None when it reports none.
        visibility_timeout_ms: new visibility timeout in ms from now; None for the timeout that each
            job has.
        info: JSON object with all other values that the worker reports (hostname, pid, queues,
            labels).
    """

    worker_id: str
    job_ids: Sequence[str] = ()
    leases: Mapping[str, str] = field(default_factory=dict)
    state: WorkerState | Literal[""] = ""
    active_count: int | None = None
    visibility_timeout_ms: int | None = None
    info: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The answer to a heartbeat.

    Args:
        state: the state that the worker should be in.
        extended: ids of the jobs whose leases were extended.
        cancelled: ids of the jobs that are cancelled.
        now_ms: Unix time in ms of the server's clock.
    """

    state: DesiredState
    extended: list[str]
    cancelled: list[str]
    now_ms: int


async def heartbeat(store: Store, beat: Heartbeat) -> HeartbeatReply:
    """Extend the leases that the worker holds, and record that the worker is alive.

    The reply's ``extended`` does not contain jobs that the worker does not hold. If some shards do
    not answer, it does not contain the jobs of these shards, but the leases in the other shards are
    extended. If the worker's record cannot be read, the reply repeats the state that the worker
    reports.

    Args:
        store: the store.
        beat: the heartbeat.

    Raises:
        BackendUnavailable: no shard of its jobs answered in time.
    """
    extension = _LeaseExtension(store, beat)
    by_shard: dict[Shard, list[str]] = {}
    for job_id in dict.fromkeys(beat.job_ids):
        if is_job_id(job_id):
            by_shard.setdefault(store.keys.shard_of_id(job_id), []).append(job_id)
    extension.single_shard = len(by_shard) < 2
    recorded: list[tuple[DesiredState, int]] = []
    failures: list[OJSError] = []

    async def update_record() -> None:
        owner = store.keys.shard_of_worker(beat.worker_id)
        try:
            with trio.move_on_after(_timeout_s(store, owner) if by_shard else inf):
                recorded.append(await _update_record(store, beat))
        except OJSError as error:
            failures.append(error)

    await ensure_task()
    # Concurrently: an unreachable shard of one job must not make the worker look dead.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(update_record)
        nursery.start_soon(run_concurrently, by_shard.items(), extension.extend_shard)
    if by_shard and extension.now_ms is None:
        raise extension.failure or BackendUnavailable("no shard answered", outcome="unknown")
    if recorded:
        return extension.reply(*recorded[0])
    if extension.now_ms is None:
        raise failures[0]
    log.warning(
        "heartbeat of worker '%s' was not recorded: its shard did not answer", beat.worker_id
    )
    return extension.reply(beat.state or "running", extension.now_ms)


async def _update_record(store: Store, beat: Heartbeat) -> tuple[DesiredState, int]:
    """Update the worker's record; return its desired state and the server's Unix time in ms."""
    return await touch_by_heartbeat(
        store,
        beat.worker_id,
        state=beat.state or "running",
        active=beat.active_count if beat.active_count is not None else len(beat.job_ids),
        info=beat.info,
    )


class _LeaseExtension:
    """The leases of one heartbeat while they are extended, shard by shard.

    Attributes:
        single_shard: whether all jobs are in one shard. Then the heartbeat may wait for this shard
            for as long as the request may take.
        now_ms: Unix time in ms by the clock of a shard that has answered; None while none has.
        failure: the error of a shard that did not answer, None while there is none.
    """

    def __init__(self, store: Store, beat: Heartbeat) -> None:
        self._store = store
        self._beat = beat
        self._extended: set[str] = set()
        self._cancelled: set[str] = set()
        self._unreachable: set[Shard] = set()
        self.single_shard = True
        self.now_ms: int | None = None
        self.failure: OJSError | None = None

    def reply(self, desired: DesiredState, now_ms: int) -> HeartbeatReply:
        """Return the answer to the worker."""
        extended = [job_id for job_id in self._beat.job_ids if job_id in self._extended]
        return HeartbeatReply(desired, extended, sorted(self._cancelled), now_ms)

    async def extend_shard(self, item: tuple[Shard, list[str]]) -> None:
        """Extend jobs in the owner shard of their ids, or in the shards to which aliases point.

        Args:
            item: the shard and the ids.
        """
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
            # The lease id names the job's shard. This finds the job even if a failover has lost the
            # alias, or if the alias cannot be read.
            await self._extend(leased_by, [job_id])
            if job_id in self._extended and shard not in self._unreachable:
                with suppress(OJSError):  # after an error the janitor restores the alias
                    await restore_alias(self._store, leased_by, job_id)

    async def _extend(self, shard: Shard, ids: list[str]) -> dict[str, Shard]:
        """Extend the leases of jobs in one shard.

        Returns:
            For each id with an alias in this shard, the shard to which the alias points.
        """
        moved: dict[str, Shard] = {}
        max_jobs = self._store.webhooks.jobs_per_script("heartbeat", len(ids))
        for start in range(0, len(ids), max_jobs):
            moved |= await self._extend_portion(shard, ids[start : start + max_jobs])
        return moved

    async def _extend_portion(self, shard: Shard, ids: list[str]) -> dict[str, Shard]:
        store = self._store
        timeout_s = inf if self.single_shard else _timeout_s(store, shard)
        try:
            with trio.move_on_after(timeout_s):
                reply = await store.run(
                    shard,
                    "heartbeat",
                    [shard.active, shard.events, *(shard.job(job_id) for job_id in ids)],
                    _args(store, self._beat, ids),
                    idempotent=True,
                )
                self.now_ms = int(reply[0])
                self._extended.update(job_id.decode() for job_id in reply[1])
                self._cancelled.update(job_id.decode() for job_id in reply[3])
                moved = iter(reply[2])
                pairs = zip(moved, moved, strict=True)
                return {raw.decode(): store.keys.shard(int(target)) for raw, target in pairs}
            self.failure = BackendUnavailable("a shard did not answer", outcome="unknown")
        except OJSError as error:
            self.failure = error
        self._unreachable.add(shard)
        return {}


def _timeout_s(store: Store, shard: Shard) -> float:
    """Return how long a heartbeat waits for one of several shards, in seconds."""
    return inf if store.redis.is_responsive(shard.slot) else UNREACHABLE_TIMEOUT_S


def _args(store: Store, beat: Heartbeat, ids: Sequence[str]) -> list[Arg]:
    args: list[Arg] = [
        store.events_arg,
        beat.worker_id,
        beat.visibility_timeout_ms if beat.visibility_timeout_ms is not None else "",
    ]
    for job_id in ids:
        args += (job_id, beat.leases.get(job_id, ""))
    return args
