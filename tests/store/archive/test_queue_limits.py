"""An import restores the limits of a queue, whatever the number of partitions is."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.core.rate_limit import Rate, RateLimits
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.queues.partition_maintenance import maintain_queue, set_partitions
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.ground.process_state import partitions
from ojs_cluster.store.ground.process_state.partitions import DEFAULT
from tests.store.archives import emptied, export_text, import_text
from tests.store.shortcuts import QUEUE, put, take
from tests.support.failing_process import dies_at
from tests.support.servers import flush

LIMITS = RateLimits(concurrency=2, rate=Rate(1000, 60_000))


async def exported(store: Store) -> bytes:
    """Return an archive of a queue with limits and ten jobs, from a cluster with one partition."""
    for _ in range(10):
        await put(store)
    await rate_limits.set_queue_limits(store, QUEUE, LIMITS)
    return await export_text(store)


async def use_default(store: Store, count: int) -> None:
    await store.partitions.update(store, DEFAULT, lambda *_: PartitionLayout.of_count(count))


@pytest.mark.parametrize("knows_number", [True, False], ids=["exported", "earlier version"])
async def test_limits_are_restored_where_queues_have_more_partitions(
    backend: Embedded, store: Store, knows_number: bool
) -> None:
    text = await exported(store)
    if not knows_number:
        text = text.replace(b',"partitions":1', b"")
    async with emptied(backend) as target:
        await use_default(target, 4)
        counts, messages = await import_text(target, text)
        assert (messages, counts.refused) == ([], 0)
        limits = await rate_limits.get_queue_limits(target, QUEUE)
        assert limits.usage.limits == LIMITS
        assert len(await take(target, count=10)) == 2


async def test_limits_are_restored_in_a_queue_that_is_in_use(
    backend: Embedded, store: Store
) -> None:
    text = await exported(store)
    async with emptied(backend) as target:
        await use_default(target, 4)
        for _ in range(20):
            await put(target)
        counts, messages = await import_text(target, text)
        assert (messages, counts.refused) == ([], 0)
        assert len(await take(target, count=30)) <= 4, "one per partition, until they are empty"
        assert target.partitions.layout(QUEUE).count == 1


async def test_queues_with_limits_take_no_entry_of_operators(
    backend: Embedded, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "MAX_ENTRIES", 2)
    for queue in (QUEUE, "used", "third"):
        await put(store, queue)
        await rate_limits.set_queue_limits(store, queue, LIMITS)
    text = await export_text(store)
    async with emptied(backend) as target:
        await use_default(target, 4)
        await put(target, "used")
        counts, messages = await import_text(target, text)
        assert (messages, counts.refused) == ([], 0)
        assert {target.partitions.layout(name).count for name in (QUEUE, "used", "third")} == {1}
        assert (await set_partitions(target, "another", 2)).count == 2

        await rate_limits.set_queue_limits(target, QUEUE, RateLimits())
        await maintain_queue(target, QUEUE)
        assert target.partitions.layout(QUEUE).count == 4


async def test_queues_without_an_entry_of_operators_get_the_default(
    backend: Embedded, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    for queue in ("a", "b", "c"):
        await put(store, queue)
        await set_partitions(store, queue, 3)
    await rate_limits.set_queue_limits(store, "c", RateLimits(concurrency=3))
    text = await export_text(store)
    monkeypatch.setattr(partitions, "MAX_ENTRIES", 2)
    async with emptied(backend) as target:
        await use_default(target, 2)
        counts, messages = await import_text(target, text)
        assert (messages, counts.refused) == ([], 0)
        numbers = [target.partitions.layout(queue).count for queue in ("a", "b", "c")]
        assert sorted(numbers) == [2, 2, 3], "an archive has its queues in any order"
        assert ["does not get 3" in record.message for record in caplog.records] == [True] * 2
        limits = await rate_limits.get_queue_limits(target, "c")
        assert limits.usage.limits == RateLimits(concurrency=3)
        assert [job.queue for job in await take(target, "a", "b", "c", count=4)] == ["a", "b", "c"]


async def test_an_import_that_dies_runs_no_job_without_limits(
    backend: Embedded, store: Store
) -> None:
    text = await exported(store)
    at, died = 0, True
    while died:
        at += 1
        async with emptied(backend) as target:
            await use_default(target, 4)

            async def whole(acting: Store) -> None:
                await import_text(acting, text)

            died = await dies_at(target, at, True, whole)
            await target.partitions.read(target)
            assert len(await take(target, count=10)) <= 2
    flush(backend)


async def test_jobs_are_refused_with_the_settings_of_their_queue(
    backend: Embedded, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store)
    await put(store, "other")
    await depth_bounds.set_bound(store, QUEUE, 5)
    text = await export_text(store)

    async def refuse(*_: object) -> None:
        raise ValidationFailed("no")

    monkeypatch.setattr(depth_bounds, "set_bound", refuse)
    async with emptied(backend) as target:
        counts, messages = await import_text(target, text)
        assert (counts.refused, counts.created["jobs"]) == (2, 1)
        assert any("were not restored" in message for message in messages)
        assert await take(target) == []


def test_the_quotas_of_limits_decide_the_largest_number_of_partitions() -> None:
    numbers: list[tuple[RateLimits, Any]] = [
        (RateLimits(concurrency=2, rate=Rate(5, 1000)), 2),
        (RateLimits(concurrency=0, throttle=Rate(3, 1000)), 3),
    ]
    for limits, wanted in numbers:
        assert limits.most_partitions == wanted
    assert RateLimits().most_partitions >= 64
