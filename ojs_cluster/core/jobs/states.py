"""The state machine of a job as one table (spec: ojs-core, "Job Lifecycle").

The Lua scripts implement these transitions. Admin code and tests read the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    """The eight states. The value is the name in the API and in Redis."""

    SCHEDULED = "scheduled"
    AVAILABLE = "available"
    PENDING = "pending"
    ACTIVE = "active"
    COMPLETED = "completed"
    RETRYABLE = "retryable"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"


class Event(StrEnum):
    """What can change the state of a stored job. Clients see the names of ``core/events.py``."""

    PROMOTE = "promote"  # a schedule or a backoff delay is over
    ACTIVATE = "activate"  # the producer makes a pending job available
    HOLD = "hold"  # the agent of the job is paused
    FETCH = "fetch"
    ACK = "ack"
    RETRY = "retry"  # a failed attempt that may be repeated
    EXHAUST = "exhaust"  # a failed attempt that may not be repeated
    REQUEUE = "requeue"  # the worker returns the job
    LOSE_LEASE = "lose_lease"
    EXPIRE = "expire"
    CANCEL = "cancel"
    MANUAL_RETRY = "manual_retry"  # an operator retries a discarded job


INITIAL: Final[frozenset[State]] = frozenset({State.AVAILABLE, State.SCHEDULED, State.PENDING})

TERMINAL: Final[frozenset[State]] = frozenset({State.COMPLETED, State.CANCELLED, State.DISCARDED})

_LIVE: Final = tuple(state for state in State if state not in TERMINAL)

TRANSITIONS: Final[Mapping[Event, Mapping[State, State]]] = MappingProxyType(
    {
        Event.PROMOTE: {
            State.SCHEDULED: State.AVAILABLE,
            State.RETRYABLE: State.AVAILABLE,
        },
        Event.ACTIVATE: {State.PENDING: State.AVAILABLE},
        Event.HOLD: {State.AVAILABLE: State.PENDING},
        Event.FETCH: {State.AVAILABLE: State.ACTIVE},
        Event.ACK: {State.ACTIVE: State.COMPLETED},
        Event.RETRY: {State.ACTIVE: State.RETRYABLE},
        Event.EXHAUST: {State.ACTIVE: State.DISCARDED},
        Event.REQUEUE: {State.ACTIVE: State.AVAILABLE},
        # The job does not become retryable: the death of a worker is no failure of the job, and the
        # conformance suites expect an available job. The last attempt ends with Event.EXHAUST.
        Event.LOSE_LEASE: {State.ACTIVE: State.AVAILABLE},
        # An active job does not expire: its worker is already running it.
        Event.EXPIRE: {
            State.AVAILABLE: State.DISCARDED,
            State.SCHEDULED: State.DISCARDED,
            State.PENDING: State.DISCARDED,
            State.RETRYABLE: State.DISCARDED,
        },
        Event.CANCEL: dict.fromkeys(_LIVE, State.CANCELLED),
        Event.MANUAL_RETRY: {State.DISCARDED: State.AVAILABLE},
    }
)

CANCELLABLE: Final[frozenset[State]] = frozenset(TRANSITIONS[Event.CANCEL])


def after(state: State, event: Event) -> State | None:
    """Return the state after ``event`` in ``state``, None when ``state`` does not allow it."""
    return TRANSITIONS[event].get(state)
