"""Worker records, directives and the recovery of dead workers (spec: ojs-worker-protocol)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from ojs_cluster.core import raw_json
from ojs_cluster.core.errors import NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.worker_messages import directive_message
from ojs_cluster.store.engine.jobs.isolation_flags import end_lost
from ojs_cluster.store.engine.jobs.nack import JOBS_PER_WALK
from ojs_cluster.store.engine.jobs.validate_job import read_number
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.process_state.touch import MISSED_HEARTBEATS, touch_worker
from ojs_cluster.store.ground.runtime import Arg

DesiredState = Literal["running", "quiet", "terminate"]
WorkerStatus = Literal["running", "quiet", "terminate", "stale"]
"""The stricter of the reported state and the directive; ``stale`` after three missed heartbeats."""

QUIET_FLAG_MS = 60 * 60_000
"""Time in ms for which a quiet flag is valid. The heartbeats of a quiet worker renew its flags."""
_MAX_COUNTED_PER_SHARD = 2000
"""Maximum number of workers of a shard that a summary reads. Reading so many blocks the
master for 2 ms."""
DIRECTIVE_DEADLINE_S = 20.0
"""Time limit in seconds for sending a directive to all workers."""
_LATEST_MS = 253_402_300_800_000
"""The year 10000 in Unix milliseconds. No response can show a later time."""
_SEVERITY: dict[str, int] = {"running": 0, "quiet": 1, "terminate": 2}


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker's record.

    Args:
        id: the worker's id.
        state: the state that it last reported.
        directive: the state that an operator asked for; '' for none.
        first_seen_ms: Unix time in ms of its first heartbeat or fetch.
        last_seen_ms: Unix time in ms of its last heartbeat or recorded fetch.
        last_heartbeat_ms: Unix time in ms of its last heartbeat; None when it never sent one.
        active: number of jobs that it reported as running.
        info: the JSON object that it sent about itself.
    """

    id: str
    state: str
    directive: str
    first_seen_ms: int
    last_seen_ms: int
    last_heartbeat_ms: int | None
    active: int
    info: bytes

    def stale(self, store: Store, now_ms: int) -> bool:
        """Return whether the worker has sent heartbeats and then missed three."""
        return _stale(store, self.last_heartbeat_ms, self.last_seen_ms, now_ms)

    def status(self, store: Store, now_ms: int) -> WorkerStatus:
        """Return the worker's status at ``now_ms``, a Unix time in ms."""
        return "stale" if self.stale(store, now_ms) else _stricter(self.state, self.directive)


@dataclass(frozen=True, slots=True)
class DeadWorker:
    """A dead worker whose jobs are still to be recovered.

    Args:
        id: the worker's id.
        dead_ms: Unix time in ms when it was found dead, by the clock of its record's master.
        terminated: whether its last heartbeat announced its end. Then its death is logged only if
            it still held jobs.
        dead_s: the same time in seconds of this process's monotonic clock; None when unknown. It is
            too early by at most the duration of the call that found the worker.
    """

    id: str
    dead_ms: int
    terminated: bool = False
    dead_s: float | None = field(default=None, compare=False)

    @property
    def dead_for_ms(self) -> int | None:
        """Time since the worker's death in ms, None when unknown."""
        if self.dead_s is None:
            return None
        return max(0, round((trio.current_time() - self.dead_s) * 1000))


async def touch_by_heartbeat(
    store: Store, worker_id: str, *, state: str, active: int, info: bytes
) -> tuple[DesiredState, int]:
    """Record a heartbeat; return the worker's desired state, and the server's Unix time in ms.

    A worker that must not fetch gets a quiet flag in every shard, which the fetch scripts read. The
    flags are set before this function returns, so they apply to the next fetch.

    Args:
        store: the store.
        worker_id: the worker.
        state: the state that it reports.
        active: number of jobs that it reports as running.
        info: the JSON object that it sent about itself.
    """
    now, directive, _, flags_set_ms = await touch_worker(
        store, worker_id, "heartbeat", [state, active, info]
    )
    desired = _stricter(state, directive.decode())
    await _update_quiet_flags(store, worker_id, desired, int(flags_set_ms), int(now))
    return desired, int(now)


