"""The deadline of a request: the moment at which its calls to Redis end, however many they are.

``call_timeout_s`` bounds one call. A request makes several calls in a row, and each of them may be
slow. So the dispatcher gives each request one deadline, and a call ends at its own limit or at the
deadline of its request, whichever comes first. Work that no request waits for has no deadline.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import Final

import trio

CLEANUP_S: Final = 1.0
"""How much longer, in seconds, a request that has failed may release what it had claimed."""


class Deadline:
    """A moment in seconds of trio's clock, and infinity while there is no request.

    ``cleaning`` is how many tasks clean up.
    """

    __slots__ = ("at", "cleaning")

    def __init__(self) -> None:
        self.at = inf
        self.cleaning = 0


# A context variable, as for the durability of a request: an argument would pass through every
# function of the store. Tasks that a request starts inherit it. It holds an object that changes:
# setting the variable for each request of a connection would cost more than all else here. Nothing
# moves the infinity of the default.
_deadline: Final[ContextVar[Deadline]] = ContextVar("deadline", default=Deadline())  # noqa: B039
present: Final = _deadline.get
"""Return the deadline of the request on whose behalf the caller works."""


def begin() -> Deadline:
    """Return a deadline of its own for what the present task does from now on."""
    deadline = Deadline()
    _deadline.set(deadline)
    return deadline


def extend(seconds: float) -> None:
    """Move the deadline of the present request: for a wait that its client has asked for."""
    present().at += seconds


@contextmanager
def share_of(parts: int) -> Iterator[None]:
    """Let calls in the block take one of ``parts`` equal parts of the time that is left.

    Only while the request asks one shard after the other: tasks of it would share the bound.
    """
    deadline = present()
    left = deadline.at - trio.current_time()
    if parts < 2 or left == inf:
        yield
        return
    given_up = left - left / parts
    deadline.at -= given_up
    try:
        yield
    finally:
        deadline.at += given_up


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Let calls in the block end ``CLEANUP_S`` later: they release what others would wait for.

    Tasks of the request that clean up at the same time share that time.
    """
    deadline = present()
    if not deadline.cleaning:
        deadline.at += CLEANUP_S
    deadline.cleaning += 1
    try:
        yield
    finally:
        deadline.cleaning -= 1
        if not deadline.cleaning:
            deadline.at -= CLEANUP_S
