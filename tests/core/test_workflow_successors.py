"""The end of a job starts what a visit of the whole workflow would start, at a flat cost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from ojs_cluster.core.workflow import (
    COMPLETED,
    ENDED,
    RUNNING,
    Plan,
    WorkflowNode,
    evaluate,
)
from ojs_cluster.core.workflow_successors import Successors
from tests.core.test_workflow import job, parse

CALLBACKS = ("on_complete", "on_success", "on_failure")


def random_workflow(rng: random.Random, level: int = 1) -> dict[str, Any]:
    """Return the members of a random workflow, with nested ones up to the third level."""
    kind = rng.choice(["chain", "group", "batch", "dag"])
    steps = [
        random_workflow(rng, level + 1) if level < 3 and rng.random() < 0.3 else job()
        for _ in range(rng.randint(1, 5))
    ]
    if kind == "dag":
        for number, step in enumerate(steps):
            before = [f"s{other}" for other in range(number) if rng.random() < 0.4]
            rng.shuffle(before)
            step |= {"id": f"s{number}", "depends_on": before}
            if step.get("type") == "t" and before and rng.random() < 0.3:
                step["options"] = {"callback_type": rng.choice(CALLBACKS)}
        steps[0].pop("options", None)
        return {"steps": steps}
    callbacks = {name: job() for name in CALLBACKS if rng.random() < 0.5}
    if kind == "batch" and not callbacks:
        callbacks["on_complete"] = job()
    return {"type": kind, "steps": steps} | ({"callbacks": callbacks} if callbacks else {})


@pytest.mark.parametrize("marks_late", [False, True])
@pytest.mark.parametrize("seed", range(300))
def test_each_end_starts_what_a_visit_of_all_nodes_starts(seed: int, marks_late: bool) -> None:
    """With ``marks_late``, started jobs are recorded as enqueued later, or only when they end."""
    rng = random.Random(seed)
    plan = parse(**random_workflow(rng)).plan
    successors = Successors(plan)
    fate = [rng.choice("cccdx" if seed % 2 else "c") for _ in plan.jobs]
    statuses = ["."] * len(plan.jobs)
    running = list(evaluate(plan, "".join(statuses)).ready)
    started = set(running)
    while running:
        for number in running:
            if not marks_late or rng.random() < 0.5:
                statuses[number] = "q"
        number = running.pop(rng.randrange(len(running)))
        statuses[number] = fate[number]
        expected = evaluate(plan, "".join(statuses))
        found = successors.after("".join(statuses), [number])

        assert set(found.ready) == set(expected.ready) - started
        assert found.state == expected.state
        running += found.ready
        started.update(found.ready)
    assert evaluate(plan, "".join(statuses)).state in ENDED


@pytest.mark.parametrize("seed", range(100))
def test_a_repeated_end_starts_what_no_process_lived_to_start(seed: int) -> None:
    """A process dies at some point after the end of a job, and jobs after it were refused."""
    rng = random.Random(seed)
    plan = parse(**random_workflow(rng)).plan
    statuses = list("." * len(plan.jobs))
    running = list(evaluate(plan, "".join(statuses)).ready)
    while running:
        for number in running:
            statuses[number] = "q"
        number = running.pop(rng.randrange(len(running)))
        statuses[number] = "c"
        refused = [n for n in evaluate(plan, "".join(statuses)).ready if rng.random() < 0.5]
        for other in refused:
            statuses[other] = rng.choice("cd")
        expected = evaluate(plan, "".join(statuses))
        found = Successors(plan).after("".join(statuses), [number])

        assert list(found.ready) == list(expected.ready)
        assert found.state == expected.state
        running += found.ready


class Counted(list[WorkflowNode]):
    """Nodes that count how often they are read."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        self.reads += 1
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[WorkflowNode]:
        self.reads += len(self)
        return super().__iter__()


def reads(statuses: str, ended: int, **body: Any) -> int:
    """Return the number of nodes that are read when a job ends."""
    plan = parse(**body).plan
    nodes = Counted(plan.nodes)
    successors = Successors(Plan(nodes))
    nodes.reads = 0
    successors.after(statuses, [ended])
    return nodes.reads


@pytest.mark.parametrize("size", [10, 100, 900])
def test_an_end_reads_as_many_nodes_in_a_large_workflow_as_in_a_small_one(size: int) -> None:
    at = size // 2
    callbacks = {name: job() for name in CALLBACKS}
    chain: dict[str, Any] = {"type": "chain", "steps": [job()] * size}
    group: dict[str, Any] = {"type": "group", "jobs": [job()] * size}
    started = "c" * at + "q" * (size - at)
    starting = "c" * at + "." * (size - at)  # its starter has not come further
    failed = "d" + started[1:]

    assert reads("c" * at + "." * (size - at), at - 1, **chain) <= 10
    assert reads("c" * at + "." * (size - at + 3), at - 1, **chain, callbacks=callbacks) <= 20
    for statuses in (started, starting, failed, "q" + started[1:]):
        assert reads(statuses, at - 1, **group) <= 10
        assert reads(statuses + "...", at - 1, **group, callbacks=callbacks) <= 20
    chains = {"type": "group", "jobs": [{"type": "chain", "steps": [job(), job()]}] * (size // 2)}
    assert reads("c" * at + "q" + "." * (size - at - 1), at - 1, **chains) <= 20


def test_the_last_end_ends_the_workflow() -> None:
    plan = parse(type="group", jobs=[job()] * 3).plan
    assert Successors(plan).after("ccq", [1]).state == RUNNING
    assert Successors(plan).after("ccc", [2]).state == COMPLETED
