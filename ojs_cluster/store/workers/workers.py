"""Worker records: who lives, who should be quiet, who died (spec: ojs-worker-protocol)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from ojs_cluster.core.errors import NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import extend
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs.nack import WALKED
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.partial_failures import begun
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.workers.touch import contact

Desired = Literal["running", "quiet", "terminate"]
Standing = Literal["running", "quiet", "terminate", "stale"]
"""What is to be thought of a worker: what it does or was told to do, or that nobody knows."""

QUIET_MS = 60 * 60_000
"""How long a quiet mark lasts in a shard; a worker that stays quiet renews it."""
_SUMMED = 2000
"""Workers of a shard that a summary looks at: 2 ms of a Redis that does nothing else meanwhile."""
DIRECT_S = 20.0
"""Directing all workers stops after this long and says how far it came."""
_MISSED_BEATS = 3
_SEVERITY: dict[str, int] = {"running": 0, "quiet": 1, "terminate": 2}


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker's record. Times in ms; ``info`` is the JSON object it sent of itself."""

    id: str
    state: str
    directive: str
    first_ms: int
    seen_ms: int
    beat_ms: int | None
    active: int
    info: bytes

    def stale(self, store: Store, now_ms: int) -> bool:
        """Whether it sent heartbeats once, and has missed three."""
        return _stale(store, self.beat_ms, self.seen_ms, now_ms)

    def standing(self, store: Store, now_ms: int) -> Standing:
        """Where it stands."""
        return "stale" if self.stale(store, now_ms) else _stricter(self.state, self.directive)


@dataclass(frozen=True, slots=True)
class DeadWorker:
    """A worker found dead at ``dead_ms`` whose jobs are still to be recovered.

    ``terminated``: its last heartbeat said that it terminates: only jobs that it left are a loss.
    ``died_s``: the same moment by this process's monotonic clock, or a little before; None when
    that is not known.
    """

    id: str
    dead_ms: int
    terminated: bool = False
    died_s: float | None = field(default=None, compare=False)

    @property
    def ago_ms(self) -> int | None:
        """How long ago it died, None when that is not known."""
        if self.died_s is None:
            return None
        return max(0, round((trio.current_time() - self.died_s) * 1000))


async def contact_beat(
    store: Store, worker_id: str, *, state: str, active: int, info: bytes
) -> tuple[Desired, int]:
    """Note a heartbeat; returns the state the worker should be in, and the server's ms.

    A worker that is to fetch no more is marked in every shard, where fetch reads the mark inside
    its pop. The marks are set before this returns: the next fetch, by whichever node, sees them.
    """
    now, directive, _, marked = await contact(store, worker_id, "beat", [state, active, info])
    desired = _stricter(state, directive.decode())
    await _keep_marks(store, worker_id, desired, int(marked), int(now))
    return desired, int(now)


async def direct(store: Store, worker_id: str, directive: Desired) -> Desired:
    """Tell a worker, at its next heartbeat, to be quiet or to terminate; 'running' takes it back.

    Raises:
        NotFound: no such worker.
    """
    reply = await contact(store, worker_id, "direct", ["" if directive == "running" else directive])
    if reply[0] == b"missing":
        raise NotFound("worker", worker_id)
    desired = _stricter(reply[2].decode(), reply[1].decode())
    with begun():
        await _keep_marks(store, worker_id, desired, int(reply[3]), int(reply[0]))
    return desired


async def direct_all(store: Store, directive: Desired) -> tuple[int, int]:
    """Direct every worker that is known; returns how many were told, and how many are left.

    Raises:
        BackendUnavailable: Redis did not answer in time; who was told has been told.
    """
    told = left = 0
    extend(DIRECT_S)
    deadline = trio.current_time() + DIRECT_S

    async def tell(name: bytes) -> None:
        nonlocal told, left
        if trio.current_time() >= deadline:
            left += 1
            return
        with suppress(NotFound):
            await direct(store, name.decode(), directive)
            told += 1

    for shard in store.keys:
        with begun(when=told > 0):
            names: Any = await store.redis.call(
                shard.slot, "ZRANGE", shard.workers, 0, -1, idempotent=True
            )
            with begun(when=len(names) > 1):
                await over_shards(names, tell)
    return told, left


async def get(store: Store, worker_id: str) -> WorkerInfo:
    """One worker's record.

    Raises:
        NotFound: no such worker, or silent for longer than its record is kept.
    """
    shard = store.keys.shard_of_worker(worker_id)
    flat = await store.redis.call(shard.slot, "HGETALL", shard.worker(worker_id), idempotent=True)
    if not isinstance(flat, list) or not flat:
        raise NotFound("worker", worker_id)
    return _info(worker_id, flat)


async def list_workers(
    store: Store, *, limit: int, offset: int = 0
) -> tuple[list[WorkerInfo], int]:
    """Workers, latest contact first, and how many there are.

    Args:
        limit, offset: a page; the work is bounded by their sum times the number of shards.
    """
    newest: list[tuple[int, str]] = []
    total = 0

    async def read(shard: Shard) -> None:
        nonlocal total
        records: Any = await store.redis.call(shard.slot, "ZCARD", shard.workers, idempotent=True)
        total += records
        flat: Any = await store.redis.call(
            shard.slot,
            *("ZREVRANGE", shard.workers, 0, offset + limit - 1, "WITHSCORES"),
            idempotent=True,
        )
        items = iter(flat)
        newest.extend(
            (int(float(score)), name.decode()) for name, score in zip(items, items, strict=True)
        )

    await over_shards(store.keys, read)
    newest.sort(reverse=True)
    found = []
    for _, worker_id in newest[offset : offset + limit]:
        try:
            found.append(await get(store, worker_id))
        except NotFound:
            continue
    return found, total


