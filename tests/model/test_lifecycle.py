"""Examples with known results for the lifecycle oracle."""

from __future__ import annotations

import pytest

from ojs_cluster.core.errors import Conflict, Duplicate, NotFound
from ojs_cluster.core.jobs.failure import Failure, parse_failure
from ojs_cluster.core.jobs.retry import RetryPolicy
from ojs_cluster.core.jobs.states import State
from tests.model.jobs import outcome
from tests.model.lifecycle import UNIT, Model

BOOM = parse_failure(b'"boom"')
STEADY = RetryPolicy(jitter=False, initial_ms=UNIT, max_ms=100 * UNIT)
ONCE = RetryPolicy(max_attempts=1, on_exhaustion="dead_letter", jitter=False)


@pytest.fixture
def model() -> Model:
    return Model()


def _fetched(model: Model, count: int = 10, *queues: str) -> list[str]:
    return [job.job_id for job in model.fetch(queues or ["default"], count)]


def test_jobs_are_served_by_queue_then_priority_then_arrival(model: Model) -> None:
    model.enqueue("a", "low")
    model.enqueue("b", "default", priority=-1)
    model.enqueue("c", "default", priority=5)
    model.enqueue("d", "default", priority=5)
    assert _fetched(model, 3, "default", "low") == ["c", "d", "b"]
    assert _fetched(model, 3, "default", "low") == ["a"]


def test_an_id_is_used_once(model: Model) -> None:
    model.enqueue("a")
    assert outcome(lambda: model.enqueue("a", "other")) is Duplicate


def test_an_attempt_counts_when_it_begins(model: Model) -> None:
    assert model.enqueue("a").attempt == 0
    (job,) = model.fetch(["default"], 1, "w")
    assert (job.attempt, job.state, job.worker) == (1, State.ACTIVE, "w")
    assert job.times == {"started_at"}


def test_a_failed_job_waits_for_its_backoff(model: Model) -> None:
    model.enqueue("a", retry=STEADY)
    model.fetch(["default"])
    job = model.nack("a", BOOM)
    assert (job.state, job.attempt, job.retry_delay_ms) == (State.RETRYABLE, 1, UNIT)
    assert job.times == {"started_at", "next_attempt_at"}
    model.advance(UNIT - 1)
    assert _fetched(model) == []
    model.advance(1)
    assert _fetched(model) == ["a"]
    assert model.nack("a", BOOM).retry_delay_ms == 2 * UNIT


def test_attempts_run_out(model: Model) -> None:
    model.enqueue("a", retry=STEADY)
    for _ in range(3):
        model.fetch(["default"])
        job = model.nack("a", BOOM)
        model.advance(10 * UNIT)
    assert job.state is State.DISCARDED
    assert job.errors == ("handler_error",) * 3
    assert job.times == {"started_at", "discarded_at", "completed_at"}
    assert model.dead_letters() == set()


@pytest.mark.parametrize(
    ("failure", "dead"),
    [
        (parse_failure(b'{"retryable":false}'), True),
        (parse_failure(b'{"type":"Fatal"}'), True),
        (parse_failure(b'{"action":"DISCARD"}'), False),
    ],
)
def test_some_failures_are_final_at_once(model: Model, failure: Failure, dead: bool) -> None:
    policy = RetryPolicy(
        max_attempts=9, on_exhaustion="dead_letter", non_retryable=("Fatal",), jitter=False
    )
    model.enqueue("a", retry=policy)
    model.fetch(["default"])
    assert model.nack("a", failure).state is State.DISCARDED
    assert model.dead_letters() == ({"a"} if dead else set())


def test_a_handler_can_request_a_dead_letter(model: Model) -> None:
    model.enqueue("a")
    model.fetch(["default"])
    assert model.nack("a", parse_failure(b'{"action":"DEAD_LETTER"}')).dead


def test_only_the_lease_settles_a_job(model: Model) -> None:
    model.enqueue("a")
    model.fetch(["default"], 1, "w", observed=[("a", "L1")])
    assert outcome(lambda: model.ack("a", worker="x")) is Conflict
    assert outcome(lambda: model.ack("a", worker="w", lease_id="L2")) is Conflict
    assert outcome(lambda: model.nack("a", BOOM, lease_id="L2")) is Conflict
    assert model.ack("a", worker="w", lease_id="L1").state is State.COMPLETED
    assert model.ack("a", worker="w").state is State.COMPLETED
    assert outcome(lambda: model.ack("a")) is Conflict
    assert outcome(lambda: model.ack("a", worker="x")) is Conflict
    assert model.acked["default"] == 1