async def send_directive(store: Store, worker_id: str, directive: DesiredState) -> DesiredState:
    """Store a directive for a worker. The reply to its next heartbeat has the directive.

    A heartbeat that waits is answered at once.

    Args:
        store: the store.
        worker_id: the worker.
        directive: ``running`` removes an earlier directive.

    Returns:
        The worker's desired state.

    Raises:
        NotFound: no such worker.
    """
    reply = await touch_worker(
        store, worker_id, "directive", ["" if directive == "running" else directive]
    )
    if reply[0] == b"missing":
        raise NotFound("worker", worker_id)
    desired = _stricter(reply[2].decode(), reply[1].decode())
    with after_first_write():
        await _update_quiet_flags(store, worker_id, desired, int(reply[3]), int(reply[0]))
        shard = store.keys.shard_of_worker(worker_id)
        message = directive_message(worker_id)
        await store.redis.call(shard.slot, "SPUBLISH", shard.wake_channel, message, idempotent=True)
    return desired


async def send_directive_to_all(store: Store, directive: DesiredState) -> tuple[int, int]:
    """Send a directive to every known worker.

    Args:
        store: the store.
        directive: the state that each worker must reach, as in ``send_directive``.

    Returns:
        How many workers have the directive, and how many were not reached before the deadline.

    Raises:
        BackendUnavailable: Redis did not answer in time. Some workers may have the directive.
    """
    sent = not_reached = 0
    extend_deadline(DIRECTIVE_DEADLINE_S)
    deadline = trio.current_time() + DIRECTIVE_DEADLINE_S

    async def send(name: bytes) -> None:
        nonlocal sent, not_reached
        if trio.current_time() >= deadline:
            not_reached += 1
            return
        with suppress(NotFound):
            await send_directive(store, name.decode(), directive)
            sent += 1

    for shard in store.keys:
        with after_first_write(when=sent > 0):
            names: Any = await store.redis.call(
                shard.slot, "ZRANGE", shard.workers, 0, -1, idempotent=True
            )
            with after_first_write(when=len(names) > 1):
                await run_concurrently(names, send)
    return sent, not_reached


async def get(store: Store, worker_id: str) -> WorkerInfo:
    """Return one worker's record.

    Raises:
        NotFound: no such worker, or it was silent for longer than its record is kept.
    """
    shard = store.keys.shard_of_worker(worker_id)
    flat = await store.redis.call(shard.slot, "HGETALL", shard.worker(worker_id), idempotent=True)
    if not isinstance(flat, list) or not flat:
        raise NotFound("worker", worker_id)
    return _info(worker_id, flat)


async def count_by_status(store: Store) -> tuple[dict[WorkerStatus, int], int]:
    """Return the number of workers by status, and the number of all workers.

    If a shard has more than ``_MAX_COUNTED_PER_SHARD`` workers, only those that were seen last are
    counted by status.
    """
    counts: dict[WorkerStatus, int] = {"running": 0, "quiet": 0, "terminate": 0, "stale": 0}
    total = 0

    async def count(shard: Shard) -> None:
        nonlocal total
        now, known, *states = await store.run(
            shard, "worker_states", [shard.workers], [_MAX_COUNTED_PER_SHARD], idempotent=True
        )
        total += known
        items = iter(states)
        for seen, last_heartbeat, state, directive in zip(items, items, items, items, strict=True):
            if _stale(store, _time(last_heartbeat) or None, _time(seen), now):
                counts["stale"] += 1
            else:
                texts = (raw.decode(errors="replace") for raw in (state, directive))
                counts[_stricter(*texts)] += 1

    await run_concurrently(store.keys, count)
    return counts, total