async def summary(store: Store) -> tuple[dict[Standing, int], int]:
    """How many workers stand where, and how many there are.

    Of each shard the ``_SUMMED`` heard of last are looked at.
    """
    counts: dict[Standing, int] = {"running": 0, "quiet": 0, "terminate": 0, "stale": 0}
    total = 0

    async def look(shard: Shard) -> None:
        nonlocal total
        now, here, *said = await store.run(
            shard, "worker_states", [shard.workers], [_SUMMED], idempotent=True
        )
        total += here
        items = iter(said)
        for seen, beat, state, directive in zip(items, items, items, items, strict=True):
            if _stale(store, _optional(beat), int(seen), now):
                counts["stale"] += 1
            else:
                counts[_stricter(state.decode(), directive.decode())] += 1

    await over_shards(store.keys, look)
    return counts, total


async def find_dead(
    store: Store, shard: Shard, limit: int, skip: int = 0
) -> tuple[list[DeadWorker], int | None, int]:
    """Dead workers of a shard to recover jobs from, when the next may die, and now (ms).

    Args:
        skip: how many of those that died first are left out.
    """
    began = trio.current_time()
    floor_ms = _MISSED_BEATS * store.settings.heartbeat_interval_ms
    keys = [shard.watched, shard.lost_workers, shard.last_worker_check]
    reply = await store.run(shard, "find_dead", keys, [limit, floor_ms, skip], idempotent=True)
    now_ms, items = int(reply[0]), iter(reply[2:])
    dead = [
        DeadWorker(
            name.decode(), int(score), bool(terminated), began - (now_ms - int(score)) / 1000
        )
        for name, score, terminated in zip(items, items, items, strict=True)
    ]
    return dead, None if reply[1] < 0 else int(reply[1]), now_ms


async def recover(
    store: Store,
    shard: Shard,
    dead: Sequence[DeadWorker],
    cursor: str = "",
    limit: int = WALKED,
) -> tuple[Counter[str], str | None]:
    """Take dead workers' jobs of one shard from them, by one walk for all.

    The masters of the worker's record and of its jobs may differ in their clocks. So the script is
    told how long ago each worker died, too, and a job is taken only if by both accounts it was not
    taken up, or extended, since then.

    Args:
        cursor: where to go on; '' begins. limit: active jobs to walk through, whoever holds them.

    Returns how many jobs of each worker were recovered, and the next cursor.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    settings = store.settings
    following, owed, *recovered = await store.run(
        shard,
        "recover",
        [
            *(shard.active, shard.execution_deadlines, shard.expiring, shard.due),
            *(shard.finished, shard.dead, shard.events),
        ],
        [
            *(settings.events_per_shard, cursor, limit),
            *(settings.errors_kept, settings.retention_discarded_ms),
            *(settings.retention_dead_ms, settings.dead_letter_max),
            *(arg for worker in dead for arg in _death(worker)),
        ],
        idempotent=True,
    )
    await deliver(store, shard, owed)
    return Counter(name.decode() for name in recovered), following.decode() or None


def _death(worker: DeadWorker) -> tuple[Arg, Arg, Arg]:
    ago = worker.ago_ms
    return worker.id, worker.dead_ms, "" if ago is None else ago


async def bury(store: Store, shard: Shard, worker: DeadWorker) -> None:
    """All shards are done with a dead worker: it need not be recovered again."""
    await store.run(
        shard, "finish_recovery", [shard.lost_workers], [worker.id, worker.dead_ms], idempotent=True
    )


async def _keep_marks(
    store: Store, worker_id: str, desired: Desired, marked_ms: int, now_ms: int
) -> None:
    wanted = desired != "running"
    # A mark must not outlive the record that knows of it, or nobody would take it back.
    lasts_ms = min(QUIET_MS, store.settings.worker_retention_ms)
    if wanted == bool(marked_ms) and not (wanted and now_ms - marked_ms > lasts_ms // 3):
        return

    async def mark(shard: Shard) -> None:
        args: list[Arg] = [worker_id, lasts_ms if wanted else 0]
        await store.run(shard, "quiet", [shard.quiet_workers], args, idempotent=True)

    await over_shards(store.keys, mark)
    # Last, so that a crash before it makes the next heartbeat set the marks again.
    home = store.keys.shard_of_worker(worker_id)
    await store.run(home, "record_quiet", [home.worker(worker_id)], [int(wanted)], idempotent=True)


def _stricter(reported: str, directive: str) -> Desired:
    ranked = max(reported, directive or "running", key=lambda state: _SEVERITY.get(state, 0))
    if ranked == "terminate":
        return "terminate"
    return "quiet" if ranked == "quiet" else "running"


def _stale(store: Store, beat_ms: int | None, seen_ms: int, now_ms: int) -> bool:
    if beat_ms is None:
        return False
    silent_ms = now_ms - max(beat_ms, seen_ms)
    return silent_ms > _MISSED_BEATS * store.settings.heartbeat_interval_ms


def _optional(ms: bytes | None) -> int | None:
    return int(ms) if ms else None


def _info(worker_id: str, flat: list[Any]) -> WorkerInfo:
    items = iter(flat)
    fields = dict(zip(items, items, strict=True))
    return WorkerInfo(
        id=worker_id,
        state=fields.get(b"state", b"running").decode(),
        directive=fields.get(b"directive", b"").decode(),
        first_ms=int(fields.get(b"first", 0)),
        seen_ms=int(fields.get(b"seen", 0)),
        beat_ms=_optional(fields.get(b"beat")),
        active=int(fields.get(b"active", 0)),
        info=fields.get(b"info", b"{}"),
    )