def test_only_the_lease_that_failed_a_job_may_repeat_it(model: Model) -> None:
    model.enqueue("a", retry=STEADY)
    model.fetch(["default"], 1, "w", observed=[("a", "L1")])
    first = model.nack("a", BOOM, lease_id="L1")
    assert model.nack("a", BOOM, lease_id="L1") == first
    assert outcome(lambda: model.nack("a", BOOM, worker="w")) is Conflict
    model.advance(UNIT)
    model.fetch(["default"], 1, "w", observed=[("a", "L2")])
    assert outcome(lambda: model.nack("a", BOOM, lease_id="L1")) is Conflict


def test_a_requeued_job_goes_to_the_end_and_keeps_its_attempt(model: Model) -> None:
    model.enqueue("a")
    model.enqueue("b")
    model.fetch(["default"])
    job = model.requeue("a")
    assert (job.state, job.attempt, job.errors) == (State.AVAILABLE, 1, ())
    assert _fetched(model) == ["b", "a"]
    assert model.get("a").attempt == 2


def test_a_lost_lease_makes_the_job_available_and_counts_the_attempt(model: Model) -> None:
    model.enqueue("a", visibility_ms=UNIT)
    model.fetch(["default"], 1, "w", observed=[("a", "L1")])
    model.advance(UNIT)
    job = model.get("a")
    assert (job.state, job.attempt, job.errors) == (State.AVAILABLE, 1, ("visibility_timeout",))
    assert outcome(lambda: model.ack("a", lease_id="L1")) is Conflict
    assert outcome(lambda: model.nack("a", BOOM, lease_id="L1")) is Conflict


def test_a_job_that_kills_its_workers_ends_with_its_attempts(model: Model) -> None:
    model.enqueue("a", retry=ONCE)
    model.fetch(["default"], visibility_ms=UNIT)
    model.advance(UNIT)
    assert (model.get("a").state, model.dead_letters()) == (State.DISCARDED, {"a"})


def test_a_heartbeat_extends_what_the_worker_holds(model: Model) -> None:
    for name in ("a", "b", "c"):
        model.enqueue(name, visibility_ms=2 * UNIT)
    model.fetch(["default"], 2, "w")
    model.fetch(["default"], 1, "x")
    model.advance(UNIT)
    assert model.heartbeat("w", ["a", "c", "missing"]) == ["a"]
    model.advance(UNIT)
    assert [model.get(name).state for name in "abc"] == ["active", "available", "available"]


def test_a_heartbeat_extends_a_lease_without_a_worker(model: Model) -> None:
    model.enqueue("a")
    model.fetch(["default"])
    assert model.heartbeat("w", ["a"]) == model.heartbeat("x", ["a"]) == ["a"]


def test_a_heartbeat_does_not_move_the_execution_timeout(model: Model) -> None:
    model.enqueue("a", timeout_ms=3 * UNIT, visibility_ms=2 * UNIT, retry=STEADY)
    model.fetch(["default"], 1, "w")
    for _ in range(3):
        model.heartbeat("w", ["a"])
        model.advance(UNIT)
    job = model.get("a")
    assert (job.state, job.errors, job.shows_error) == (State.RETRYABLE, ("timeout",), True)


@pytest.mark.parametrize("delay", [0, 9 * UNIT])
def test_a_waiting_job_expires(model: Model, delay: int) -> None:
    model.enqueue("a", delay_ms=delay, expires_ms=UNIT)
    model.advance(UNIT)
    job = model.get("a")
    assert (job.state, job.dead) == (State.DISCARDED, False)
    assert job.times == {"discarded_at"}
    assert _fetched(model) == []


def test_an_active_job_does_not_expire_until_it_waits_again(model: Model) -> None:
    model.enqueue("a", expires_ms=UNIT)
    model.fetch(["default"])
    model.advance(UNIT)
    assert model.get("a").state is State.ACTIVE
    model.requeue("a")
    assert _fetched(model) == []
    assert model.get("a").state is State.DISCARDED


def test_due_jobs_come_in_the_order_of_their_times(model: Model) -> None:
    model.enqueue("later", delay_ms=3 * UNIT)
    model.enqueue("sooner", delay_ms=2 * UNIT)
    model.advance(5 * UNIT)
    model.enqueue("last")
    assert _fetched(model) == ["sooner", "later", "last"]


