"""Durability levels, and the level that the current request requires.

``async`` trusts Redis as it is configured: a write that a master acknowledged is lost when the
master dies before its replica has the write. ``replica`` answers when WAIT reports that enough
replicas have the write. ``fsync`` answers when WAITAOF reports that the write is on the disks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Durability(IntEnum):
    """Levels in rising order: a request may ask for more than the server's level, never for less.

    The HTTP header ``OJS-Durability`` and ``OJS_DURABILITY`` name them in lower case.
    """

    ASYNC = 0
    REPLICA = 1
    FSYNC = 2


@dataclass(slots=True)
class DurableWork:
    """One piece of work that is acknowledged with a single response.

    Attributes:
        durability: the lowest level that the work requires.
        unconfirmed: why something that the work wrote or found may be lost with a node. None while
            everything is confirmed.
    """

    durability: Durability
    unconfirmed: str | None = None


# A context variable: an argument would pass through every function of the store to say one thing
# about the whole request. Tasks that a request starts inherit it.
_work: Final[ContextVar[DurableWork | None]] = ContextVar("durability", default=None)


def current_work() -> DurableWork | None:
    """Return the work that the caller belongs to, or None outside of ``require_durability``."""
    return _work.get()


def required_durability(least: Durability) -> Durability:
    """Return the level that a script waits for now: ``least``, or the current work's if higher.

    Returns ``ASYNC`` once a write of the work is unconfirmed. Further confirmations could not make
    the whole work durable.
    """
    work = _work.get()
    if work is None:
        return least
    return Durability.ASYNC if work.unconfirmed is not None else max(work.durability, least)


def has_unconfirmed_writes() -> bool:
    """Return whether a write of the current work is unconfirmed.

    Check this before you delete an outbox entry or a record that a step on another node makes
    obsolete: that node may still lose the step.
    """
    work = _work.get()
    return work is not None and work.unconfirmed is not None


@contextmanager
def require_durability(durability: Durability) -> Iterator[DurableWork]:
    """Require at least this durability of every script in the block.

    A script that is not confirmed does not raise in the block. It sets ``unconfirmed``, which the
    caller checks before it acknowledges the work. To stop at the first such script would leave
    work of several steps half done.
    """
    work = DurableWork(durability)
    token = _work.set(work)
    try:
        yield work
    finally:
        _work.reset(token)