async def find_dead(
    store: Store, shard: Shard, limit: int, skip: int = 0
) -> tuple[list[DeadWorker], int | None, int]:
    """Find the dead workers of a shard whose jobs are to be recovered.

    Args:
        store: the store.
        shard: the shard of the workers' records.
        limit: maximum number of workers that are returned.
        skip: number of dead workers to skip, those that died first.

    Returns:
        The dead workers, the time when the next worker may be dead (None for never), and the time
        now. Both are Unix times in ms by the shard's clock.
    """
    began = trio.current_time()
    min_silence_ms = MISSED_HEARTBEATS * store.settings.heartbeat_interval_ms
    keys = [shard.watched, shard.lost_workers, shard.last_worker_check]
    reply = await store.run(
        shard, "find_dead", keys, [limit, min_silence_ms, skip], idempotent=True
    )
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
    limit: int = JOBS_PER_WALK,
) -> tuple[Counter[str], str | None]:
    """Recover the jobs that dead workers hold in one shard, by one walk for all of them.

    The masters of a worker's record and of its jobs may differ in their clocks. So the script also
    gets the time since each death. It recovers a job only if, by both clocks, the job was not
    fetched or extended after the death.

    Args:
        store: the store.
        shard: the shard to walk through.
        dead: the dead workers.
        cursor: '' for the first call, otherwise the cursor that the last call returned.
        limit: maximum number of active jobs that the call reads, whether their workers are dead
            or not.

    Returns:
        The number of recovered jobs by worker id, and the next cursor, None at the end.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    settings = store.settings
    limit = store.webhooks.jobs_per_script("recover", limit)
    next_cursor, effects, lost_isolations, *recovered = await store.run(
        shard,
        "recover",
        [
            *(shard.active, shard.execution_deadlines, shard.expiring, shard.due),
            *(shard.finished, shard.dead, shard.events),
        ],
        [
            *(store.events_arg, cursor, limit),
            *(settings.errors_kept, settings.retention_discarded_ms),
            *(settings.retention_dead_ms, settings.dead_letter_max, settings.on_exhaustion),
            *(settings.history_kept, settings.lone_deaths),
            *(arg for worker in dead for arg in _death_args(worker)),
        ],
        idempotent=True,
    )
    await deliver(store, shard, effects)
    await end_lost(store, lost_isolations)
    return Counter(name.decode() for name in recovered), next_cursor.decode() or None


def _death_args(worker: DeadWorker) -> tuple[Arg, Arg, Arg]:
    dead_for_ms = worker.dead_for_ms
    return worker.id, worker.dead_ms, "" if dead_for_ms is None else dead_for_ms


async def finish_recovery(store: Store, shard: Shard, worker: DeadWorker) -> None:
    """Remove a dead worker from the lost workers, after its jobs of all shards were recovered."""
    await store.run(
        shard, "finish_recovery", [shard.lost_workers], [worker.id, worker.dead_ms], idempotent=True
    )


async def _update_quiet_flags(
    store: Store, worker_id: str, desired: DesiredState, flags_set_ms: int, now_ms: int
) -> None:
    """Set, renew or remove the quiet flags of all shards, unless they are as desired."""
    wanted = desired != "running"
    # A flag must not outlive the worker's record: without the record no heartbeat removes it.
    valid_ms = min(QUIET_FLAG_MS, store.settings.worker_retention_ms)
    if wanted == bool(flags_set_ms) and not (wanted and now_ms - flags_set_ms > valid_ms // 3):
        return

    async def update(shard: Shard) -> None:
        args: list[Arg] = [worker_id, valid_ms if wanted else 0]
        await store.run(shard, "set_quiet_flag", [shard.quiet_workers], args, idempotent=True)

    await run_concurrently(store.keys, update)
    # Last: after a crash before this call the next heartbeat sets the flags again.
    owner = store.keys.shard_of_worker(worker_id)
    keys = [owner.worker(worker_id)]
    await store.run(owner, "record_quiet_flag", keys, [int(wanted)], idempotent=True)


def _stricter(reported: str, directive: str) -> DesiredState:
    ranked = max(reported, directive or "running", key=lambda state: _SEVERITY.get(state, 0))
    if ranked == "terminate":
        return "terminate"
    return "quiet" if ranked == "quiet" else "running"


def _stale(store: Store, last_heartbeat_ms: int | None, last_seen_ms: int, now_ms: int) -> bool:
    if last_heartbeat_ms is None:
        return False
    silent_ms = now_ms - max(last_heartbeat_ms, last_seen_ms)
    return silent_ms > MISSED_HEARTBEATS * store.settings.heartbeat_interval_ms


def _time(raw: bytes | None) -> int:
    """Return a Unix time in ms; 0 if it is absent or damaged. The next heartbeat writes it."""
    time_ms = read_number(raw)
    return time_ms if 0 <= time_ms < _LATEST_MS else 0


def _info(worker_id: str, flat: list[Any]) -> WorkerInfo:
    items = iter(flat)
    fields = dict(zip(items, items, strict=True))
    return WorkerInfo(
        id=worker_id,
        state=fields.get(b"state", b"running").decode(errors="replace"),
        directive=fields.get(b"directive", b"").decode(errors="replace"),
        first_seen_ms=_time(fields.get(b"first_seen")),
        last_seen_ms=_time(fields.get(b"last_seen")),
        last_heartbeat_ms=_time(fields.get(b"last_heartbeat")) or None,
        active=read_number(fields.get(b"active")),
        info=_object(fields.get(b"info", b"{}")),
    )


def _object(info: bytes) -> bytes:
    """Return what a worker has sent about itself; an empty object if it is damaged."""
    return b"{}" if raw_json.stored_members(info) is None else info
