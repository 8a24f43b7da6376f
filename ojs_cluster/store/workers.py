"""Worker records: who lives, who should be quiet, who died (spec: ojs-worker-protocol)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ojs_cluster.core.errors import NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.contacts import contact
from ojs_cluster.store.context import Arg, Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.outbox import deliver

Desired = Literal["running", "quiet", "terminate"]

QUIET_MS = 60 * 60_000
"""How long a quiet mark lasts in a shard; a worker that stays quiet renews it."""
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


@dataclass(frozen=True, slots=True)
class DeadWorker:
    """A worker found dead at ``dead_ms`` whose jobs are still to be recovered."""

    id: str
    dead_ms: int


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

    Raises
    ------
    NotFound: no such worker.
    """
    reply = await contact(store, worker_id, "direct", ["" if directive == "running" else directive])
    if reply[0] == b"missing":
        raise NotFound("worker", worker_id)
    desired = _stricter(reply[2].decode(), reply[1].decode())
    await _keep_marks(store, worker_id, desired, int(reply[3]), int(reply[0]))
    return desired


async def get(store: Store, worker_id: str) -> WorkerInfo:
    """One worker's record.

    Raises
    ------
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

    Parameters
    ----------
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


async def find_dead(
    store: Store, shard: Shard, limit: int
) -> tuple[list[DeadWorker], int | None, int]:
    """Dead workers of a shard to recover jobs from, when the next may die, and now (ms)."""
    reply = await store.run(
        shard, "find_dead", [shard.watched, shard.lost], [limit], idempotent=True
    )
    items = iter(reply[2:])
    dead = [DeadWorker(name.decode(), int(score)) for name, score in zip(items, items, strict=True)]
    return dead, None if reply[1] < 0 else int(reply[1]), int(reply[0])


async def recover(
    store: Store, shard: Shard, worker: DeadWorker, cursor: str = "", limit: int = 500
) -> tuple[int, str | None]:
    """Take a dead worker's jobs of one shard from it; returns how many and where to go on."""
    settings = store.settings
    reply = await store.run(
        shard,
        "recover",
        [
            *(shard.active, shard.running, shard.expiring, shard.due),
            *(shard.finished, shard.dead, shard.events),
        ],
        [
            *(settings.events_per_shard, worker.id, worker.dead_ms, cursor, limit),
            *(settings.errors_kept, settings.retention_discarded_ms),
            *(settings.retention_dead_ms, settings.dead_letter_max),
        ],
        idempotent=True,
    )
    await deliver(store, shard, reply[2])
    return int(reply[0]), reply[1].decode() or None


async def bury(store: Store, shard: Shard, worker: DeadWorker) -> None:
    """All shards are done with a dead worker: it need not be recovered again."""
    await store.run(shard, "bury", [shard.lost], [worker.id, worker.dead_ms], idempotent=True)


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
        await store.run(shard, "quiet", [shard.quiet], args, idempotent=True)

    await over_shards(store.keys, mark)
    # Last, so that a crash before it makes the next heartbeat set the marks again.
    home = store.keys.shard_of_worker(worker_id)
    await store.run(home, "mark_quiet", [home.worker(worker_id)], [int(wanted)], idempotent=True)


def _stricter(reported: str, directive: str) -> Desired:
    ranked = max(reported, directive or "running", key=lambda state: _SEVERITY.get(state, 0))
    if ranked == "terminate":
        return "terminate"
    return "quiet" if ranked == "quiet" else "running"


def _info(worker_id: str, flat: list[Any]) -> WorkerInfo:
    items = iter(flat)
    fields = dict(zip(items, items, strict=True))
    beat = fields.get(b"beat")
    return WorkerInfo(
        id=worker_id,
        state=fields.get(b"state", b"running").decode(),
        directive=fields.get(b"directive", b"").decode(),
        first_ms=int(fields.get(b"first", 0)),
        seen_ms=int(fields.get(b"seen", 0)),
        beat_ms=int(beat) if beat else None,
        active=int(fields.get(b"active", 0)),
        info=fields.get(b"info", b"{}"),
    )
