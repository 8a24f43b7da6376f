"""The inputs that a step of a chain takes from the step before it are those of a read of all."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Mapping

import orjson
import pytest
from msgspec.structs import replace

from ojs_cluster.core.workflow import Plan, inputs, render
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.workflows.enqueue_steps import _inputs_of_next
from ojs_cluster.store.ground import job_fields as f
from tests.core.test_workflow import parse
from tests.core.test_workflow_successors import random_workflow
from tests.store.shortcuts import ack, take
from tests.store.workflow_jobs import make, step


def fields_of(plan: Plan, number: int, results: Mapping[int, bytes]) -> list[bytes]:
    """Return names and values of the fields with a job's inputs, from all results."""
    trees, names = inputs(plan, number)
    fields = [f.PARENTS, render(list(trees), results)] if trees else []
    return fields + ([f.PARENT_NAMES, orjson.dumps(names)] if any(names) else [])


@pytest.mark.parametrize("seed", range(100))
def test_inputs_of_the_next_step(seed: int) -> None:
    rng = random.Random(seed)
    nodes = [
        replace(node, job_id=f"job-{node.job}", label=rng.choice(["", f"step {node.job}"]))
        for node in parse(**random_workflow(rng)).plan.nodes
    ]
    plan = Plan(nodes)
    results = {n: b"[%d]" % n for n in range(len(plan.jobs)) if rng.random() < 0.7}
    for number, node in enumerate(plan.jobs):
        for before in range(number):
            pairs = iter(fields_of(plan, before, results))
            stored = dict(zip(pairs, pairs, strict=True))
            if before in results:
                stored[f.RESULT] = results[before]
            job = JobRecord(plan.jobs[before].job_id, stored)
            found = _inputs_of_next(plan, number, job, 1000)
            assert found is None or found == fields_of(plan, number, results)
            is_step = plan.nodes[node.parent].kind == "chain" and not node.callback
            if is_step and [plan.nodes[dep].job for dep in node.deps] == [before]:
                assert found is not None or plan.jobs[before].label
                assert _inputs_of_next(plan, number, job, 1) is None
            else:
                assert found is None


async def test_inputs_of_steps_that_are_enqueued_are_not_kept(store: Store) -> None:
    """Each of these steps has inputs of its own, although they are equal."""
    steps = [step(id="a")] + [step(id=f"s{n}", depends_on=["a"]) for n in range(40)]
    await make(store, steps=steps)
    [job] = await take(store)
    result = b'"%b"' % (b"x" * 500_000)
    tracemalloc.start()
    try:
        await ack(store, job, result=result)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30 * len(result), "a few portions, and not the inputs of all steps"
