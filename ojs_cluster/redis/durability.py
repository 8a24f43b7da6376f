"""Durability levels, and the level that the current request requires.

With ``async`` a reply waits for nothing: a write that a master has acknowledged is lost if the
master dies before a replica has the write. With ``replica`` a reply waits until WAIT reports that
enough replicas have the write. With ``fsync`` a reply waits until WAITAOF reports that the write is
on the disks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Durability(IntEnum):
    """Durability levels in rising order.

    ``OJS_DURABILITY`` sets the level of the server. A request may ask for a higher level by the
    HTTP header ``OJS-Durability``; a lower level has no effect.
    """

    ASYNC = 0
    REPLICA = 1
    FSYNC = 2


@dataclass(slots=True)
class DurableWork:
    """One piece of work that is acknowledged with a single response.

    Attributes:
        durability: the minimum level that the work requires.
        unconfirmed_reason: why the loss of a node might still undo something that the work has
            written or read. None while every write is confirmed.
    """

    durability: Durability
    unconfirmed_reason: str | None = None


# The work is a context variable, because an argument would have to pass through every function of
# the store. Tasks that a request starts inherit the variable.
_work: Final[ContextVar[DurableWork | None]] = ContextVar("durability", default=None)


def current_work() -> DurableWork | None:
    """Return the work that the caller belongs to, or None outside of ``require_durability``."""
    return _work.get()


def required_durability(minimum: Durability) -> Durability:
    """Return the level that a script waits for: ``minimum``, or that of the current work if higher.

    Once a write of the work is unconfirmed, the result is ``ASYNC``, because other confirmations
    cannot make the whole work durable.
    """
    work = _work.get()
    if work is None:
        return minimum
    if work.unconfirmed_reason is not None:
        return Durability.ASYNC
    return max(work.durability, minimum)


def has_unconfirmed_writes() -> bool:
    """Return whether a write of the current work is unconfirmed.

    After a step on another node, a caller may delete the record of that step, such as an outbox
    entry. It checks this function first. If the step is unconfirmed, the other node may still lose
    it, so the record must stay.
    """
    work = _work.get()
    return work is not None and work.unconfirmed_reason is not None


@contextmanager
def require_durability(durability: Durability) -> Iterator[DurableWork]:
    """Require at least this durability of every script in the block.

    A script that is not confirmed raises no error in the block. It sets ``unconfirmed_reason``,
    which the caller checks before it acknowledges the work. An error would stop work of several
    steps in the middle.
    """
    work = DurableWork(durability)
    token = _work.set(work)
    try:
        yield work
    finally:
        _work.reset(token)
