"""The janitor's sweeps that no deadline of the store paces."""

from __future__ import annotations

from ojs_cluster.keys import Keyspace
from ojs_cluster.server.embedded.servers import Embedded
from ojs_scheduler.loops.janitor import retire_step
from tests.scheduler.running import store_at
from tests.support.servers import observer


async def test_more_than_a_page_of_idle_queues_is_retired_page_by_page(backend: Embedded) -> None:
    meta = Keyspace(64).meta
    async with store_at(backend.url) as store:
        with observer(backend) as db:
            db.zadd(meta.queues, {f"idle{number:03}": 0 for number in range(250)})
            step = retire_step(store)

            first, second, third = [await step(0) for _ in range(3)]

            assert [result.done for result in (first, second, third)] == [100, 100, 50]
            assert first.next_ms == second.next_ms == 100, "the next page comes soon"
            assert third.next_ms is None, "the next round comes late"
            assert not db.exists(meta.queues)
            db.zadd(meta.queues, {"idle": 0})
            assert (await step(0)).done == 1


async def test_a_queue_with_a_damaged_key_does_not_keep_the_others(backend: Embedded) -> None:
    keys = Keyspace(64)
    async with store_at(backend.url) as store:
        with observer(backend) as db:
            db.zadd(keys.meta.queues, {f"idle{number:03}": 0 for number in range(150)})
            damaged = keys.shard_of_queue("idle007").queue_counters("idle007")
            db.set(damaged, "damaged")
            step = retire_step(store)
            assert [(await step(0)).done for _ in range(2)] == [99, 50]
            assert db.zrange(keys.meta.queues, 0, -1) == [b"idle007"]
            db.delete(damaged)
            assert (await step(0)).done == 1
