"""The deadline of a request, which limits the time of all its calls to Redis together.

``call_timeout_s`` limits the time of one call. A request makes several calls in a row, and each of
them may be slow. So the dispatcher gives each request one deadline. A call ends at the
earlier of two times: after ``call_timeout_s``, or at the deadline of its request. Background work
has no deadline.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import Final

import trio

CLEANUP_S: Final = 1.0
"""How long after its deadline a failed request may still release its claims, in seconds."""


class Deadline:
    """The deadline of the current request; requests that run in turn may share one object.

    Attributes:
        at: the time at which the calls of the current request end, in seconds of trio's clock;
            infinity while there is no request.
        cleanups: how many tasks of the request are inside ``cleaning_up`` now.
    """

    __slots__ = ("at", "cleanups")

    def __init__(self) -> None:
        self.at = inf
        self.cleanups = 0


# The deadline is a context variable, because an argument would have to pass through every function
# of the store. Tasks that a request starts inherit the variable. Its value is a mutable object,
# because setting the variable for each request of a connection would cost too much time. The
# default object is never changed: its deadline is always infinity.
_deadline: Final[ContextVar[Deadline]] = ContextVar("deadline", default=Deadline())  # noqa: B039
current_deadline: Final = _deadline.get
"""Return the deadline of the request that the caller works for."""


def start_deadline() -> Deadline:
    """Return a new ``Deadline``, which is that of the current task from now on."""
    deadline = Deadline()
    _deadline.set(deadline)
    return deadline


def use_deadline(deadline: Deadline) -> None:
    """Make ``deadline`` that of the current task again, after work that has started another one."""
    _deadline.set(deadline)


def extend_deadline(seconds: float) -> None:
    """Move the deadline of the current request by the time that its client has asked to wait."""
    current_deadline().at += seconds


@contextmanager
def share_remaining_time(parts: int) -> Iterator[None]:
    """Give the calls in the block one of ``parts`` equal parts of the remaining time.

    Use this only in a request that calls one shard after the other. All tasks of a request have the
    same deadline, so the shorter deadline would apply to concurrent tasks as well.
    """
    deadline = current_deadline()
    remaining_s = deadline.at - trio.current_time()
    if parts < 2 or remaining_s == inf:
        yield
        return
    reserved_s = remaining_s - remaining_s / parts
    deadline.at -= reserved_s
    try:
        yield
    finally:
        deadline.at += reserved_s


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Move the deadline by ``CLEANUP_S`` for the block, which releases claims of the request.

    Other requests may wait for these claims. If several tasks of the request are in such blocks at
    the same time, the deadline moves once.
    """
    deadline = current_deadline()
    if not deadline.cleanups:
        deadline.at += CLEANUP_S
    deadline.cleanups += 1
    try:
        yield
    finally:
        deadline.cleanups -= 1
        if not deadline.cleanups:
            deadline.at -= CLEANUP_S