def test_any_order_of_jobs_due_at_once_is_accepted(model: Model) -> None:
    model.enqueue("a", delay_ms=UNIT)
    model.enqueue("b", delay_ms=UNIT)
    model.advance(UNIT)
    model.enqueue("c")
    observed = [("b", "L1"), ("a", "L2")]
    assert [job.job_id for job in model.fetch(["default"], 2, observed=observed)] == ["b", "a"]


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ([], "stopped"),
        ([("b", "L1")], "gave b"),
        ([("a", "L1")], "stopped"),
        ([("a", "L1"), ("b", "L2"), ("c", "L3")], "nothing is left"),
    ],
)
def test_a_wrong_response_is_detected(
    model: Model, observed: list[tuple[str, str]], message: str
) -> None:
    model.enqueue("a")
    model.enqueue("b")
    with pytest.raises(AssertionError, match=message):
        model.fetch(["default"], 5, observed=observed)


def test_a_pending_job_waits_for_its_producer(model: Model) -> None:
    model.enqueue("a", pending=True)
    model.enqueue("b", pending=True, delay_ms=UNIT)
    assert _fetched(model) == []
    assert model.activate("a").state is State.AVAILABLE
    assert model.activate("b").state is State.SCHEDULED
    assert outcome(lambda: model.activate("a")) is Conflict


def test_cancel_ends_any_job_that_is_not_over(model: Model) -> None:
    model.enqueue("a")
    model.fetch(["default"])
    job = model.cancel("a")
    assert (job.state, job.attempt, job.worker) == (State.CANCELLED, 1, None)
    assert job.times == {"started_at", "cancelled_at"}
    for operation in (model.cancel, model.ack, model.requeue):
        assert outcome(lambda operation=operation: operation("a")) is Conflict  # type: ignore[misc]
    assert outcome(lambda: model.cancel("none")) is NotFound


def test_a_paused_queue_accepts_jobs_and_returns_none(model: Model) -> None:
    model.pause("default")
    model.enqueue("a")
    assert _fetched(model) == []
    model.resume("default")
    assert _fetched(model) == ["a"]


def test_a_dead_letter_can_be_retried(model: Model) -> None:
    model.enqueue("a", retry=ONCE, expires_ms=UNIT)
    model.fetch(["default"])
    model.advance(UNIT)
    model.nack("a", BOOM)
    job = model.retry_dead("a")
    assert (job.state, job.attempt, job.errors) == (State.AVAILABLE, 0, ())
    assert job.times == set()
    assert _fetched(model) == ["a"]
    assert outcome(lambda: model.retry_dead("a")) is NotFound


def test_only_discarded_jobs_can_be_retried(model: Model) -> None:
    model.enqueue("a", retry=ONCE)
    assert outcome(lambda: model.retry_discarded("a")) is Conflict
    model.fetch(["default"])
    model.nack("a", BOOM)
    assert model.retry_discarded("a").state is State.AVAILABLE
    model.enqueue("b", expires_ms=UNIT)
    model.advance(UNIT)
    assert model.retry_discarded("b").state is State.AVAILABLE
    assert outcome(lambda: model.retry_discarded("none")) is NotFound


def test_a_deleted_dead_letter_is_gone(model: Model) -> None:
    model.enqueue("a", retry=ONCE)
    assert outcome(lambda: model.delete_dead("a")) is NotFound
    model.fetch(["default"])
    model.nack("a", BOOM)
    model.delete_dead("a")
    assert outcome(lambda: model.get("a")) is NotFound
    assert sum(model.counts("default").values()) == 0


def test_a_dead_worker_loses_what_it_held_when_it_died(model: Model) -> None:
    model.enqueue("a")
    model.enqueue("b")
    model.fetch(["default"], 1, "w")
    died = model.now_ms
    model.advance(UNIT)
    model.fetch(["default"], 1, "w")
    assert model.recover("w", died) == ["a"]
    assert (model.get("a").errors, model.get("b").state) == (("worker_lost",), State.ACTIVE)


def test_the_error_history_is_bounded(model: Model) -> None:
    model = Model(errors_kept=2)
    model.enqueue("a", retry=RetryPolicy(jitter=False, strategy="constant", max_attempts=9))
    for code in (b"1", b"2", b"3"):
        model.fetch(["default"])
        model.nack("a", parse_failure(b'{"code":"e%b"}' % code))
        model.advance(1000)
    assert model.get("a").errors == ("e2", "e3")


def test_counts_are_per_queue_and_state(model: Model) -> None:
    model.enqueue("a")
    model.enqueue("b", delay_ms=UNIT)
    model.enqueue("c", "other")
    assert {state: n for state, n in model.counts("default").items() if n} == {
        State.AVAILABLE: 1,
        State.SCHEDULED: 1,
    }
