"""Marks on the charts: when a version was deployed, or something else happened.

All marks are one sorted set under the meta tag. A mark is a JSON object, and its score is its time.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec

from ojs_cluster.core.errors import NotFound
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.runtime import Arg

log = logging.getLogger("ojs.store")

MAX_MARKS: Final = 200
"""Maximum number of marks. A further mark removes the oldest one."""
KEPT_MS: Final = 30 * 86_400_000
"""Time in ms for which a mark is kept, as long as statistics by the hour are."""
MAX_LABEL: Final = 100
"""Maximum length of a label in characters."""


class Mark(msgspec.Struct, frozen=True):
    """A mark, as it is stored in JSON.

    Attributes:
        id: a random name.
        label: what happened.
        at_ms: when it happened, in Unix milliseconds.
        principal: name of the API key that has set the mark.
    """

    id: str
    label: str
    at_ms: int
    principal: str = ""


_decoder = msgspec.json.Decoder(Mark)


async def add_mark(store: Store, mark: Mark) -> bool:
    """Store a mark; return False if there are ``MAX_MARKS`` newer ones.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return await _write(store, "add", mark)


async def remove_mark(store: Store, mark_id: str) -> Mark:
    """Remove the mark with this id, and return it.

    Raises:
        NotFound: there is no such mark.
        BackendUnavailable: Redis did not answer in time.
    """
    for mark in await read_marks(store):
        if mark.id == mark_id and await _write(store, "remove", mark):
            return mark
    raise NotFound("mark", mark_id)


async def read_marks(
    store: Store, since_ms: int | None = None, until_ms: int | None = None
) -> list[Mark]:
    """Return the marks from ``since_ms`` to ``until_ms``, the oldest first.

    Args:
        store: the store.
        since_ms: start of the time span in Unix milliseconds; None for the oldest mark.
        until_ms: end of the time span; None for the newest mark.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    # Only a new mark removes those whose time has ended.
    low = max(since_ms or 0, store.clock.now_ms() - KEPT_MS)
    high = "+inf" if until_ms is None else until_ms
    texts: Any = await store.redis.call(
        meta.slot,
        *("ZRANGE", meta.marks, high, low, "BYSCORE", "REV", "LIMIT", 0, MAX_MARKS),
        idempotent=True,
    )
    found = []
    for text in reversed(texts):
        try:
            found.append(_decoder.decode(text))
        except msgspec.DecodeError as error:
            log.warning("a mark is damaged: %s", error)
    return found


async def _write(store: Store, action: str, mark: Mark) -> bool:
    args: list[Arg] = [action, msgspec.json.encode(mark), mark.at_ms, KEPT_MS, MAX_MARKS]
    return bool(await store.run_meta("mark_write", [store.keys.meta.marks], args))
