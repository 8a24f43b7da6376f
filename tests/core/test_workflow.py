"""Workflow requests in every spelling, and what follows from outcomes."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest

from ojs_cluster.core.errors import InvalidRequest, OJSError, PayloadTooLarge, ValidationFailed
from ojs_cluster.core.workflow import (
    COMPLETED,
    ENDED,
    FAILED,
    RUNNING,
    Plan,
    decode_plan,
    evaluate,
    inputs,
    render,
)
from ojs_cluster.core.workflow_request import (
    MAX_DEPENDENCIES,
    MAX_LEVELS,
    NewWorkflow,
    parse_workflow,
)


def job(type: str = "t", **members: Any) -> dict[str, Any]:
    return {"type": type, "args": [], **members}


def parse(**body: Any) -> NewWorkflow:
    return parse_workflow(json.dumps(body).encode())


def deps(new: NewWorkflow) -> list[list[int]]:
    """What each job waits for, by job numbers; of flat workflows."""
    return [[new.plan.nodes[dep].job for dep in node.deps] for node in new.plan.jobs]


def test_a_chain_s_steps_wait_for_the_one_before() -> None:
    new = parse(type="chain", steps=[job("a"), job("b"), job("c")])
    assert (new.type, new.name, deps(new)) == ("chain", "", [[], [0], [1]])
    assert [node.type for node in new.plan.jobs] == ["a", "b", "c"]


def test_steps_as_the_reference_s_readme_has_them() -> None:
    new = parse(type="chain", steps=[{"type": "extract.data", "queue": "etl"}] * 2)
    assert [node.queue for node in new.plan.jobs] == ["etl", "etl"]
    assert json.loads(new.definitions[0]) == {"type": "extract.data", "queue": "etl", "args": []}


@pytest.mark.parametrize(
    ("edges", "kind"),
    [
        ([[], [], []], "group"),
        ([[], ["step-0"], ["step-1"]], "chain"),
        ([[], ["step-0"], ["step-0"]], "dag"),
        ([[]], "group"),
    ],
)
def test_the_kind_follows_from_the_edges_when_no_type_is_sent(
    edges: list[list[str]], kind: str
) -> None:
    steps = [job(id=f"step-{i}", depends_on=edge) for i, edge in enumerate(edges)]
    new = parse(name="n", steps=steps)
    assert new.type == kind
    assert deps(new) == [[int(name[5:]) for name in edge] for edge in edges]


def test_callback_steps_of_the_python_sdk_make_a_batch() -> None:
    back = {"callback_type": "on_failure", "queue": "q"}
    steps = [job(id="step-0"), job(id="step-1")]
    ends = job(id="on_failure", depends_on=["step-0", "step-1"], options=back)
    new = parse(name="n", steps=[*steps, ends])
    assert new.type == "batch"
    assert deps(new)[2] == [0, 1]
    assert new.plan.jobs[2].callback == "on_failure"
    assert b"callback_type" not in new.definitions[2]
    assert len(new.plan.steps) == 2


def test_steps_with_the_ids_of_callbacks_are_those_of_a_batch() -> None:
    ids = ["job-0", "job-1"]
    jobs = [job(id=name, depends_on=[]) for name in ids]
    back = [job(id=name, depends_on=ids) for name in ("on-complete", "on-success", "on-failure")]
    plan = parse(steps=[*jobs, *back]).plan
    assert plan.nodes[0].kind == "batch"
    assert [(node.callback, node.trigger) for node in plan.jobs[2:]] == [
        ("on_complete", "complete"),
        ("on_success", "success"),
        ("on_failure", "failure"),
    ]
    assert all(node.deps == (1, 2) for node in plan.jobs[2:])


@pytest.mark.parametrize(
    "steps",
    [
        [job(id="a"), job(id="b"), job(id="on-failure", depends_on=["a"])],
        [job(id="a"), job(id="b", depends_on=["a"]), job(id="on-failure", depends_on=["a", "b"])],
        [job(id="a"), job(id="on-failure")],
        [job(), job(id="a"), job(id="on-failure", depends_on=["a"])],
        [job(id="on-failure")],
    ],
)
def test_other_steps_with_the_ids_of_callbacks_are_steps(steps: list[dict[str, Any]]) -> None:
    assert not any(node.callback for node in parse(steps=steps).plan.jobs)


@pytest.mark.parametrize("awaited", [["b", "a"], ["b", "first"], ["a", "b", "first"]])
def test_callback_steps_may_name_the_other_steps_in_any_order(awaited: list[str]) -> None:
    steps = [job(id="a", name="first"), job(id="b"), job(id="on-failure", depends_on=awaited)]
    assert [node.callback for node in parse(steps=steps).plan.jobs] == ["", "", "on_failure"]


def test_a_workflow_with_a_type_has_no_callbacks_by_id() -> None:
    steps = [job(id="a"), job(id="on-failure", depends_on=["a"])]
    plan = parse(type="dag", steps=steps).plan
    assert not any(node.callback for node in plan.jobs)


def test_a_steps_own_options_win_over_defaults() -> None:
    new = parse(
        type="group",
        options={"queue": "low", "priority": 5},
        jobs=[job(), job(options={"queue": "own"}), job(queue="beside")],
    )
    assert [node.queue for node in new.plan.jobs] == ["low", "own", "beside"]
    assert all(b'"priority":5' in definition for definition in new.definitions)


def test_a_step_s_bytes_are_kept() -> None:
    raw = b'{"type":"chain","steps":[{"type":"t","args":[1.0,1e400,"\\u00e9"],"x_new":[]}]}'
    [definition] = parse_workflow(raw).definitions
    assert b'[1.0,1e400,"\\u00e9"]' in definition
    assert b'"x_new":[]' in definition


def test_a_job_s_type_may_be_the_name_of_a_kind() -> None:
    new = parse(type="chain", steps=[job("chain"), job("batch")])
    assert [node.kind for node in new.plan.nodes] == ["chain", "job", "job"]


def nest(levels: int) -> dict[str, Any]:
    inner = job()
    for _ in range(levels):
        inner = {"type": "chain", "steps": [inner]}
    return inner


def test_nesting_is_bounded() -> None:
    assert len(parse(**nest(MAX_LEVELS)).plan.nodes) == MAX_LEVELS + 1
    with pytest.raises(InvalidRequest, match="nest"):
        parse(**nest(MAX_LEVELS + 1))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": "chain", "steps": []}, "steps"),
        ({"type": "chain"}, "steps"),
        ({"type": "group"}, "jobs"),
        ({"type": "group", "jobs": {}}, "jobs"),
        ({"type": "ring", "steps": [job()]}, "type"),
        ({"type": "batch", "jobs": [job()]}, "callbacks"),
        ({"type": "batch", "jobs": [job()], "callbacks": {"on_end": job()}}, "callbacks.on_end"),
        (
            {"type": "batch", "jobs": [job()], "callbacks": {"on_success": 1}},
            "callbacks.on_success",
        ),
        ({"type": "chain", "steps": [job(), 3]}, "steps[1]"),
        ({"type": "chain", "steps": [job(), job("No")]}, "steps[1].type"),
        ({"type": "chain", "steps": [job(options={"queue": "No"})]}, "steps[0].options.queue"),
        ({"type": "chain", "name": 4, "steps": [job()]}, "name"),
        ({"steps": [job(id="a", depends_on=["b"])]}, "steps[0].depends_on[0]"),
        ({"steps": [job(id="a", depends_on="a")]}, "steps[0].depends_on"),
        ({"steps": [job(id="a", depends_on=["a"])]}, "steps[0].depends_on"),
        (
            {"steps": [job(id="a", depends_on=["b"]), job(id="b", depends_on=["a"])]},
            "steps[0].depends_on",
        ),
        ({"steps": [job(id="a"), job(id="a")]}, "steps[1]"),
        (
            {"type": "group", "jobs": [job(), {"type": "chain", "steps": [job("No")]}]},
            "jobs[1].steps[0].type",
        ),
        ({"steps": [job(options={"callback_type": "on_end"})]}, "steps[0].options.callback_type"),
    ],
)
def test_errors_name_the_wrong_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(OJSError) as caught:
        parse(**body)
    assert caught.value.field == field


def test_the_policy_of_a_unique_step_is_checked_with_the_workflow() -> None:
    parse(type="chain", steps=[job(options={"unique": {"keys": ["type"]}})])
    with pytest.raises(ValidationFailed) as caught:
        parse(type="chain", steps=[job(options={"unique": {"on_conflict": "never"}})])
    assert caught.value.field == "steps[0].options.unique.on_conflict"


def test_a_workflow_has_a_thousand_jobs_at_most() -> None:
    assert len(parse(type="group", jobs=[job()] * 1000).definitions) == 1000
    with pytest.raises(PayloadTooLarge):
        parse(type="group", jobs=[job()] * 1001)


def test_the_options_of_a_workflow_count_for_each_of_its_steps() -> None:
    options = {"tags": ["x" * 100_000]}
    assert len(parse(type="group", jobs=[job()] * 160, options=options).definitions) == 160
    with pytest.raises(PayloadTooLarge) as caught:
        parse(type="group", jobs=[job()] * 170, options=options)
    assert caught.value.field == "jobs[167]"


def test_a_long_chain_needs_no_deep_recursion() -> None:
    steps = [job(id=f"s{i}", depends_on=[f"s{i - 1}"] if i else []) for i in range(1000)]
    plan = parse(steps=steps[::-1]).plan
    assert evaluate(plan, "." * 1000).ready == [999]
    assert evaluate(plan, "c" * 1000).state == COMPLETED


def test_the_dependencies_of_a_workflow_are_bounded() -> None:
    """Each response with the workflow names all of them, however small the request was."""
    first = [f"a{number}" for number in range(100)]
    steps = [job(id=label) for label in first]
    steps += [job(id=f"b{number}", depends_on=first) for number in range(100)]
    plan = parse(steps=steps).plan
    assert sum(len(node.deps) for node in plan.jobs) == MAX_DEPENDENCIES
    with pytest.raises(PayloadTooLarge) as refused:
        parse(steps=[*steps, job(id="c", depends_on=["b0"])])
    assert refused.value.details["limit"] == MAX_DEPENDENCIES
    assert refused.value.field == "steps[200].depends_on"
    # Levels count together, and a callback waits for each step without naming it.
    half = {"steps": steps[:150]}
    with pytest.raises(PayloadTooLarge):
        parse(type="group", jobs=[half, half, {"steps": steps[:102]}])
    callbacks = [
        job(id=f"k{number}", options={"callback_type": "on_complete"}) for number in range(101)
    ]
    with pytest.raises(PayloadTooLarge):
        parse(steps=[*steps[:100], *callbacks])
    assert len(parse(steps=[*steps[:100], *callbacks[:100]]).plan.jobs) == 200


def test_a_plan_survives_storage() -> None:
    plan = parse(type="batch", jobs=[nest(2), job()], callbacks={"on_complete": job()}).plan
    assert decode_plan(plan.encode()) == plan


def two_and_callbacks() -> Plan:
    names = ("on_complete", "on_success", "on_failure")
    return parse(type="batch", jobs=[job(), job()], callbacks={n: job(n) for n in names}).plan


@pytest.mark.parametrize(
    ("statuses", "ready", "state"),
    [
        ("..", [0, 1], RUNNING),
        ("q.", [1], RUNNING),
        ("cd", [2, 4], RUNNING),
        ("cc", [2, 3], RUNNING),
        ("xq", [], RUNNING),
        ("cccc", [], COMPLETED),
        ("ccdc", [], FAILED),
        ("cdc.c", [], FAILED),
    ],
)
def test_callbacks_by_outcome(statuses: str, ready: list[int], state: str) -> None:
    evaluation = evaluate(two_and_callbacks(), statuses.ljust(5, "."))
    assert (evaluation.ready, evaluation.state) == (ready, state)


def random_graph(rng: random.Random) -> Plan:
    steps = [
        job(id=f"s{i}", depends_on=[f"s{j}" for j in range(i) if rng.random() < 0.3])
        for i in range(rng.randint(1, 8))
    ]
    if rng.random() < 0.5:
        name = rng.choice(["on_complete", "on_success", "on_failure"])
        steps.append(job(id="back", options={"callback_type": name}))
    if rng.random() < 0.5:
        steps[0] = {**nest(2), "id": "s0"}
    return parse(steps=steps).plan


@pytest.mark.parametrize("seed", range(200))
def test_evaluation_is_monotone_and_every_order_ends_the_same(seed: int) -> None:
    rng = random.Random(seed)
    plan = random_graph(rng)
    fate = [rng.choice("cccd") for _ in plan.jobs]

    def run() -> tuple[str, str]:
        statuses = "." * len(plan.jobs)
        running: list[int] = []
        while True:
            evaluation = evaluate(plan, statuses)
            for number in evaluation.ready:
                running.append(number)
                statuses = statuses[:number] + "q" + statuses[number + 1 :]
            if evaluation.state in ENDED:
                assert not running
                return evaluation.state, statuses
            number = running.pop(rng.randrange(len(running)))
            before = evaluate(plan, statuses)
            statuses = statuses[:number] + fate[number] + statuses[number + 1 :]
            after = evaluate(plan, statuses)
            for was, now in zip(before.states, after.states, strict=True):
                assert was == now or was not in ENDED

    assert run() == run()


def test_results_reach_later_steps() -> None:
    fan = {"type": "group", "jobs": [job("g0"), {"type": "chain", "steps": [job(), job("c1")]}]}
    plan = parse(type="chain", steps=[job("a"), fan, job("z")]).plan
    results = {number: b"%d" % number for number in range(len(plan.jobs))}

    def given(number: int) -> Any:
        return json.loads(render(list(inputs(plan, number)[0]), results))

    assert [given(number) for number in range(5)] == [[], [0], [0], [2], [0, [1, 3]]]
    del results[1]
    assert given(4) == [0, [None, 3]]


def test_labels_name_results() -> None:
    steps = [job(id="a"), job(name="b"), job(id="z", depends_on=["b", "a"])]
    trees, names = inputs(parse(steps=steps).plan, 2)
    assert (trees, names) == ([1, 0], ["b", "a"])


def test_all_callback_combinations_of_a_pair_agree_with_the_matrix() -> None:
    plan = two_and_callbacks()
    for statuses in itertools.product("cdx", repeat=2):
        good = set(statuses) == {"c"}
        assert evaluate(plan, "".join(statuses) + "...").ready == ([2, 3] if good else [2, 4])
