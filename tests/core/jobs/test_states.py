from __future__ import annotations

import pytest

from ojs_cluster.core.jobs.states import (
    CANCELLABLE,
    INITIAL,
    TERMINAL,
    TRANSITIONS,
    Event,
    State,
    after,
)


def test_there_are_the_eight_states_of_the_specification() -> None:
    assert {str(state) for state in State} == {
        "scheduled",
        "available",
        "pending",
        "active",
        "completed",
        "retryable",
        "cancelled",
        "discarded",
    }


def test_only_an_operator_leaves_a_terminal_state() -> None:
    leaving = {
        (event, source)
        for event, moves in TRANSITIONS.items()
        for source in moves
        if source in TERMINAL
    }
    assert leaving == {(Event.MANUAL_RETRY, State.DISCARDED)}


def test_every_state_can_be_reached_from_an_initial_one() -> None:
    reached = set(INITIAL)
    while (
        grown := {
            target
            for moves in TRANSITIONS.values()
            for source, target in moves.items()
            if source in reached
        }
        - reached
    ):
        reached |= grown
    assert reached == set(State)


def test_exactly_the_live_states_can_be_cancelled() -> None:
    assert set(State) - TERMINAL == CANCELLABLE


@pytest.mark.parametrize("event", [Event.ACK, Event.RETRY, Event.EXHAUST, Event.REQUEUE])
def test_what_a_worker_reports_counts_only_for_an_active_job(event: Event) -> None:
    assert set(TRANSITIONS[event]) == {State.ACTIVE}


def test_an_active_job_never_expires() -> None:
    assert after(State.ACTIVE, Event.EXPIRE) is None
    assert after(State.AVAILABLE, Event.EXPIRE) is State.DISCARDED
