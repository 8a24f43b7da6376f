"""How sure a caller wants to be that a write outlives a node, and where a request says so.

``async`` trusts Redis as it is configured: what a master acknowledged is lost when it dies before
its replica has it. ``replica`` answers when WAIT says that enough replicas have the write,
``fsync`` when WAITAOF says that it is on the disks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Durability(IntEnum):
    """Levels in rising order: a request may ask for more than the server's, never for less."""

    ASYNC = 0
    REPLICA = 1
    FSYNC = 2


@dataclass(slots=True)
class Request:
    """One piece of work that is acknowledged as a whole.

    Args:
        durability: what it wants at least.
        doubt: why something that it wrote or found may not outlive a node; None while all is
            confirmed.
    """

    durability: Durability
    doubt: str | None = None


# A context variable, where an argument would have to pass through every function of the store to
# say one thing about the whole request. Tasks that a request starts inherit it.
_request: Final[ContextVar[Request | None]] = ContextVar("durability", default=None)


def present_request() -> Request | None:
    """The request on whose behalf the caller works, if it is one that looks for doubts."""
    return _request.get()


def wanted(least: Durability) -> Durability:
    """What a script that is run now waits for: ``least``, or more if the present request wants it.

    Nothing once there is a doubt: no confirmation would make the whole certain then.
    """
    request = _request.get()
    if request is None:
        return least
    return Durability.ASYNC if request.doubt is not None else max(request.durability, least)


def doubtful() -> bool:
    """Whether something the present request did is not confirmed.

    Who is about to forget a debt, because it has been paid on another node, looks here first.
    """
    request = _request.get()
    return request is not None and request.doubt is not None


@contextmanager
def confirming(durability: Durability) -> Iterator[Request]:
    """Scripts in the block want this durability at least, and go on without it.

    Whoever acknowledges the work looks at ``doubt`` first. Stopping at the first script that is not
    confirmed, as is done outside of such a block, would leave work of several steps half done.
    """
    request = Request(durability)
    token = _request.set(request)
    try:
        yield request
    finally:
        _request.reset(token)
