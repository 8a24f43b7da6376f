"""Isolation: a worker that is to run a suspect gets no other job while it holds it.

A suspect is a job whose worker has died while it held the job (``worker_death.lua``). Each fetch
script refuses jobs to an isolated worker. So isolation sets a flag of the worker in all shards, for
a limited time. The flags come before the lease, and the worker must hold no job then. So if it dies
before they expire, it ran the suspect alone. They are no quiet flags: an operator may quiet and
resume the worker meanwhile (``isolated_workers.lua``).

A shard refuses the flag of one more worker if the largest number is reached there. So concurrent
isolations cannot exceed it. Two may refuse each other, and a later fetch tries again.

A fetch of the worker that meets such a flag removes the flags if the worker holds no job any more.
So they also end when a process has died before it leased the suspect. When the suspect loses its
lease because its worker has died, the scheduler removes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.isolation_flags import remove_flags
from ojs_cluster.store.engine.jobs.nack import JOBS_PER_WALK
from ojs_cluster.store.ground.fanout import run_concurrently

ISOLATION_MS: Final = 300_000
"""Longest time in ms for which a worker gets no other job than a suspect.

A death that is noticed later does not show that the suspect ran alone. It is longer than the
default lease."""
LONE_DEATH: Final = "the worker died while it ran this job alone"
"""How the error begins of a job whose worker died (``worker_death.lua``)."""
BUSY: Final = "busy"
"""The mode of a fetch whose worker cannot be isolated (``suspects.lua``)."""
_FIRST_MS: Final = 3000
"""Time in ms from the begin of an isolation in which its flags are not removed."""
_LEASE_MS: Final = 2500
"""Time in ms from the begin of an isolation in which the suspect is leased, or not at all.

It is measured by the clock of the suspect's shard, which may differ from the others."""
_HOLDS_S: Final = 1.0
"""Time in seconds for which a worker that holds its suspect is not checked again."""
_TIMEOUT_S: Final = 2.0
"""Longest time in seconds by which isolation delays a fetch."""


async def isolate(store: Store, shard: Shard, worker_id: str) -> str:
    """Keep other jobs from a worker that holds none; return the mode of its fetch.

    Args:
        store: the store.
        shard: the shard of the suspect, in which the worker's other jobs are most likely.
        worker_id: the worker.

    Returns:
        The time until which it gets no other job, and the time by which the suspect must be leased.
        Both are in ms, the second by the clock of ``shard``. ``BUSY`` if the worker holds jobs, if
        it or too many others are isolated, if another one is checked for a suspect of this shard,
        or if a shard did not answer.
    """
    probed = store.busy_workers.probed_shards
    if worker_id in store.busy_workers or shard in probed:
        return BUSY
    # Other parts of the same fetch would take the flags of this isolation for their own.
    store.busy_workers.add(worker_id)
    probed.add(shard)
    until = str(store.clock.now_ms() + ISOLATION_MS)
    began, lease_by = trio.current_time(), None
    is_free = False
    try:
        await ensure_task()
        with trio.move_on_after(_TIMEOUT_S):
            now_ms = await _is_idle(store, [shard], worker_id, until, "check")
            if now_ms is not None:
                lease_by = now_ms - int((trio.current_time() - began) * 1000) + _LEASE_MS
                begun = await _is_idle(store, store.keys, worker_id, until, "begin")
                is_free = begun is not None
    finally:
        probed.discard(shard)
    if is_free:
        store.busy_workers.discard(worker_id)
        return f"{until} {lease_by}"
    if lease_by is not None:  # it has begun
        await abort(store, worker_id, until)
    store.busy_workers.add(worker_id)
    return BUSY


async def abort(store: Store, worker_id: str, mode: str) -> None:
    """Remove the flags of an isolation without a suspect. What fails is left to ``end_if_idle``."""
    until, _, _ = mode.partition(" ")
    with trio.move_on_after(_TIMEOUT_S, shield=True):
        await remove_flags(store, worker_id, until, "abort")


async def end_if_idle(store: Store, shard: Shard, worker_id: str) -> bool:
    """Let a worker that has been isolated get other jobs again, if it holds none.

    Args:
        store: the store.
        shard: the shard from which it fetches, in which its suspect is most likely.
        worker_id: the worker.

    Returns:
        Whether it may fetch again.
    """
    if worker_id in store.busy_workers:
        return False
    await ensure_task()
    with trio.move_on_after(_TIMEOUT_S):
        # A fetch that has isolated the worker just now is still to lease the suspect.
        until = str(store.clock.now_ms() + ISOLATION_MS - _FIRST_MS)
        for shards in ([shard], store.keys):
            if await _is_idle(store, shards, worker_id, until, "check") is None:
                store.busy_workers.add(worker_id, _HOLDS_S)
                return False
        return await remove_flags(store, worker_id, until, "end")
    return False


async def _is_idle(
    store: Store,
    shards: Iterable[Shard],
    worker_id: str,
    until: str,
    action: Literal["check", "begin"],
) -> int | None:
    """Run ``isolate_worker.lua`` over all active jobs of some shards.

    Returns:
        The time in ms of the shard that answered last, if the worker holds no job of any of them
        and none has refused to begin; otherwise None.
    """
    is_idle, now_ms = True, 0

    async def look(shard: Shard) -> None:
        nonlocal is_idle, now_ms
        cursor: str | bytes = ""
        while is_idle and store.redis.is_responsive(shard.slot):
            held, cursor, now_ms = await store.run(
                shard,
                "isolate_worker",
                [shard.quiet_workers, shard.active],
                [worker_id, until, action, cursor, JOBS_PER_WALK],
                idempotent=True,
            )
            if held:
                break
            if not cursor:
                return
        is_idle = False

    try:
        await run_concurrently(shards, look)
    except OJSError:
        return None
    return now_ms if is_idle else None
