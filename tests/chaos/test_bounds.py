"""The rules about limits, switches, tenants and single outcomes each find their violation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.bounds import SETTLED_S, settled
from tests.chaos.checker import check, examine
from tests.chaos.history import (
    Answer,
    Bounds,
    Command,
    CommandKind,
    Enqueue,
    Event,
    Final,
    ForeignLook,
    History,
    Item,
    Keyed,
    Lease,
    NewJob,
    Outcome,
    Window,
)
from tests.chaos.test_checker import acked, answer, enqueued, leased, rules

HOUR_S = 3600.0


def excuses(history: History) -> set[tuple[str, str]]:
    return {(finding.rule, finding.excused) for finding in check(history)}


def switched(kind: CommandKind, at: float, outcome: Outcome = "done", took: float = 0.1) -> Command:
    return Command(kind, "q", answer(at, outcome, took))


def started(job: str, at_s: float, attempt: int = 1, queue: str = "q") -> Event:
    at_ms = int(at_s * 1000)
    return Event(job, "job.started", at_ms, 0, (at_ms,), attempt, "w1", queue)


def waiting(job: str, at_s: float, until_s: float = HOUR_S, queue: str = "q") -> list[Event]:
    """Return the events of a job that waits for a time and then ends."""
    kinds = ("job.enqueued", at_s), ("job.discarded", until_s)
    return [
        Event(job, kind, int(at * 1000), 0, (int(at * 1000),), queue=queue) for kind, at in kinds
    ]


# -- pauses and drains ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commands", "found"),
    [
        pytest.param([switched("pause", 1)], True, id="paused"),
        pytest.param([switched("pause", 1), switched("resume", 2)], False, id="resumed before"),
        pytest.param([switched("pause", 1), switched("resume", 9)], True, id="resumed after"),
        pytest.param([switched("pause", 1, "unknown")], False, id="not confirmed"),
        pytest.param([switched("pause", 5)], False, id="paused after the fetch was sent"),
        pytest.param(
            [switched("resume", 0, "unknown"), switched("pause", 1)], False, id="a late resume"
        ),
        pytest.param(
            [switched("resume", 0, "refused"), switched("pause", 1)], True, id="a refused resume"
        ),
        pytest.param([switched("resume", 0), switched("pause", 1)], True, id="an earlier resume"),
        pytest.param(
            [switched("resume", 0.5, took=1), switched("pause", 1)], False, id="both at once"
        ),
    ],
)
def test_a_job_of_a_paused_queue_is_found(commands: list[Command], found: bool) -> None:
    fetched = History(leases=[leased(5, queue="q")], commands=commands)
    assert ("pause" in rules(fetched)) == found
    unseen = History(events=[started("job", 5.05)], commands=commands)
    assert ("pause" in rules(unseen)) == found
    elsewhere = History(leases=[leased(5, queue="other")], commands=commands)
    assert "pause" not in rules(elsewhere)


def test_a_pause_may_be_broken_only_by_a_master_that_is_replaced() -> None:
    history = History(leases=[leased(5, queue="q")], commands=[switched("pause", 1)])
    history.losses = [(2, 3)]
    assert rules(history) == {"pause"}
    history.losses = [(4, 6)]
    assert rules(history) == set()
    history.losses, history.confirmed = [(2, 3)], False
    assert rules(history) == set()


def test_a_change_of_partitions_excuses_no_broken_pause() -> None:
    history = History(leases=[leased(5, queue="q")], commands=[switched("pause", 1)])
    history.repartitioned = [(0, 6)]
    assert rules(history) == {"pause"}


def test_a_job_that_a_draining_queue_accepts_is_found() -> None:
    history = History(enqueues=[enqueued(at=5)], commands=[switched("drain", 1)])
    history.final = Final({"the-job": "completed"})
    assert rules(history) == {"drain"}
    history.enqueues = [replace(enqueued(at=5), answer=replace(answer(5), code="duplicate"))]
    assert rules(history) == set()
    history.enqueues = [enqueued(at=0.5)]
    assert rules(history) == set()


# -- limits and bounds ----------------------------------------------------------------------------


def two_leases(second_at: float = 2) -> History:
    one, two = leased(1, queue="q", key="k"), leased(second_at, job="two", queue="q", key="k")
    return History(leases=[one, two], bounds=Bounds(active={("queue", "q"): 1}))


def test_more_leases_than_a_limit_allows_are_found() -> None:
    history = two_leases()
    assert rules(history) == {"leases"}
    history.bounds = Bounds(active={("queue", "q"): 2, ("key", "k"): 1})
    assert rules(history) == {"leases"}
    history.bounds = Bounds(active={("queue", "q"): 2, ("key", "k"): 2})
    assert rules(history) == set()


def test_a_start_that_was_taken_back_without_an_event_is_not_active() -> None:
    waits = Event("one", "job.scheduled", 5000, 0, (5000,), queue="q")
    history = History(bounds=Bounds(active={("queue", "q"): 1}))
    history.events = [started("one", 1), started("two", 2)]
    assert "limit" in rules(history)
    history.events.append(waits)
    assert "limit" not in rules(history)


@pytest.mark.parametrize("outcome", ["done", "unknown", "refused"])
def test_a_lease_may_be_over_when_its_worker_has_asked_to_end_it(outcome: Outcome) -> None:
    history = two_leases()
    history.settles = [acked(history.leases[0], 1.5, outcome)]
    assert rules(history) == set()
    history.settles = [acked(history.leases[0], 2.5, outcome)]
    assert rules(history) == {"leases"}


def test_a_lease_may_be_over_when_it_expires_or_its_job_was_cancelled() -> None:
    assert rules(two_leases(second_at=12)) == set()
    history = two_leases()
    history.commands = [Command("cancel", "the-job", answer(1.5, "unknown"))]
    assert rules(history) == set()


def test_a_lease_that_a_failover_may_have_forgotten_is_excused() -> None:
    history = two_leases()
    history.losses = [(1.2, 1.4)]
    assert rules(history) == set()
    assert [finding.rule for finding in check(history)] == ["leases"]


def test_a_change_of_partitions_excuses_no_limit() -> None:
    history = two_leases()
    history.repartitioned = [(0, 5)]
    assert rules(history) == {"leases"}


def test_times_between_changes_of_partitions_are_settled() -> None:
    history = History(repartitioned=[(10, 20), (25, 30), (100, 110)])
    end = float("inf")
    assert settled(history) == [(-end, 10), (30 + SETTLED_S, 100), (110 + SETTLED_S, end)]


def test_more_starts_than_a_rate_allows_are_found() -> None:
    leases = [leased(at, job=f"job-{at}") for at in (1, 2, 3)]
    history = History(leases=leases, bounds=Bounds(starts={"q": Window(2, 2)}))
    history.events = [started(f"job-{at}", at) for at in (1, 2, 3)]
    assert "rate" not in rules(history)
    history.bounds = Bounds(starts={"q": Window(2, 2.5)})
    assert "rate" in rules(history)
    history.losses = [(1.5, 1.6)]
    assert "rate" not in rules(history)


def test_a_start_that_no_client_got_does_not_count() -> None:
    history = History(bounds=Bounds(starts={"q": Window(1, 10)}))
    history.events = [started("one", 1), started("two", 2), started("two", 3)]
    history.leases = [leased(1, job="one")]
    assert "rate" not in rules(history)
    history.leases.append(leased(3, job="two"))
    assert "rate" in rules(history)


def test_a_job_that_is_accepted_above_a_bound_is_found() -> None:
    events = [*waiting("one", 1), *waiting("two", 2), *waiting("three", 3)]
    history = History(events=[*events], bounds=Bounds(waiting={"q": 3}))
    assert rules(history) == set()
    history.bounds = Bounds(waiting={"q": 2})
    assert rules(history) == {"bound"}
    history.bounds = Bounds(waiting={"q": 2}, partitions=2)
    assert rules(history) == set()
    history.bounds = Bounds(waiting={"q": 2})
    history.events[1:2] = [started("one", 2.5)]
    assert "bound" not in rules(history)
    history.events = events
    history.repartitioned = [(0, 2.5)]
    assert excuses(history) == {("bound", "the default number of partitions was changed")}


# -- tenants --------------------------------------------------------------------------------------


def test_what_a_tenant_gets_of_another_is_found() -> None:
    history = History(leases=[leased(1, tenant="acme", asked_for="acme"), leased(1, job="two")])
    assert rules(history) == set()
    history.leases = [leased(1, tenant="blue", asked_for="acme")]
    assert rules(history) == {"tenant"}
    history.leases = [leased(1, asked_for="acme")]
    assert rules(history) == {"tenant"}
    assert rules(History(foreign_looks=[ForeignLook("acme", "job", found=False)])) == set()
    assert rules(History(foreign_looks=[ForeignLook("acme", "job", found=True)])) == {"tenant"}


def of_tenant(*times: float, took: float = 0.1) -> History:
    """Return a history of one tenant that enqueues jobs at some times, which then wait."""
    history = History()
    for number, at in enumerate(times):
        job = NewJob(f"job-{number}", "q", tenant="acme")
        history.enqueues.append(Enqueue((job,), answer(at, took=took)))
        history.events += waiting(job.id, at + took / 2)
    history.final = Final({f"job-{number}": "discarded" for number in range(len(times))})
    return history


def test_more_new_jobs_than_a_tenant_may_have_are_found() -> None:
    history = of_tenant(1, 2, 3)
    history.bounds = Bounds(tenant_jobs={"acme": Window(2, 2)})
    assert rules(history) == set()
    history.bounds = Bounds(tenant_jobs={"acme": Window(2, 3)})
    assert rules(history) == {"tenant rate"}
    slow = of_tenant(1, 2, 3, took=5)
    slow.bounds = history.bounds
    assert rules(slow) == set()


def test_more_waiting_jobs_than_a_tenant_may_have_are_found() -> None:
    history = of_tenant(1, 2, 3, 4)
    history.bounds = Bounds(tenant_waiting={"acme": 3})
    assert rules(history) == set()
    # One more may be stored by a request that was under way when the server read the sum.
    history.bounds = Bounds(tenant_waiting={"acme": 2})
    assert rules(history) == {"tenant depth"}
    history.enqueues[0] = replace(history.enqueues[0], answer=answer(1, "unknown"))
    assert rules(history) == set()


# -- single outcomes ------------------------------------------------------------------------------

CREATED, FULL = Item("one"), Item("", "QUEUE_FULL", retryable=True)
INVALID = Item("", "invalid_request")


def tries(*items: Item) -> History:
    return History(keyed=[Keyed("key", answer(at), (item,)) for at, item in enumerate(items)])


@pytest.mark.parametrize("items", [(CREATED, CREATED), (FULL, CREATED), (INVALID, INVALID)])
def test_repetitions_with_one_outcome_are_accepted(items: tuple[Item, ...]) -> None:
    assert rules(tries(*items)) == set()


@pytest.mark.parametrize(
    "items", [(CREATED, Item("two")), (CREATED, FULL), (INVALID, CREATED), (FULL, CREATED, FULL)]
)
def test_an_idempotency_key_with_two_outcomes_is_found(items: tuple[Item, ...]) -> None:
    assert rules(tries(*items)) == {"key"}


def test_an_item_that_runs_as_two_jobs_is_found() -> None:
    history = tries(CREATED)
    history.leases = [leased(1, job="one", item=("key", 0))]
    assert rules(history) == set()
    history.leases.append(leased(1, job="two", item=("key", 0)))
    assert rules(history) == {"key"}
    history.confirmed, history.losses = False, [(0, 1)]
    assert rules(history) == set()


def test_a_refusal_that_is_repeated_for_good_is_found() -> None:
    history = tries(FULL, CREATED)
    assert rules(history) == set()
    history.final = Final(pinned=[("key", "QUEUE_FULL")])
    assert rules(history) == {"retried key"}


def moved(lease: Lease, state: str = "completed") -> History:
    history = History(
        enqueues=[enqueued(at=0)],
        commands=[Command("move", "q", answer(1))],
        leases=[lease],
    )
    history.final = Final({"the-job": state} if state else {})
    return history


def test_a_job_that_a_deletion_loses_or_leaves_behind_is_found() -> None:
    assert rules(moved(leased(2, queue="target"))) == set()
    assert rules(moved(leased(0.5, queue="q"))) == set()
    assert rules(moved(leased(2, queue="q"))) == {"move"}
    assert rules(moved(leased(0.5, queue="q"), state="")) == {"move", "lost"}
    late = moved(leased(2, queue="q"))
    late.enqueues.append(Enqueue((NewJob("the-job", "q"),), Answer(0, 0.5, "unknown")))
    assert rules(late) == set()


def test_a_bulk_operation_that_does_not_end_is_found() -> None:
    assert rules(History(final=Final(operations=["move of q"]))) == {"stuck"}


def test_an_imported_job_is_available_without_an_event() -> None:
    history = History(events=[started("job", 1)], final=Final())
    assert rules(history) == {"path"}
    history.imported = {"job": "available"}
    assert rules(history) == set()
    history.imported = {"job": "scheduled"}
    assert rules(history) == {"path"}


def test_every_comparison_is_counted() -> None:
    history = two_leases()
    checks = {finding.rule: finding.checks for finding in examine(history)}
    assert checks["leases"] == 2
    assert checks["stuck"] == 1
    assert "one holder" not in checks
