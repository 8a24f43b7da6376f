"""The jobs, queues and omissions that a reader of another system yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from ojs_cluster.core.jobs.states import State
from ojs_cluster.server.import_from.source import Source


@dataclass(frozen=True, slots=True)
class ForeignError:
    """A failed attempt.

    Args:
        type: class of the error, such as ``ValueError``.
        message: its message.
        attempt: number of the attempt, from 1.
        at_ms: when it failed, Unix time in ms.
        backtrace: frames, the innermost last or first as the other system has them.
    """

    type: str
    message: str
    attempt: int
    at_ms: int
    backtrace: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ForeignJob:
    """A job of another system.

    Args:
        source_id: id of the job in the other system; with the name of the queue it is unique there.
        type: job type as the other system spells it.
        queue: queue as the other system spells it.
        args: the arguments as the JSON of an array.
        state: ``available``, ``scheduled``, ``retryable`` or ``discarded``.
        created_ms: when the job was created, Unix time in ms; None if the other system does not
            record it.
        due_ms: when a scheduled or retryable job is due, Unix time in ms.
        finished_ms: when a discarded job failed for the last time, Unix time in ms.
        attempt: number of attempts so far.
        options: further members of the enqueue request, such as ``priority`` or ``retry``.
        meta: the job's metadata as JSON.
        errors: failed attempts, the oldest first.
        job_id: id to keep, a UUIDv7; None to derive one from ``source_id``.
        dead_letter: whether a discarded job is a dead letter.
    """

    source_id: str
    type: str
    queue: str
    args: bytes
    state: State
    created_ms: int | None = None
    due_ms: int | None = None
    finished_ms: int | None = None
    attempt: int = 0
    options: Mapping[str, object] = field(default_factory=dict)
    meta: bytes = b"{}"
    errors: tuple[ForeignError, ...] = ()
    job_id: str | None = None
    dead_letter: bool = True


@dataclass(frozen=True, slots=True)
class ForeignQueue:
    """A queue that is paused in the other system."""

    name: str


@dataclass(frozen=True, slots=True)
class NotCarried:
    """Something that the import leaves out.

    Args:
        queue: queue in the other system, '' if it belongs to none.
        reason: why, as an English clause; equal reasons are counted together.
        example: id or name of one such thing.
        count: how many.
    """

    queue: str
    reason: str
    example: str = ""
    count: int = 1


MALFORMED: Final = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
"""Errors of reading a record that has another form than its system writes."""

ForeignItem = ForeignJob | ForeignQueue | NotCarried

Reader = Callable[[Source], Iterator[ForeignItem]]
"""Reads everything that can be imported. Jobs of a queue come in the order in which the other
system would run them."""
