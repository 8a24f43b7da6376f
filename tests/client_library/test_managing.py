"""The client reads and changes jobs, queues, dead letters, limits and cron jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from ojs_client import (
    ApiError,
    Client,
    Conflict,
    Discard,
    InvalidArguments,
    JobFailed,
    NewCron,
    NotFound,
    ResultPending,
    RunningJob,
    Unique,
    after,
    dag,
    group,
    many,
    new_job,
)
from ojs_client.client import _WORKFLOW_CHECK_S
from tests.client_library.conftest import Server
from tests.client_library.workers import QUEUE, job_in, new_worker, serving_jobs


async def test_jobs_are_found_edited_and_retried(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.fails")
        async def fails(job: RunningJob) -> None:
            raise Discard("no", code="gone", dead_letter=True)

        @worker.handler("t.works")
        async def works(job: RunningJob) -> str:
            await job.progress(0.5)
            return "done"

        for number in range(120):
            await client.enqueue("t.many", number, queue="other", delay="1h", tags=["many"])
        found = [job async for job in client.jobs.find(queue="other", state="scheduled")]
        assert sorted(job.args[0] for job in found) == list(range(120))
        assert found[0].tags == ["many"]
        soon = datetime.now(UTC) + timedelta(days=1)
        edited = await client.jobs.edit(found[0].id, priority=7, scheduled_at=soon, tags=["new"])
        assert (edited.priority, edited.tags) == (7, ["new"])
        moved = await client.jobs.move(found[0].id, "another")
        assert (moved.queue, moved.state, moved.tags) == ("another", "scheduled", ["new"])
        with pytest.raises(NotFound):
            await client.jobs.edit("019461a8-1a2b-7000-8e4f-000000000000", priority=1)

        async with serving_jobs(worker):
            good = await client.enqueue("t.works", queue=QUEUE)
            bad = await client.enqueue("t.fails", queue=QUEUE)
            async with client.as_completed([good, bad.id], wait=60) as jobs:
                ended = [job async for job in jobs]
        by_type = {job.type: job for job in ended}
        assert (by_type["t.works"].result, by_type["t.works"].progress) == ("done", 1.0)
        [error] = by_type["t.fails"].errors
        assert (error.code, error.attempt, error.message) == ("gone", 1, "no")

        assert [job.id async for job in client.dead_letters.find(queue=QUEUE)] == [bad.id]
        assert (await client.dead_letters.retry(bad.id)).state == "available"
        with pytest.raises(Conflict):
            await client.jobs.retry(bad.id)
        with pytest.raises(NotFound):
            await client.dead_letters.delete(bad.id)
        with pytest.raises(ResultPending):
            async with client.as_completed([bad], wait=0.1) as jobs:
                await anext(jobs)
        with pytest.raises(KeyError):  # not in a group of errors
            async with client.as_completed([bad], wait=60):
                raise KeyError

    await server.run(scenario)


async def test_all_jobs_that_match_are_changed(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.fails")
        async def fails(job: RunningJob) -> None:
            raise Discard("no")

        kept = await client.enqueue("t.kept", queue="bulk")
        jobs = [await client.enqueue("t.many", n, queue="bulk", tags=["x"]) for n in range(5)]
        cancelled = await client.jobs.cancel_all("tag:x", queue="bulk", type="t.*")
        assert (cancelled.matched, cancelled.succeeded, cancelled.failed) == (5, 5, 0)
        assert cancelled.finished
        assert (await client.get(kept.id)).state == "available"
        again = await client.jobs.report(cancelled.operation_id)
        assert (again.state, again.succeeded) == ("completed", 5)

        with pytest.raises(Conflict, match="available"):
            await client.jobs.delete(kept.id)
        for _ in range(2):  # a repetition changes nothing
            await client.jobs.delete(jobs[0].id)
        with pytest.raises(NotFound):
            await client.get(jobs[0].id)
        later = datetime.now(UTC) + timedelta(days=1)
        assert (await client.jobs.delete_all(queue="bulk", since=later)).matched == 0
        assert (await client.jobs.delete_all(queue="bulk", until=later)).succeeded == 4

        async with serving_jobs(worker):
            failed = await client.enqueue("t.fails", queue=QUEUE)
            with pytest.raises(JobFailed):
                await client.result(failed.id, wait=60)
        assert (await client.jobs.retry_all(queue=QUEUE, states=["discarded"])).succeeded == 1
        assert (await client.get(failed.id)).state == "available"
        with pytest.raises(ApiError):  # all jobs would match
            await client.jobs.cancel_all()

    await server.run(scenario)


async def test_queues_are_created_drained_and_purged(server: Server) -> None:
    async def scenario(client: Client) -> None:
        assert (await client.queues.create("new", concurrency=3))["concurrency"] == 3
        with pytest.raises(Conflict):
            await client.queues.create("new")
        for number in range(3):
            await client.enqueue("t.a", number, queue="new")
        await client.queues.drain("new")
        with pytest.raises(ApiError, match="drain"):
            await client.enqueue("t.a", queue="new")
        assert await client.queues.purge("new") == 3
        await client.queues.resume("new")
        assert (await client.queues.get("new")).counts["available"] == 0

    await server.run(scenario)


async def test_too_many_jobs_name_the_method_for_any_number(server: Server) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(ApiError, match="enqueue_all"):
            await client.enqueue_many(new_job("t.a", queue=QUEUE) for _ in range(1001))

    await server.run(scenario)


async def test_queues_and_limits_are_read_and_changed(server: Server) -> None:
    async def scenario(client: Client) -> None:
        limit = {"key": "bank", "concurrency": 2}
        await client.enqueue("t.one", queue="first", rate_limit=limit)
        await client.queues.pause("first")
        assert (await client.queues.get("first")).paused
        assert (await client.queues.get("first")).counts["available"] == 1
        await client.queues.resume("first")
        assert [queue.name async for queue in client.queues.find()] == ["first"]
        settings = await client.queues.configure("first", concurrency=3)
        assert settings["concurrency"] == 3
        await client.queues.configure("second", on_exhaustion="dead_letter")
        with pytest.raises(NotFound):
            await client.queues.get("nosuch")

        overridden = await client.limits.override("bank", concurrency=5, rate=10, period="1m")
        assert overridden.members["override"]["concurrency"] == 5
        assert overridden.members["override"]["rate"]["period"] == "PT1M"
        assert [found.key async for found in client.limits.find()] == ["bank"]
        assert "override" not in (await client.limits.remove_override("bank")).members
        assert (await client.limits.get("bank")).active == 0

    await server.run(scenario)


async def test_declared_cron_jobs_replace_those_that_are_gone(server: Server) -> None:
    async def scenario(client: Client) -> None:
        job = new_job("t.cron", queue=QUEUE)
        await client.cron.register("by-hand", "@daily", job)
        first = [NewCron("a", "@daily", job), NewCron("b", "0 9 * * *", job, timezone="Asia/Tokyo")]
        assert (await client.cron.sync(first, owner="shop")).stored == ("a", "b")
        await client.cron.sync([NewCron("c", "@hourly", job)], owner="mail")
        second = [NewCron("b", "0 8 * * *", job)]
        assert (await client.cron.sync(second, owner="shop")).deleted == ("a",)
        found = {cron.name: cron.expression for cron in await client.cron.list_all()}
        assert found == {"by-hand": "@daily", "b": "0 8 * * *", "c": "@hourly"}

    await server.run(scenario)


async def test_declared_cron_jobs_leave_pauses_and_other_owners_alone(server: Server) -> None:
    async def scenario(client: Client) -> None:
        job = new_job("t.cron", queue=QUEUE)
        await client.cron.register("adopted", "@daily", job, enabled=False)
        await client.cron.sync([NewCron("theirs", "@daily", job)], owner="mail")
        ours = [NewCron("adopted", "@daily", job), NewCron("ours", "@daily", job)]
        await client.cron.sync(ours, owner="shop")
        await client.cron.pause("ours")
        await client.cron.sync([*ours[:1], NewCron("ours", "@hourly", job)], owner="shop")
        changed = await client.cron.get("ours")
        assert (changed.enabled, changed.expression) == (False, "@hourly")
        assert not (await client.cron.get("adopted")).enabled
        await client.cron.resume("ours")
        off = NewCron("ours", "@hourly", job, enabled=False)
        await client.cron.sync([*ours[:1], off], owner="shop")
        assert not (await client.cron.get("ours")).enabled

        for wrong in (NewCron("theirs", "@hourly", job), ours[0]):
            with pytest.raises(ValueError, match=r"belongs to 'mail'|two cron jobs"):
                await client.cron.sync([*ours[:1], wrong], owner="shop")
        found = {cron.name: cron.expression for cron in await client.cron.list_all()}
        assert found == {"adopted": "@daily", "ours": "@hourly", "theirs": "@daily"}
        assert (await client.cron.sync([], owner="shop")).deleted == ("adopted", "ours")

    await server.run(scenario)


async def test_any_number_of_jobs_is_enqueued_in_portions(server: Server) -> None:
    async def scenario(client: Client) -> None:
        async def jobs() -> AsyncIterator[Any]:
            for number in range(25):
                queue = "not valid!" if number == 12 else QUEUE
                yield new_job("t.one", number, queue=queue)
                if number == 15:
                    yield new_job("t.one", object(), queue=QUEUE)  # type: ignore[arg-type]
                    yield new_job("t.one", timeout="10 sec")
            only = Unique(on_conflict="ignore")
            for _ in range(3):
                yield new_job("t.unique", 1, queue=QUEUE, unique=only)

        report = await client.enqueue_all(jobs(), portion=10)
        assert (report.enqueued, report.deduplicated) == (16, 2)
        *alone, failed = sorted(report.failed, key=lambda each: len(each.jobs))
        assert [type(each.error) for each in alone] == [InvalidArguments, InvalidArguments]
        assert [each.error.applied for each in alone] == [False, False]
        assert [job.args[0] for job in failed.jobs] == list(range(10, 20))
        assert failed.error.applied is False
        large = [new_job("t.large", "x" * 400_000, queue=QUEUE) for _ in range(5)]
        assert (await client.enqueue_all(large)).enqueued == 5
        with pytest.raises(ValueError, match="at least one"):
            await client.enqueue_all(large, portion=0)

    await server.run(scenario)


async def test_a_job_that_ends_is_reported_before_many_that_run(server: Server) -> None:
    async def scenario(client: Client) -> None:
        waiting = [new_job("t.one", number, queue=QUEUE) for number in range(2 * many._WAITS)]
        jobs = await client.enqueue_many(waiting)
        async with client.as_completed(jobs, wait=3600) as ended:
            for job in (jobs[-1], jobs[0]):
                await client.cancel(job.id)
                assert (await anext(ended)).id == job.id
        async with client.as_completed(jobs[1:-1], wait=0) as ended:
            with pytest.raises(ResultPending):
                await anext(ended)

    await server.run(scenario)


async def test_events_continue_after_a_position(server: Server) -> None:
    async def scenario(client: Client) -> None:
        types = ["job.enqueued"]
        async with client.events(queue=QUEUE, types=types) as events:
            first = await client.enqueue("t.one", queue=QUEUE)
            seen = await anext(events)
            assert (seen.name, seen.job_id) == ("job.enqueued", first.id)
            with anyio.move_on_after(0.5):
                await anext(events)
            second = await client.enqueue("t.one", queue=QUEUE)
            assert (await anext(events)).job_id == second.id
        async with client.events(queue=QUEUE, types=types, after=seen.id) as events:
            assert (await anext(events)).job_id == second.id
        await client.cancel(first.id)
        async with client.events(job_id=first.id) as events:
            assert [event.data["to"] async for event in events] == ["cancelled"]
        with pytest.raises(KeyError):  # not in a group of errors
            async with client.events():
                raise KeyError
        for wrong in ({"job_id": ""}, {"queue": ""}, {"job_id": first.id, "queue": QUEUE}):
            with pytest.raises(ValueError, match=r"must not be empty|either"):
                async with client.events(**wrong):
                    raise AssertionError
        for name in ("", ".."):  # the path would be another one
            with pytest.raises(ValueError, match="must not be"):
                await client.queues.delete(name)

    await server.run(scenario)


async def test_a_graph_runs_and_its_end_is_no_poll(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.step")
        async def step(job: RunningJob) -> Any:
            return [job.args[0], sorted(str(each) for each in job.parent_results)]

        def make(name: str) -> Any:
            return new_job("t.step", name, queue=QUEUE)

        graph = dag(
            {
                "a": make("a"),
                "b": make("b"),
                "c": after(make("c"), "a", "b"),
                "d": after(group(make("d")), "c"),
            },
            name="graph",
        )
        async with serving_jobs(worker):
            started = await client.start(graph)
            began = anyio.current_time()
            ended = await client.workflow(started.id, wait=60)
            assert anyio.current_time() - began < 2 * _WORKFLOW_CHECK_S
        assert (ended.type, ended.state) == ("dag", "completed")
        results = {each.id: each.result for each in ended.steps}
        assert results["c"] == ["c", ["['a', []]", "['b', []]"]]
        await job_in(client, str(ended.steps[0].job_id), "completed")

    await server.run(scenario)


def test_a_wrong_graph_is_refused() -> None:
    job = new_job("t.step")
    with pytest.raises(ValueError, match="'b' waits for x: no such step"):
        dag({"a": job, "b": after(job, "x")})
    with pytest.raises(ValueError, match=r"steps wait for each other: [ab]"):
        dag({"a": after(job, "b"), "b": after(job, "a")})
