"""Workflows of the fake server run as those of a server do."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from ojs_client import (
    Conflict,
    Discard,
    NotFound,
    RunningJob,
    Workflow,
    after,
    batch,
    chain,
    dag,
    group,
)
from tests.client_library.fake.worlds import Play, World, job, new_worker


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


async def test_a_graph_runs_in_the_order_of_its_steps(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.add")
    async def add(job: RunningJob) -> Any:
        return [job.args[0], *job.parent_results]

    @worker.handler("t.fails")
    async def fails(job: RunningJob) -> None:
        raise Discard("no", code="broken")

    async def scenario(world: World) -> None:
        graph = dag(
            {
                "late": after(job("t.add", 4), "pair", "a"),
                "pair": after(group(job("t.add", 2), job("t.add", 3)), "a"),
                "a": job("t.add", 1),
            }
        )
        broken = dag(
            {
                "a": job("t.fails"),
                "b": after(job("t.add", 1), "a"),
                "c": after(job("t.add", 2), "b"),
                "other": job("t.add", 3),
            }
        )
        async with world.running(worker):
            ended = await world.run(graph)
            assert (ended.type, ended.state) == ("dag", "completed")
            assert [step.id for step in ended.steps] == ["late", "step-1", "step-2", "a"]
            assert [step.result for step in ended.steps] == [
                [4, [[2, [1]], [3, [1]]], [1]],
                [2, [1]],
                [3, [1]],
                [1],
            ]
            ended = await world.run(broken)
            assert ended.state == "failed"
            states = [step.state for step in ended.steps]
            assert states == ["failed", "cancelled", "cancelled", "completed"]

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
