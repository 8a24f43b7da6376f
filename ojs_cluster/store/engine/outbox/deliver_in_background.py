"""Deliver the effects of a transition without waiting for them."""

from __future__ import annotations

from collections.abc import Sequence

from ojs_cluster.keys import Shard
from ojs_cluster.redis.durability import (
    Durability,
    has_unconfirmed_writes,
    require_durability,
    required_durability,
)
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.outbox.outbox import deliver


async def deliver_in_background(store: Store, shard: Shard, flat: Sequence[bytes]) -> None:
    """Deliver effects as ``deliver`` does, but do not wait for them. Never raises.

    For a caller that others wait for. If the process has too many background tasks, or none, the
    caller waits.

    Args:
        store: the store.
        shard: the shard of the outbox.
        flat: the entries, as the script returned them.
    """
    # Like ``deliver``, this leaves the effects of an unconfirmed transition to the scheduler.
    if not flat or has_unconfirmed_writes():
        return
    durability = required_durability(Durability.ASYNC)

    async def work() -> None:
        with require_durability(durability):
            await deliver(store, shard, flat)

    await store.background.once(("effects", shard.index, flat[0]), work, 0)
