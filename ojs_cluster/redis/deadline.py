"""The deadline of a request, which bounds all its calls to Redis together.

``call_timeout_s`` bounds one call. A request makes several calls in a row, and each of them may be
slow. So the dispatcher gives each request one deadline. A call ends at its own limit or at the
deadline of its request, the earlier of the two. Background work has no deadline.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import Final

import trio

CLEANUP_S: Final = 1.0
"""How much longer, in seconds, a failed request may release what it had claimed."""


class Deadline:
    """The time at which a request's calls end.

    Attributes:
        at: in seconds of trio's clock; infinity while there is no request.
        cleaning: how many tasks of the request clean up now.
    """

    __slots__ = ("at", "cleaning")

    def __init__(self) -> None:
        self.at = inf
        self.cleaning = 0


# A context variable, as for the durability of a request: an argument would pass through every
# function of the store. Tasks that a request starts inherit it. It holds a mutable object, because
# setting the variable for each request of a connection would cost more than everything else here.
# The default's infinity never changes.
_deadline: Final[ContextVar[Deadline]] = ContextVar("deadline", default=Deadline())  # noqa: B039
current_deadline: Final = _deadline.get
"""Return the deadline of the request that the caller works for."""


def start_deadline() -> Deadline:
    """Give the current task a new deadline object and return it."""
    deadline = Deadline()
    _deadline.set(deadline)
    return deadline


def extend_deadline(seconds: float) -> None:
    """Move the current request's deadline, for a wait that its client has asked for."""
    current_deadline().at += seconds


@contextmanager
def share_remaining_time(parts: int) -> Iterator[None]:
    """Let calls in the block take one of ``parts`` equal parts of the remaining time.

    Only for a request that calls one shard after the other: its concurrent tasks would share the
    bound.
    """
    deadline = current_deadline()
    left = deadline.at - trio.current_time()
    if parts < 2 or left == inf:
        yield
        return
    reserved = left - left / parts
    deadline.at -= reserved
    try:
        yield
    finally:
        deadline.at += reserved


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Let calls in the block end ``CLEANUP_S`` later, to release what other requests wait for.

    Tasks of the request that clean up at the same time share that time.
    """
    deadline = current_deadline()
    if not deadline.cleaning:
        deadline.at += CLEANUP_S
    deadline.cleaning += 1
    try:
        yield
    finally:
        deadline.cleaning -= 1
        if not deadline.cleaning:
            deadline.at -= CLEANUP_S
