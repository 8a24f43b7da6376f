"""Examples with known results for the oracle of unique jobs, workflows and limits."""

from __future__ import annotations

from typing import Literal

import pytest

from ojs_cluster.core.errors import Conflict, Duplicate
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.jobs.retry import RetryPolicy
from ojs_cluster.core.jobs.states import State
from tests.model.coordination import STEADY, CoordinatedModel, Step
from tests.model.jobs import outcome

FATAL = parse_failure(b'{"retryable":false}')
BOOM = parse_failure(b'"boom"')


@pytest.fixture
def model() -> CoordinatedModel:
    return CoordinatedModel()


def started(model: CoordinatedModel, kind: Literal["chain", "group"], *ids: str) -> None:
    policy = RetryPolicy(jitter=False)
    model.create_workflow("w", kind, [Step(job_id, "default", policy) for job_id in ids])


def run(model: CoordinatedModel) -> str:
    [job] = model.fetch(["default"])
    model.ack(job.job_id)
    return job.job_id


def test_one_job_of_a_fingerprint_is_live(model: CoordinatedModel) -> None:
    model.enqueue_unique("a", "default", "f", "reject")
    assert outcome(lambda: model.enqueue_unique("b", "other", "f", "reject")) is Duplicate
    assert model.enqueue_unique("b", "other", "f", "ignore").job_id == "a"
    assert model.enqueue_unique("c", "other", "f", "replace").job_id == "c"
    assert model.get("a").state is State.CANCELLED
    model.cancel("c")
    assert model.enqueue_unique("d", "default", "f", "reject").state is State.AVAILABLE


def test_a_dead_letter_that_runs_again_holds_no_lock(model: CoordinatedModel) -> None:
    model.enqueue_unique("a", "default", "f", "reject")
    model.jobs["a"].on_exhaustion = "dead_letter"
    model.fetch(["default"])
    model.nack("a", FATAL)
    model.retry_dead("a")
    assert model.enqueue_unique("b", "default", "f", "reject").job_id == "b"


def test_a_chain_goes_step_by_step(model: CoordinatedModel) -> None:
    started(model, "chain", "a", "b")
    assert "b" not in model.jobs
    assert [run(model), run(model)] == ["a", "b"]
    assert model.workflows["w"].state == "completed"


def test_a_chain_ends_with_its_first_failure(model: CoordinatedModel) -> None:
    started(model, "chain", "a", "b")
    model.fetch(["default"])
    model.nack("a", FATAL)
    assert model.workflows["w"].state == "failed"
    assert "b" not in model.jobs


def test_a_group_waits_for_all(model: CoordinatedModel) -> None:
    started(model, "group", "a", "b")
    model.cancel("a")
    assert model.workflows["w"].state == "running"
    assert run(model) == "b"
    assert model.workflows["w"].state == "failed"


@pytest.mark.parametrize("end", ["ack", "nack", "requeue", "lost"])
def test_cancellation_lets_the_active_job_finish_its_attempt(
    model: CoordinatedModel, end: str
) -> None:
    started(model, "group", "a", "b")
    model.fetch(["default"])
    model.cancel_workflow("w")
    assert outcome(lambda: model.cancel_workflow("w")) is Conflict
    assert (model.get("a").state, model.get("b").state) == (State.ACTIVE, State.CANCELLED)
    if end == "ack":
        assert model.ack("a").state is State.COMPLETED
        return
    if end == "nack":
        model.nack("a", BOOM)
    elif end == "requeue":
        model.requeue("a")
    else:
        model.advance(10 * STEADY.initial_ms)
    assert model.get("a").state is State.CANCELLED


def test_a_limit_blocks_and_releases_jobs(model: CoordinatedModel) -> None:
    for job_id in "abc":
        model.enqueue(job_id)
    model.limit("default", 2)
    assert [job.job_id for job in model.fetch(["default"], 9)] == ["a", "b"]
    assert model.fetch(["default"], 9) == []
    model.ack("a")
    assert [job.job_id for job in model.fetch(["default"], 9)] == ["c"]
    model.limit("default", None)
    model.enqueue("d")
    assert len(model.fetch(["default"], 9)) == 1
