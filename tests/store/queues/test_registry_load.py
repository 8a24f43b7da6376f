"""The load of names in use on the registry's master is bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import trio

from ojs_cluster.redis.client import Client
from ojs_cluster.store.context import Store
from ojs_cluster.store.queues.registry import QueueRegistry
from tests.support.lossy import LossyClient

FIRST_S = 0.05
TIMES = 6


async def test_a_name_in_use_is_registered_again_after_ever_longer_pauses(store: Store) -> None:
    registry = QueueRegistry(first_renewal_s=FIRST_S)
    client = LossyClient(store.redis, lambda *_: False)
    process = replace(store, queues=registry, redis=cast(Client, client))

    def registered() -> int:
        return sum(client.calls.get(name, 0) for name in ("register_queue", "register_again"))

    moments: list[float] = []
    with trio.fail_after(60):
        while len(moments) < TIMES:
            await registry.ensure(process, ["busy"])
            if registered() > len(moments):
                moments.append(trio.current_time())
            await trio.sleep(0.005)
    # The first pause may be a quarter shorter than named, and each that follows is doubled.
    least = FIRST_S * 0.75 * (2 ** (TIMES - 1) - 1)
    assert moments[-1] - moments[0] >= least
