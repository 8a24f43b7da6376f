"""Rate limits: room that time alone makes is given to those who wait for it.

Of queues and of keys; and tokens that nobody has fetched a job with go back. All in one step, since
each looks at one sorted set that is nearly always empty.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.rate_limits import open_due
from ojs_cluster.store.rate_tokens import look, take_back
from ojs_cluster.store.tick import Tick as StoreTick
from scheduler.pacing import Step, Tick


def step(store: Store, batch: int) -> Step:
    """Return the step of the loop: at most `batch` queues, keys and jobs of one shard."""

    async def open_shard(index: int) -> Tick:
        shard = store.keys.shard(index)
        ticks = [await work(store, shard, batch) for work in (open_due, take_back, look)]
        return StoreTick(
            sum(tick.done for tick in ticks),
            min((tick.next_ms for tick in ticks if tick.next_ms is not None), default=None),
            ticks[0].now_ms,
            any(tick.more for tick in ticks),
        )

    return open_shard
