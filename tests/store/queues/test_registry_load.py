"""The load of names on the registry's master is bounded, and so is the wait for it."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import trio
import trio.testing

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.client import Client
from ojs_cluster.redis.deadline import start_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.process_state import registry as module
from ojs_cluster.store.ground.process_state.registry import QueueRegistry
from tests.support.lossy import LossyClient
from tests.support.patience import cancelled_after_turns

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


@pytest.mark.parametrize("ended_by", ["patience", "deadline"])
async def test_many_new_names_wait_together_for_a_registry_that_does_not_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    names = [f"new{number}" for number in range(100)]
    asked: list[str] = []

    async def hang(_: object, queue: str, *_others: object) -> int:
        asked.append(queue)
        return await trio.sleep_forever()

    registry = QueueRegistry()
    monkeypatch.setattr(registry, "_register", hang)
    if ended_by == "patience":
        monkeypatch.setattr(module, "MAX_WAIT_S", 0.1)
    else:
        start_deadline().at = trio.current_time() + 0.1
    process = replace(store, queues=registry)
    async with cancelled_after_turns(2) as scope:
        if ended_by == "deadline":
            with pytest.raises(BackendUnavailable, match="did not answer in time"):
                await registry.ensure(process, names)
        else:
            await registry.ensure(process, names)
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(asked) == sorted(names)  # a full registry still says so
    assert not scope.cancelled_caught
