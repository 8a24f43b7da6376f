"""The fake server of ``ojs_client.testing`` behaves as a server does in the same scenarios."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pytest
import trio

from ojs_client import (
    ApiError,
    BlockingJob,
    Client,
    Conflict,
    Discard,
    Job,
    JobFailed,
    LeaseLost,
    NewWorkflow,
    NotFound,
    ResultPending,
    Retry,
    RetryPolicy,
    RunningJob,
    Unique,
    Worker,
    Workflow,
    batch,
    chain,
    group,
    new_job,
)
from ojs_client.testing import FakeServer
from ojs_cluster.server.embedded.servers import Embedded
from tests.client_library.workers import QUEUE, job_in, serving_jobs
from tests.http.api import open_app, serving

LIMIT_S = 120
SOON = 0.05
"""A delay or backoff in seconds that passes during a test on a server."""
LATER = 3600.0
FAST = RetryPolicy(max_attempts=3, initial_interval=SOON, jitter=False)


@dataclass(frozen=True, slots=True)
class World:
    """A client of a server or of a fake server."""

    client: Client
    fake: FakeServer | None

    def running(self, worker: Worker) -> AbstractAsyncContextManager[Any]:
        """Run a worker for the time of a block."""
        if self.fake is not None:
            return self.fake.running(worker)
        return serving_jobs(worker.copy(self.client.url, transport=None, poll=1, heartbeat=0.1))

    async def passes(self, seconds: float) -> None:
        """Let time pass. A server's time passes while the test waits for a result."""
        if self.fake is not None:
            await self.fake.advance(seconds)

    async def ended(self, job: Job) -> Job:
        """Return the job when it has ended."""
        return await job_in(self.client, job.id, "completed", "discarded", "cancelled")

    async def run(self, workflow: NewWorkflow) -> Workflow:
        """Start a workflow and return it when it has ended."""
        started = await self.client.start(workflow)
        return await self.client.workflow(started.id, wait=60)


Scenario = Callable[[World], Awaitable[None]]
Play = Callable[[Scenario], Awaitable[None]]


@pytest.fixture(params=["server", "fake-asyncio", "fake-trio"])
async def play(request: pytest.FixtureRequest) -> AsyncIterator[Play]:
    """Return a function that runs a scenario on a server or on a fake server."""
    kind, _, loop = request.param.partition("-")
    if kind == "fake":
        yield partial(in_loop, url=None, loop=loop)
        return
    backend: Embedded = request.getfixturevalue("standalone")
    async with open_app(backend) as app, serving(app, lane=True) as port:
        yield partial(in_loop, url=f"http://127.0.0.1:{port}", loop="asyncio")


async def in_loop(scenario: Scenario, url: str | None, loop: str) -> None:
    """Run a scenario in an event loop of its own, on a server or on a fake server."""

    async def limited() -> None:
        fake = FakeServer() if url is None else None
        with anyio.fail_after(LIMIT_S):
            async with fake.client() if fake is not None else Client(url) as client:
                await scenario(World(client, fake))

    await trio.to_thread.run_sync(partial(anyio.run, limited, backend=loop))


def new_worker(**options: Any) -> Worker:
    """Return a worker without a server."""
    return Worker(queues=[QUEUE], **options)


job = partial(new_job, queue=QUEUE)


