"""Give all queues more partitions, after ``OJS_QUEUE_PARTITIONS`` was raised (the janitor).

The process that starts with the new number only announces it (``core/partitions.py``). After
``PROPAGATION_MS``, every process knows which partitions will be used. From then on, each change of
a setting is also written to them. Then the janitor copies the settings of all queues once. A queue
with limits gets an entry of its own: it keeps its number of partitions, because its limits are
divided among them. After the last queue, the default grows. So no process uses a partition that
lacks a copy, no matter which processes know which number. There is one exception: a process that
could not read the partition table for ``PROPAGATION_MS`` writes a setting only to the partitions
that it knows. The janitor copies that setting in its next round over all queues.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits import partition_quotas
from ojs_cluster.store.engine.queues.copied_settings import copy_settings
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.partitions import DEFAULT, GrowingDefault

log = logging.getLogger("ojs.store")


async def advance_growth(store: Store, limit: int) -> bool:
    """Copy the settings of the next ``limit`` queues to the announced partitions of the default.

    It may be repeated after a crash: then another process begins with the first queue. Two leaders
    may do it at the same time.

    Returns:
        Whether queues remain.

    Raises:
        BackendUnavailable: Redis did not answer in time. The next call repeats these queues.
    """
    table, meta = store.partitions, store.keys.meta
    await table.refresh_if_stale(store)
    layout = table.default
    if not (layout.is_announced and layout.is_propagated(table.now_ms())):
        return False
    if table.growing is None or table.growing.layout != layout:
        table.growing = GrowingDefault(layout)
    after = table.growing.after
    names: Any = await store.redis.call(
        meta.slot,
        *("ZRANGEBYLEX", meta.queues, b"(" + after if after else "-", "+", "LIMIT", 0, limit),
        idempotent=True,
    )

    async def prepare(raw: bytes) -> None:
        with suppress(UnicodeDecodeError):  # a damaged name belongs to no queue
            await _prepare(store, raw.decode())

    try:
        await run_concurrently(names, prepare)
    except BackendUnavailable as error:
        if not table.growing.is_delayed:
            log.warning(
                "queues get %d partitions only when all masters answer: %s",
                *(layout.previous_count, error),
            )
            table.growing.is_delayed = True
        raise
    if len(names) == limit:
        table.growing.after = names[-1]
        return True
    table.growing = None
    await table.update(
        store, DEFAULT, lambda old, now_ms: old.grown(now_ms) if old == layout else old
    )
    log.info("queues have %d partitions now", table.default.count)
    return False


async def _prepare(store: Store, queue: str) -> None:
    try:
        if store.partitions.has_entry(queue) or not await copy_settings(store, queue):
            return
        if await partition_quotas.get_limits(store, queue) != RateLimits():
            await store.partitions.pin(store, queue)
    except RedisReplyError as error:
        log.warning("cannot read the settings of queue '%s': %s", queue, error)
