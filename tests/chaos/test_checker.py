"""Each rule of the checker accepts a good history and reports its violation in a bad one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.bounds import peak
from tests.chaos.checker import check, examine
from tests.chaos.faults import Journal
from tests.chaos.history import (
    Answer,
    Bounds,
    Command,
    Enqueue,
    Event,
    Final,
    History,
    Lease,
    NewJob,
    Outcome,
    Seen,
    Settle,
    Workflow,
)
from tests.chaos.installation import VARIANTS
from tests.chaos.report import Run

ID = "the-job"
_NAMES = {
    "new": "enqueued",
    "due": "scheduled",
    "run": "started",
    "ok": "completed",
    "beat": "heartbeat",
    "fail": "failed",
    "again": "retrying",
    "end": "discarded",
    "late": "expired",
    "stop": "cancelled",
}


def answer(at: float, outcome: Outcome = "done", took: float = 0.1) -> Answer:
    return Answer(at, at + took, outcome, {"done": 200, "refused": 409}.get(outcome, 503))


def enqueued(*jobs: NewJob, at: float = 0, outcome: Outcome = "done") -> Enqueue:
    return Enqueue(jobs or (NewJob(ID, "q"),), answer(at, outcome))


def leased(at: float, attempt: int = 1, job: str = ID, length: float = 10, **more: object) -> Lease:
    lease = Lease(job, f"lease-{job}-{attempt}-{at}", f"w{attempt}", attempt, length, answer(at))
    return replace(lease, **more)  # type: ignore[arg-type]


def acked(lease: Lease, at: float, outcome: Outcome = "done") -> Settle:
    return Settle("ack", lease.job, lease.lease, lease.worker, lease.attempt, answer(at, outcome))


def nacked(lease: Lease, at: float) -> Settle:
    return replace(acked(lease, at), kind="nack")


def events(
    text: str, job: str = ID, start: int = 0, shard: int = 0, queue: str = "q"
) -> list[Event]:
    """Return events one millisecond apart: `new run1 ok1`, where the number is the attempt."""
    found = []
    for at, word in enumerate(text.split(), start):
        name, attempt = word.rstrip("0123456789"), word.lstrip("abcdefghijklmnopqrstuvwxyz")
        if name == "pass":
            continue
        worker = f"w{attempt}" if name == "run" else ""
        kind = f"job.{_NAMES[name]}"
        found.append(Event(job, kind, at, shard, (at,), int(attempt or 0), worker, queue))
    return found


def good() -> History:
    """Return a history without violations: a job that fails once, a purged one, a batch, a
    workflow.
    """
    first, second = leased(1), leased(3, 2)
    history = History(
        enqueues=[enqueued(), enqueued(NewJob("never", "q"), outcome="refused")],
        leases=[first, second],
        settles=[nacked(first, 2), acked(second, 4, "unknown"), acked(second, 5)],
        seen=[Seen(ID, "completed", 2, Answer(6, 6.1, "done"))],
        events=events("due new run1 beat1 fail1 again new run2 ok2"),
        final=Final({ID: "completed"}, {ID: 2}),
    )
    history.enqueues.append(enqueued(NewJob("gone", "purged")))
    history.commands.append(Command("purge", "purged", answer(1)))
    pair = (NewJob("one", "q"), NewJob("two", "q"))
    history.enqueues.append(enqueued(*pair, outcome="unknown"))
    return history


def test_a_good_history_has_no_violations() -> None:
    assert check(good()) == []
    assert check(History()) == []


def rules(history: History) -> set[str]:
    return {violation.rule for violation in check(history) if not violation.excused}


def of_one(path: str, state: str, *leases: Lease) -> History:
    """Return the history of one job with these events, where every lease was acknowledged."""
    return History(
        enqueues=[enqueued()],
        leases=list(leases),
        settles=[acked(lease, lease.answer.answered) for lease in leases],
        commands=[Command("retry", ID, answer(0)), Command("cancel", ID, answer(0, "unknown"))],
        events=events(path),
        final=Final({ID: state}),
    )


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("run1 ok1", id="started before it was available"),
        pytest.param("new ok1", id="completed without a start"),
        pytest.param("new run1 ok1 new run2 ok2", id="run after its completion"),
        pytest.param("new run1 stop run2 ok2", id="run after it was cancelled"),
        pytest.param("new run1 run2 ok2", id="two attempts at once"),
        pytest.param("new run2 ok2", id="an attempt is left out"),
        pytest.param("new run1 due new run2 ok2", id="an attempt that was given back counts"),
        pytest.param("new run1 new run1 ok1", id="an attempt is counted twice"),
        pytest.param("new run1 fail1 end new run2 ok2", id="attempts go on after a retry by hand"),
        pytest.param("new run1 new beat1 run2 ok2", id="a heartbeat extends no lease"),
        pytest.param("new run1 fail1 again run2 ok2", id="run during its backoff"),
        pytest.param("due again new run1 ok1", id="retried before it ran"),
    ],
)
def test_paths_that_no_job_may_take(path: str) -> None:
    assert "path" in rules(of_one(path, "completed", leased(1), leased(20, 2)))


@pytest.mark.parametrize(
    ("path", "state"),
    [
        pytest.param("new run1 run1 ok1", "completed", id="an attempt was given back"),
        pytest.param("new run1 due new run1 ok1", "completed", id="given back and rescheduled"),
        pytest.param("new run1 fail1 end new run1 ok1", "completed", id="retried by hand"),
        pytest.param("new due new late", "discarded", id="rescheduled by a limit, then expired"),
        pytest.param("late", "discarded", id="pending until it expired"),
        pytest.param("stop", "cancelled", id="replaced before it was published"),
        pytest.param("new run1 fail1 new run2 ok2", "completed", id="its lease was lost"),
    ],
)
def test_paths_that_a_job_may_take(path: str, state: str) -> None:
    leases = [leased(1), leased(20, 2)] if "run2" in path else [leased(1)] if "ok1" in path else []
    history = of_one(path, state, *leases)
    history.settles = history.settles[-1:]
    assert rules(history) == set()


def purged_and_repeated(*outcomes: Outcome, purges: int = 1, queue: str = "q") -> History:
    """Return the history of a job that a purge deletes and that its client stores again."""
    second = leased(8)
    return History(
        enqueues=[
            enqueued(NewJob(ID, "q"), at=at, outcome=outcome) for at, outcome in enumerate(outcomes)
        ],
        commands=[Command("purge", queue, answer(2, "unknown"))] * purges,
        leases=[leased(1), second],
        settles=[nacked(leased(1), 1.5), acked(second, 9)],
        seen=[Seen(ID, "cancelled", 1, answer(3)), Seen(ID, "active", 1, answer(8.5))],
        events=events("new run1 new stop new run1 ok1"),
        final=Final({ID: "completed"}, {ID: 1}),
    )


def test_a_purged_job_may_live_again_when_its_client_repeats_it() -> None:
    assert rules(purged_and_repeated("unconfirmed", "done")) == set()
    left = purged_and_repeated("unconfirmed")
    left.leases, left.settles, left.seen = [], [], []
    left.events, left.final = events("new stop"), Final({ID: "cancelled"})
    assert rules(left) == set()


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(purged_and_repeated("unconfirmed", "done", purges=0), id="no purge"),
        pytest.param(purged_and_repeated("unconfirmed", "done", queue="x"), id="another queue"),
        pytest.param(purged_and_repeated("done"), id="one request"),
        pytest.param(purged_and_repeated("done", "refused"), id="refused repetition"),
    ],
)
def test_a_job_that_lives_again_without_a_reason_is_found(history: History) -> None:
    assert {"path", "one holder", "end stays"} <= rules(history)


def test_a_purged_job_lives_again_as_often_as_it_was_purged() -> None:
    history = purged_and_repeated("unconfirmed", "unconfirmed", "done")
    history.events = events("new stop new stop new run1 ok1")
    assert "path" in rules(history)
    history.commands *= 2
    assert rules(history) == set()


def test_an_end_without_an_event_is_found() -> None:
    assert "path" in rules(of_one("new run1", "cancelled", leased(1)))


def test_a_completed_attempt_other_than_the_jobs_own_is_found() -> None:
    history = good()
    history.final = Final({ID: "completed"}, {ID: 1})
    assert rules(history) == {"path"}


def test_a_lost_job_is_found_unless_losses_are_expected() -> None:
    history = History(enqueues=[enqueued()])
    assert rules(history) == {"lost"}
    history.losses.append((0, 1))
    assert rules(history) == {"lost"}
    history.confirmed = False
    assert rules(history) == set()
    assert [violation.rule for violation in check(history)] == ["lost"]


def test_a_lost_workflow_is_found() -> None:
    assert rules(History(workflows=[Workflow("tag", "id", answer(0), {})])) == {"lost"}


def test_a_stored_refused_job_is_found() -> None:
    history = History(enqueues=[enqueued(outcome="refused")], events=events("new stop"))
    assert "refused" in rules(history)


def test_a_refused_workflow_that_runs_is_found() -> None:
    history = History(workflows=[Workflow("tag", "", answer(0, "refused"), {})])
    history.leases.append(leased(1, step=("tag", "s0")))
    assert rules(history) == {"refused"}


def test_a_batch_stored_in_part_is_found() -> None:
    jobs = (NewJob("one", "q"), NewJob("two", "q"))
    history = History(enqueues=[enqueued(*jobs, outcome="unknown")])
    history.final = Final({"one": "completed"})
    assert rules(history) == {"batch"}
    history.final = Final({"one": "completed", "two": "completed"})
    assert rules(history) == set()


@pytest.mark.parametrize("who", ["no request", "an earlier attempt", "a refused ack"])
def test_a_completion_without_an_ack_under_the_lease_is_found(who: str) -> None:
    history = good()
    first, second = history.leases
    acks = {
        "no request": [],
        "an earlier attempt": [acked(first, 2, "unknown")],
        "a refused ack": [acked(second, 4, "refused")],
    }
    history.settles = [nacked(first, 2), *acks[who]]
    assert rules(history) == {"holder"}


def test_two_accepted_acks_are_found() -> None:
    history = good()
    history.settles.append(acked(history.leases[0], 2))
    assert "one ack" in rules(history)


@pytest.mark.parametrize(
    ("later", "found"),
    [
        pytest.param(leased(3, 2), True, id="while it is held"),
        pytest.param(leased(12, 2), False, id="after its lease"),
        pytest.param(leased(3, 1), True, id="the same attempt"),
        pytest.param(leased(30, 1), True, id="the same attempt much later"),
    ],
)
def test_a_job_with_two_leases_is_found(later: Lease, found: bool) -> None:
    history = History(leases=[leased(1), later])
    assert rules(history) == ({"one holder"} if found else set())
    history.losses.append((0, 50))
    assert rules(history) == set()


def test_an_attempt_that_its_worker_ended_is_over() -> None:
    first = leased(1)
    history = History(leases=[first, leased(3, 2)], settles=[nacked(first, 2)])
    assert rules(history) == set()
    history.settles = [replace(nacked(first, 2), answer=answer(2, "refused"))]
    assert rules(history) == {"one holder"}


def test_a_job_that_runs_after_it_was_completed_is_found() -> None:
    first = leased(1)
    history = History(leases=[first, leased(20, 2)], settles=[acked(first, 2)])
    assert rules(history) == {"end stays"}


def test_a_state_after_the_end_is_found() -> None:
    seen = [
        Seen(ID, state, 1, Answer(at, at + 0.1, "done"))
        for at, state in enumerate(("cancelled", "active"))
    ]
    assert rules(History(seen=seen)) == {"end stays"}
    assert rules(History(seen=seen, losses=[(0, 5)])) == set()


def test_a_job_cancelled_without_a_request_is_found() -> None:
    history = History(
        enqueues=[enqueued()], events=events("new stop"), final=Final({ID: "cancelled"})
    )
    assert rules(history) == {"cancelled"}
    history.commands.append(Command("cancel", ID, answer(1, "unknown")))
    assert rules(history) == set()


def test_a_unique_job_may_be_cancelled_by_one_that_replaces_it() -> None:
    job = NewJob(ID, "q", fingerprint="f", on_conflict="reject")
    history = History(
        enqueues=[enqueued(job)], events=events("new stop"), final=Final({ID: "cancelled"})
    )
    assert rules(history) == {"cancelled"}
    history.enqueues.append(enqueued(NewJob("", "q", fingerprint="f", on_conflict="replace")))
    assert rules(history) == set()


def of_two(first: str, second: str, *, fingerprint: str = "", key: str = "") -> History:
    """Return a history of two jobs in different shards."""
    history = History(events=events(first, "one") + events(second, "two", shard=1))
    jobs = [NewJob(name, "q", fingerprint=fingerprint, key=key) for name in ("one", "two")]
    history.enqueues = [enqueued(job) for job in jobs]
    history.commands = [Command("cancel", name, answer(0)) for name in ("one", "two")]
    history.final = Final({"one": "cancelled", "two": "cancelled"})
    return history


def test_two_live_jobs_of_one_fingerprint_are_found() -> None:
    assert rules(of_two("new due stop", "pass new stop", fingerprint="f")) == {"unique"}
    assert rules(of_two("new due stop", "pass pass new stop", fingerprint="f")) == set()
    assert rules(of_two("new due stop", "pass new stop")) == set()


@pytest.mark.parametrize(
    ("index", "outcome", "loss", "found"),
    [
        (0, "unconfirmed", (0, 1), set()),
        (0, "unknown", (0, 1), set()),
        (0, "done", (0, 1), {"unique"}),
        (0, "unconfirmed", (5, 6), {"unique"}),
        (1, "unconfirmed", (0, 1), {"unique"}),
    ],
)
def test_an_unconfirmed_lock_may_be_lost_with_its_master(
    index: int, outcome: Outcome, loss: tuple[float, float], found: set[str]
) -> None:
    history = of_two("new due stop", "pass new stop", fingerprint="f")
    history.enqueues[index] = replace(history.enqueues[index], answer=answer(0, outcome))
    history.losses.append(loss)
    assert rules(history) & {"unique"} == found


@pytest.mark.parametrize(
    ("conflict", "outcome", "loss", "found"),
    [
        ("replace", "unconfirmed", (0, 1), set()),
        ("replace", "done", (0, 1), {"unique"}),
        ("replace", "unconfirmed", (5, 6), {"unique"}),
        ("reject", "unconfirmed", (0, 1), {"unique"}),
    ],
)
def test_an_unconfirmed_cancellation_of_a_replaced_job_may_be_lost_with_its_master(
    conflict: str, outcome: Outcome, loss: tuple[float, float], found: set[str]
) -> None:
    history = of_two("new due stop", "pass new stop", fingerprint="f")
    new = NewJob("two", "q", fingerprint="f", on_conflict=conflict)
    history.enqueues[1] = replace(enqueued(new), answer=answer(0, outcome))
    history.losses.append(loss)
    assert rules(history) & {"unique"} == found


def test_a_job_that_lives_again_beside_another_of_its_fingerprint_is_found() -> None:
    history = of_two("new late new stop", "pass new due late", fingerprint="f")
    history.final = Final({"one": "cancelled", "two": "discarded"})
    assert rules(history) == {"unique"}


@pytest.mark.parametrize("kind", ["key", "queue"])
def test_more_active_jobs_than_a_limit_allows_are_found(kind: str) -> None:
    history = of_two("new run1 beat1 stop", "new run1 stop", key="k")
    limit = (kind, {"key": "k", "queue": "q"}[kind])
    history.bounds = Bounds(active={limit: 2})
    assert rules(history) == set()
    history.bounds = Bounds(active={limit: 1})
    assert rules(history) == {"limit"}
    history.losses.append((0, 1))
    assert rules(history) == ({"limit"} if kind == "queue" else set())


def test_one_attempt_may_begin_as_another_ends() -> None:
    assert peak([(0, 5), (5, 9), (5, 7)]) == (2, 5)
    assert peak([]) == (0, 0.0)


def test_a_job_that_overtakes_a_higher_priority_is_found() -> None:
    def history(first: int, second: int) -> History:
        found = of_two("new pass pass pass stop", "pass new run1 stop")
        found.events = [replace(event, shard=0) for event in found.events]
        found.enqueues = [
            enqueued(NewJob("one", "q", priority=first)),
            enqueued(NewJob("two", "q", priority=second)),
        ]
        found.ordered = frozenset({"q"})
        return found

    assert rules(history(0, 0)) == {"order"}
    repartitioned = history(0, 0)
    repartitioned.repartitioned = [(-1, 5)]
    assert rules(repartitioned) == set()
    assert rules(history(1, 0)) == {"order"}
    assert rules(history(0, 1)) == set()


def workflow(*leases: Lease, **acks: float) -> History:
    """Return a batch of two jobs with callbacks; `acks` tells when a step was acknowledged."""
    history = History(leases=list(leases))
    steps = {"waits_for": {"success": ["a", "b"]}, "ends_of": {"complete": ["a", "b"]}}
    history.workflows = [Workflow("tag", "id", answer(0), **steps)]
    history.final = Final(workflows={"id": "completed"})
    history.settles = [acked(it, acks[it.job]) for it in leases if it.job in acks]
    return history


def step(name: str, at: float, job: str = "") -> Lease:
    return leased(at, job=job or name, step=("tag", name))


def test_a_step_before_what_it_waits_for_is_found() -> None:
    steps = step("a", 1), step("b", 1), step("success", 5)
    assert rules(workflow(*steps, a=2, b=2)) == set()
    assert rules(workflow(*steps, a=2)) == {"workflow order"}
    assert rules(workflow(*steps, a=2, b=6)) == {"workflow order"}
    failed = workflow(*steps, a=2, b=2)
    failed.final = Final({"a": "discarded"}, workflows={"id": "failed"})
    assert rules(failed) == {"workflow order"}


def test_a_callback_before_all_jobs_have_run_is_found() -> None:
    assert rules(workflow(step("a", 1), step("b", 1), step("complete", 5))) == set()
    assert rules(workflow(step("a", 1), step("complete", 5))) == {"workflow order"}


def test_a_step_that_is_two_jobs_is_found() -> None:
    assert rules(workflow(step("a", 1), step("a", 20, "other"))) == {"step once"}


def test_an_occurrence_that_is_two_jobs_is_found() -> None:
    occurrence = ("cron", "2026-01-01T00:00:00Z")
    first, second = leased(1, occurrence=occurrence), leased(1, job="other", occurrence=occurrence)
    assert rules(History(leases=[first, second])) == {"occurrence once"}
    assert rules(History(leases=[first, replace(second, occurrence=("cron", "later"))])) == set()


STUCK: list[tuple[str, Final]] = [
    ("stuck", Final({ID: "available"})),
    ("stuck", Final({ID: "active"})),
    ("stuck", Final(workflows={"id": "running"})),
    ("stuck", Final(effects_left=1)),
    ("stuck", Final(dead_locks=["f"])),
    ("invariants", Final(problems=["q counts 1 active, there are 0"])),
]


@pytest.mark.parametrize(("rule", "final"), STUCK)
def test_work_that_does_not_end_is_found(rule: str, final: Final) -> None:
    assert rules(History(final=final)) == {rule}


def test_unrepaired_losses_are_excused_only_until_repair_had_time() -> None:
    history = History(final=Final({ID: "active"}), losses=[(0, 1)], confirmed=False, patient=False)
    assert rules(history) == set()
    assert len(check(history)) == 1
    history.patient = True
    assert rules(history) == {"stuck"}


@pytest.mark.parametrize(
    ("outcome", "loss", "found"),
    [
        ("unconfirmed", (0, 1), set()),
        ("unconfirmed", (5, 6), {"stuck"}),
        ("done", (0, 1), {"stuck"}),
    ],
)
def test_a_workflow_that_was_not_confirmed_may_wait_for_its_repair(
    outcome: Outcome, loss: tuple[float, float], found: set[str]
) -> None:
    history = History(workflows=[Workflow("tag", "id", answer(0, outcome), {})], patient=False)
    history.losses = [loss]
    history.final = Final(workflows={"id": "running"})
    assert rules(history) == found
    history.patient = True
    assert rules(history) == {"stuck"}


def test_a_failure_message_has_the_violations_at_both_ends() -> None:
    history = History(enqueues=[enqueued()])
    journal = Journal(0, lines=[f"{n} a fault" for n in range(500)])
    failed = Run(VARIANTS[0], 1, 20, (), journal, history, list(examine(history)))

    lines = failed.failure("log\n" * 500, Path("history"), Path("logs")).splitlines()

    for part in (lines[:5], lines[-5:]):
        assert "  lost: the-job: it was acknowledged and is gone" in part
    assert any("Enqueue(" in line for line in lines)


@pytest.mark.parametrize(
    ("kind", "job"),
    [
        ("job.started", NewJob(ID, "q", due_s=2)),
        ("job.expired", NewJob(ID, "q", expires_s=2)),
    ],
)
def test_what_happens_before_its_time_is_found(kind: str, job: NewJob) -> None:
    def history(at_ms: int) -> History:
        found = History(enqueues=[enqueued(job, at=1)])
        found.events = [Event(ID, kind, at_ms, 0, (at_ms,), attempt=1)]
        return found

    assert "early" in rules(history(2900))
    assert "early" not in rules(history(3100))


def test_an_internal_error_is_found() -> None:
    assert rules(History(errors=["POST /jobs: 500"])) == {"error"}