async def test_jobs_run_with_their_arguments_and_results(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.double")
    async def double(job: RunningJob) -> Any:
        return {"of": job.args, "meta": job.meta, "tags": job.tags, "attempt": job.attempt}

    @worker.handler("t.thread")
    def thread(job: BlockingJob) -> Any:
        job.progress(0.5, "half", data={"rows": 7})
        return job.args[0] * 3

    async def scenario(world: World) -> None:
        client = world.client
        first = await client.enqueue("t.double", 2**70, "x", queue=QUEUE, meta={"a": 1}, tags=["b"])
        assert (first.state, first.attempt, first.args) == ("available", 0, [2**70, "x"])
        with pytest.raises(ResultPending):
            await client.result(first.id)
        many = await client.enqueue_many([job("t.thread", 5), job("t.thread", 6)])
        async with world.running(worker):
            assert await client.result(first.id, wait=60) == {
                "of": [2**70, "x"],
                "meta": {"a": 1},
                "tags": ["b"],
                "attempt": 1,
            }
            assert [await client.result(each.id, wait=60) for each in many] == [15, 18]
        assert (await client.get(first.id)).state == "completed"
        shown = (await client.get(many[0].id)).members
        assert (shown["progress_data"], shown["result"]) == ({"rows": 7}, 15)

    await play(scenario)


async def test_jobs_with_a_higher_priority_run_first(play: Play) -> None:
    ran: list[Any] = []
    worker = new_worker(concurrency=1)

    @worker.handler("t.note")
    async def note(job: RunningJob) -> None:
        ran.append(job.args[0])

    async def scenario(world: World) -> None:
        ran.clear()
        for name, priority in (("a", 0), ("b", 0), ("c", 5), ("d", -5)):
            last = await world.client.enqueue("t.note", name, queue=QUEUE, priority=priority)
        async with world.running(worker):
            await world.client.result(last.id, wait=60)
        assert ran == ["c", "a", "b", "d"]

    await play(scenario)


async def test_failed_attempts_are_repeated_as_the_policy_says(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.third")
    async def third(job: RunningJob) -> int:
        if job.attempt < 3:
            raise ValueError(f"attempt {job.attempt}")
        return job.attempt

    @worker.handler("t.fails")
    async def fails(job: RunningJob) -> None:
        match job.args[0]:
            case "discard":
                raise Discard("never", code="gone")
            case "named":
                raise Retry("busy", code="net.busy")
        raise KeyError("always")

    async def scenario(world: World) -> None:
        client = world.client
        never = RetryPolicy(max_attempts=9, initial_interval=LATER, non_retryable_errors=["net.*"])

        async def error_of(job: Job) -> Any:
            await world.passes(10 * SOON)
            with pytest.raises(JobFailed) as caught:
                await client.result(job.id, wait=60)
            error = caught.value.error
            assert error is not None
            return error["code"], error["type"], error["attempt"]

        async with world.running(worker):
            good = await client.enqueue("t.third", queue=QUEUE, retry=FAST)
            await world.passes(10 * SOON)
            assert await client.result(good.id, wait=60) == 3
            bad = await client.enqueue("t.fails", "", queue=QUEUE, retry=FAST)
            assert await error_of(bad) == ("handler_error", "KeyError", 3)
            bad = await client.enqueue("t.fails", "discard", queue=QUEUE, retry=FAST)
            assert await error_of(bad) == ("gone", "gone", 1)
            bad = await client.enqueue("t.fails", "named", queue=QUEUE, retry=never)
            assert await error_of(bad) == ("net.busy", "net.busy", 1)
            policy = RetryPolicy(initial_interval=LATER, jitter=False)
            waits = await client.enqueue("t.third", queue=QUEUE, retry=policy)
            found = await job_in(client, waits.id, "retryable")
        assert found.members["retry_delay_ms"] == LATER * 1000
        assert "next_attempt_at" in found.members
        assert [error["message"] for error in found.members["errors"]] == ["attempt 1"]

    await play(scenario)


async def test_backoffs_grow_as_the_strategy_says(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.third")
    async def third(job: RunningJob) -> Any:
        if job.attempt < 3:
            raise ValueError
        return job.job.members["retry_delay_ms"]

    async def scenario(world: World) -> None:
        strategies = {"exponential": 30, "linear": 20, "polynomial": 80, "constant": 10}
        policy = partial(RetryPolicy, initial_interval=0.01, backoff_coefficient=3, jitter=False)
        jobs = [
            job("t.third", retry=policy(strategy=strategy))
            for strategy in ("exponential", "linear", "polynomial", "constant")
        ]
        jobs.append(job("t.third", retry=policy(max_interval=0.025)))
        async with world.running(worker):
            enqueued = await world.client.enqueue_many(jobs)
            await world.passes(1)
            delays = [await world.client.result(each.id, wait=60) for each in enqueued]
        assert delays == [*strategies.values(), 25]

    await play(scenario)


async def test_scheduled_jobs_run_when_they_are_due(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.note")
    async def note(job: RunningJob) -> str:
        return "ran"

    async def scenario(world: World) -> None:
        client = world.client
        async with world.running(worker):
            soon = await client.enqueue("t.note", queue=QUEUE, delay=SOON)
            later = await client.enqueue("t.note", queue=QUEUE, delay=LATER)
            assert later.state == "scheduled"
            await world.passes(10 * SOON)
            assert await client.result(soon.id, wait=60) == "ran"
            assert (await client.get(later.id)).state == "scheduled"
            at = later.members["scheduled_at"]
            assert (await client.get(later.id)).members["scheduled_at"] == at
            cancelled = await client.cancel(later.id)
        assert cancelled.state == "cancelled"
        with pytest.raises(Conflict):
            await client.cancel(later.id)
        with pytest.raises(JobFailed):
            await client.result(later.id)

    await play(scenario)


async def test_a_job_that_has_expired_does_not_run(play: Play) -> None:
    worker, first = new_worker(), Worker(queues=["other"])

    @first.handler("t.note")
    @worker.handler("t.note")
    async def note(job: RunningJob) -> str:
        return "ran"

    async def scenario(world: World) -> None:
        client = world.client
        late = await client.enqueue("t.note", queue=QUEUE, expires=SOON)
        passed = await client.enqueue("t.note", queue="other", delay=4 * SOON)
        async with world.running(first):
            await world.passes(10 * SOON)
            await client.result(passed.id, wait=60)
        async with world.running(worker):
            expired = await world.ended(late)
        assert (expired.state, expired.attempt, expired.error) == ("discarded", 0, None)
        assert "completed_at" not in expired.members

    await play(scenario)


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


async def test_a_cancelled_job_loses_its_worker(play: Play) -> None:
    worker = new_worker()
    seen: dict[str, Any] = {}

    @worker.handler("t.long")
    async def long(job: RunningJob) -> None:
        seen["started"].set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True), pytest.raises(LeaseLost):
                await job.progress(0.5)
            seen["ended"].set()

    async def scenario(world: World) -> None:
        seen.update(started=anyio.Event(), ended=anyio.Event())
        held = await world.client.enqueue("t.long", queue=QUEUE)
        async with world.running(worker):
            await seen["started"].wait()
            assert (await world.client.get(held.id)).state == "active"
            assert (await world.client.cancel(held.id)).state == "cancelled"
            await seen["ended"].wait()
        assert (await world.client.get(held.id)).state == "cancelled"

    await play(scenario)


async def test_a_drained_worker_requeues_its_jobs(play: Play) -> None:
    worker = new_worker(grace=0.1)
    seen: dict[str, Any] = {}

    @worker.handler("t.long")
    async def long(job: RunningJob) -> None:
        seen["started"].set()
        await anyio.sleep_forever()

    async def scenario(world: World) -> None:
        seen.update(started=anyio.Event())
        held = await world.client.enqueue("t.long", queue=QUEUE)
        async with world.running(worker):
            await seen["started"].wait()
        found = await world.client.get(held.id)
        assert (found.state, found.attempt, found.error) == ("available", 1, None)

    await play(scenario)


def test_a_lost_lease_cancels_the_handler_and_the_job_runs_again() -> None:
    async def test() -> None:
        worker, started, cancelled = new_worker(), anyio.Event(), list[int]()

        @worker.handler("t.held")
        async def held(job: RunningJob) -> int:
            if job.attempt == 1:
                started.set()
                try:
                    await anyio.sleep_forever()
                finally:
                    cancelled.append(job.attempt)
            return job.attempt

        server = FakeServer()
        async with server.client() as client, server.running(worker):
            job = await client.enqueue("t.held", queue=QUEUE)
            await started.wait()
            server.lose_leases()
            await server.run_all()
            assert (await client.result(job.id), cancelled) == (2, [1])

    anyio.run(test)


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_lease_ends_when_no_heartbeat_extends_it(attempts: int) -> None:
    async def test() -> None:
        server = FakeServer()
        async with server.client() as client:
            policy = RetryPolicy(max_attempts=attempts)
            made = await client.enqueue("t.held", queue=QUEUE, retry=policy)
            send = client._transport.request
            asked = {"queues": [QUEUE], "worker_id": "w", "visibility_timeout_ms": 10_000}
            [held] = (await send("POST", "/workers/fetch", asked))["jobs"]
            beat = {"worker_id": "w", "leases": {held["id"]: held["lease_id"]}}
            await server.advance(8)
            assert (await send("POST", "/workers/heartbeat", beat))["jobs_extended"] == [made.id]
            await server.advance(8)
            assert (await client.get(made.id)).state == "active"
            await server.advance(8)
            found = await client.get(made.id)
            assert found.state == ("available" if attempts > 1 else "discarded")
            assert (await send("POST", "/workers/heartbeat", beat))["jobs_extended"] == []
            late = {"worker_id": "w", "nacks": [{"job_id": made.id, "lease_id": held["lease_id"]}]}
            [result] = (await send("POST", "/workers/nack/batch", late))["results"]
            assert result["status"] == 409

    anyio.run(test)


async def test_an_attempt_continues_from_the_checkpoint_and_not_from_the_progress(
    play: Play,
) -> None:
    worker = new_worker()

    @worker.handler("t.rows")
    async def rows(job: RunningJob) -> Any:
        if job.checkpoint is None:
            await job.progress(0.7, "most rows")
            await job.progress(0.2)
            await job.save_checkpoint({"row": 6})
            await job.save_checkpoint({"row": 7})
            raise Retry("again")
        shown = (await job.client.get(job.id)).members.get("progress")
        return [job.checkpoint, shown]

    async def scenario(world: World) -> None:
        async with world.running(worker):
            enqueued = await world.client.enqueue("t.rows", queue=QUEUE, retry=FAST)
            await world.passes(10 * SOON)
            result = await world.client.result(enqueued.id, wait=60)
        assert result[0] == {"row": 7}

    await play(scenario)


async def test_workflows_run_in_their_order_with_their_results(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.add")
    async def add(job: RunningJob) -> Any:
        return [job.args[0], *job.parent_results]

    async def scenario(world: World) -> None:
        async with world.running(worker):
            ended = await world.run(chain(job("t.add", 1), job("t.add", 2), job("t.add", 3)))
            assert (ended.type, ended.state) == ("chain", "completed")
            assert [step.result for step in ended.steps] == [[1], [2, [1]], [3, [1], [2, [1]]]]
            ended = await world.run(group(job("t.add", 1), job("t.add", 2), name="pair"))
            assert (ended.name, [step.result for step in ended.steps]) == ("pair", [[1], [2]])
            nested = chain(
                job("t.add", 1), group(job("t.add", 2), job("t.add", 3)), job("t.add", 4)
            )
            ended = await world.run(nested)
            assert [step.result for step in ended.steps] == [
                [1],
                [2, [1]],
                [3, [1]],
                [4, [1], [[2, [1]], [3, [1]]]],
            ]
            assert [step.id for step in ended.steps] == ["step-0", "step-1", "step-2", "step-3"]

    await play(scenario)


async def test_a_failed_step_skips_the_rest_and_calls_back(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.works")
    async def works(job: RunningJob) -> Any:
        return job.parent_results or job.args[0]

    @worker.handler("t.fails")
    async def fails(job: RunningJob) -> None:
        raise Discard("no", code="broken")

    def called(workflow: Workflow) -> dict[str, Any]:
        found: dict[str, Any] = workflow.members["callbacks"]
        return {name: (step["state"], step.get("result")) for name, step in found.items()}

    async def scenario(world: World) -> None:
        callbacks: Any = dict.fromkeys(
            ("on_complete", "on_success", "on_failure"), job("t.works", 0)
        )
        async with world.running(worker):
            ended = await world.run(chain(job("t.works", 1), job("t.fails"), job("t.works", 3)))
            assert ended.state == "failed"
            assert [step.state for step in ended.steps] == ["completed", "failed", "cancelled"]
            error = ended.steps[1].error
            assert error is not None
            assert error["code"] == "broken"
            ended = await world.run(batch(job("t.works", 1), job("t.works", 2), **callbacks))
            assert ended.state == "completed"
            assert called(ended) == {
                "on_complete": ("completed", [1, 2]),
                "on_success": ("completed", [1, 2]),
                "on_failure": ("cancelled", None),
            }
            ended = await world.run(batch(job("t.works", 1), job("t.fails"), **callbacks))
            assert ended.state == "failed"
            assert called(ended) == {
                "on_complete": ("completed", [1, None]),
                "on_success": ("cancelled", None),
                "on_failure": ("completed", [1, None]),
            }

    await play(scenario)


async def test_a_cancelled_workflow_starts_no_further_step(play: Play) -> None:
    worker = new_worker()
    seen: dict[str, Any] = {}

    @worker.handler("t.holds")
    async def holds(job: RunningJob) -> str:
        seen["started"].set()
        await seen["go"].wait()
        return "done"

    async def scenario(world: World) -> None:
        client = world.client
        seen.update(started=anyio.Event(), go=anyio.Event())
        started = await client.start(chain(job("t.holds"), job("t.holds")))
        async with world.running(worker):
            await seen["started"].wait()
            assert (await client.cancel_workflow(started.id)).state == "cancelled"
            seen["go"].set()
            found = await client.workflow(started.id)
            assert found.steps[0].job_id is not None
            assert await client.result(found.steps[0].job_id, wait=60) == "done"
        found = await client.workflow(started.id)
        assert (found.state, found.steps[1].state) == ("cancelled", "cancelled")
        assert found.steps[1].job_id is not None
        with pytest.raises(NotFound):
            await client.get(found.steps[1].job_id)
        with pytest.raises(Conflict):
            await client.cancel_workflow(started.id)
        with pytest.raises(NotFound):
            await client.workflow("019539a4-0000-7000-8000-00000000000f")

    await play(scenario)


async def test_envelopes_have_the_same_members(standalone: Embedded) -> None:
    """Of a job in each state. Only ids and times differ."""
    async with open_app(standalone) as app, serving(app, lane=True) as port:
        seen = await envelopes(f"http://127.0.0.1:{port}")
    assert await envelopes(None) == seen


async def envelopes(url: str | None) -> dict[str, Any]:
    """Return the envelope of a job in each state, without ids and times."""
    worker = new_worker()

    @worker.handler("t.ends")
    async def ends(job: RunningJob) -> Any:
        match job.args[0]:
            case "discarded":
                raise Discard("no")
            case "retryable":
                raise Retry("again", code="busy")
        if job.attempt == 1:
            raise Retry("again")
        await job.progress(0.5, data={"rows": 7})
        return {"n": 1}

    shown: dict[str, Any] = {}

    async def scenario(world: World) -> None:
        client = world.client
        retry = RetryPolicy(initial_interval=SOON, jitter=False, non_retryable_errors=["x.*"])
        later = RetryPolicy(
            initial_interval=LATER, jitter=False, strategy="linear", on_exhaustion="dead_letter"
        )
        common: Any = {"queue": QUEUE, "timeout": 9, "tags": ["a"]}
        async with world.running(worker):
            for state in ("completed", "discarded", "retryable"):
                policy = later if state == "retryable" else retry
                enqueued = await client.enqueue("t.ends", state, **common, retry=policy)
                await world.passes(10 * SOON)
                shown[state] = dict((await job_in(client, enqueued.id, state)).members)
        unique = Unique(keys=["queue", "meta"], meta_keys=["m"], args_keys=["0"], period=90)
        waiting: dict[str, Any] = {
            "available": {"unique": unique, "meta": {"m": 1}},
            "scheduled": {"delay": LATER, "expires": 2 * LATER},
        }
        for state, options in waiting.items():
            enqueued = await client.enqueue("t.ends", state, **common, **options)
            shown[state] = dict((await client.get(enqueued.id)).members)
        shown["cancelled"] = dict((await client.cancel(enqueued.id)).members)
        for members in shown.values():
            for name in [name for name in members if name.endswith("_at") or name == "id"]:
                assert isinstance(members[name], str)
                members[name] = ""
            for error in [*members.get("errors", ()), members.get("error", {})]:
                error.pop("occurred_at", None)

    await in_loop(scenario, url, "asyncio")
    return shown
