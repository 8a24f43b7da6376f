"""The end of isolations: the flags that keep other jobs from a worker are removed in all shards.

``store/engine/fetch/isolation.py`` explains isolations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently

_TIMEOUT_S: Final = 2.0
"""Longest time in seconds by which the end of isolations delays a sweep."""


async def remove_flags(
    store: Store, worker_id: str | bytes, until: str | bytes, action: Literal["abort", "end"]
) -> bool:
    """Remove the flags in all shards; return whether none is left, as each shard has answered.

    A shard whose master is silent is left out: it must not delay the caller.
    """
    is_left = False

    async def remove(shard: Shard) -> None:
        nonlocal is_left
        if not store.redis.is_responsive(shard.slot):
            is_left = True
            return
        try:
            left, _, _ = await store.run(
                shard,
                "isolate_worker",
                [shard.quiet_workers, shard.active],
                [worker_id, until, action, "", 0],
                idempotent=True,
            )
        except OJSError:
            left = True
        is_left = is_left or bool(left)

    await run_concurrently(store.keys, remove)
    return not is_left


async def end_lost(store: Store, isolations: Sequence[bytes]) -> None:
    """End the isolations of workers that have lost their suspects.

    Without this, workers that have died keep others from being isolated until the flags expire.

    Args:
        store: the store.
        isolations: worker, time, worker, and so on, as ``worker_death.lua`` collects them.
    """

    async def end(isolation: tuple[bytes, bytes]) -> None:
        worker, until = isolation
        with trio.move_on_after(_TIMEOUT_S):
            await remove_flags(store, worker, until, "end")

    await run_concurrently(zip(isolations[::2], isolations[1::2], strict=True), end)
