"""The fake server refuses and deduplicates jobs as a server does."""

from __future__ import annotations

from functools import partial

import pytest

from ojs_client import (
    ApiError,
    Conflict,
    NotFound,
    RetryPolicy,
    Unique,
    batch,
    chain,
    group,
    new_job,
)
from tests.client_library.fake.worlds import LATER, Play, World, job
from tests.client_library.workers import QUEUE


async def test_a_unique_job_conflicts_as_its_policy_says(play: Play) -> None:
    async def scenario(world: World) -> None:
        client = world.client
        enqueue = partial(client.enqueue, queue=QUEUE)
        for_args = partial(Unique, keys=["type"], args_keys=["n"])
        first = await enqueue("t.once", {"n": 1, "m": 1}, unique=for_args())
        with pytest.raises(Conflict) as refused:
            await enqueue("t.once", {"n": 1, "m": 2}, unique=for_args())
        assert refused.value.code == "duplicate"
        assert refused.value.details["existing_job_id"] == first.id
        same = await enqueue("t.once", {"n": 1}, unique=for_args(on_conflict="ignore"))
        assert (same.id, same.deduplicated) == (first.id, True)
        other = await enqueue("t.once", {"n": 2}, unique=for_args(), delay=LATER)
        assert not other.deduplicated
        newer = await enqueue("t.once", {"n": 1}, unique=for_args(on_conflict="replace"))
        assert (await client.get(first.id)).state == "cancelled"
        kept = await enqueue(
            "t.once", {"n": 2}, unique=for_args(on_conflict="replace_except_schedule")
        )
        assert kept.state == "scheduled"
        assert kept.members["scheduled_at"] == other.members["scheduled_at"]
        assert (await client.get(other.id)).state == "cancelled"
        await client.cancel(newer.id)
        assert (await enqueue("t.once", {"n": 1}, unique=for_args())).state == "available"
        with pytest.raises(ApiError) as invalid:
            await enqueue("t.once", {"m": 1}, unique=for_args())
        assert (invalid.value.status, invalid.value.code) == (422, "validation_error")

    await play(scenario)


async def test_a_batch_with_a_conflict_stores_no_job(play: Play) -> None:
    async def scenario(world: World) -> None:
        client = world.client
        unique = Unique(keys=["type"])
        id = "019539a4-0000-7000-8000-000000000001"
        with pytest.raises(Conflict):
            await client.enqueue_many(
                [job("t.a", job_id=id), job("t.b", unique=unique), job("t.b", unique=unique)]
            )
        with pytest.raises(NotFound):
            await client.get(id)
        stored = await client.enqueue("t.a", 1, queue=QUEUE, job_id=id)
        assert (await client.enqueue("t.a", 1, queue=QUEUE, job_id=id)).id == stored.id
        with pytest.raises(Conflict):
            await client.enqueue("t.a", 2, queue=QUEUE, job_id=id)

    await play(scenario)


async def test_invalid_jobs_are_refused(play: Play) -> None:
    async def scenario(world: World) -> None:
        refused = []
        for new in (
            new_job("T.upper"),
            new_job("t.a", queue="no queue"),
            new_job("t.a", priority=101),
            new_job("t.a", job_id="7"),
            new_job("t.a", retry=RetryPolicy(max_attempts=-1)),
            new_job("t.a", retry=RetryPolicy(initial_interval=9, max_interval=1)),
            new_job("t.a", unique=Unique(keys=["meta"])),
        ):
            with pytest.raises(ApiError) as caught:
                await world.client.enqueue_many([new])
            refused.append((caught.value.status, caught.value.code))
        assert refused == [(400, "invalid_request")] * 4 + [(422, "validation_error")] * 3
        for kind in (batch(new_job("t.a")), chain(), group(new_job("T.upper"))):
            with pytest.raises(ApiError) as caught:
                await world.client.start(kind)
            assert (caught.value.status, caught.value.code) == (400, "invalid_request")

    await play(scenario)
