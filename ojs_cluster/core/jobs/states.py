"""The life of a job as one table (spec: ojs-core, "Job Lifecycle").

The Lua scripts implement these transitions; the table is what documents, tests and admin code
compare them with.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    """The eight states. The value is the word on the wire and in Redis."""

    SCHEDULED = "scheduled"
    AVAILABLE = "available"
    PENDING = "pending"
    ACTIVE = "active"
    COMPLETED = "completed"
    RETRYABLE = "retryable"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"


class Event(StrEnum):
    """What can happen to a stored job."""

    PROMOTE = "promote"  # a schedule or a backoff delay is over
    ACTIVATE = "activate"  # a pending job is released by its producer
    FETCH = "fetch"
    ACK = "ack"
    RETRY = "retry"  # a failed attempt that may be repeated
    EXHAUST = "exhaust"  # a failed attempt that may not
    REQUEUE = "requeue"  # the worker gives the job back
    LOSE_LEASE = "lose_lease"
    EXPIRE = "expire"
    CANCEL = "cancel"
    RETRY_KEYS = "revive"  # an operator retries a discarded job


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
        Event.FETCH: {State.AVAILABLE: State.ACTIVE},
        Event.ACK: {State.ACTIVE: State.COMPLETED},
        Event.RETRY: {State.ACTIVE: State.RETRYABLE},
        Event.EXHAUST: {State.ACTIVE: State.DISCARDED},
        Event.REQUEUE: {State.ACTIVE: State.AVAILABLE},
        # Not to `retryable`: a worker that died says nothing about the job, and the conformance
        # suites want it available at once. Exhaustion of the attempts is Event.EXHAUST.
        Event.LOSE_LEASE: {State.ACTIVE: State.AVAILABLE},
        # Never from `active`: the worker is already at it.
        Event.EXPIRE: {
            State.AVAILABLE: State.DISCARDED,
            State.SCHEDULED: State.DISCARDED,
            State.PENDING: State.DISCARDED,
            State.RETRYABLE: State.DISCARDED,
        },
        Event.CANCEL: dict.fromkeys(_LIVE, State.CANCELLED),
        Event.RETRY_KEYS: {State.DISCARDED: State.AVAILABLE},
    }
)

CANCELLABLE: Final[frozenset[State]] = frozenset(TRANSITIONS[Event.CANCEL])


def after(state: State, event: Event) -> State | None:
    """The state that ``event`` leads to from ``state``, or None when it is not allowed there."""
    return TRANSITIONS[event].get(state)
