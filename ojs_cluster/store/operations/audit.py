"""The audit streams: who changed what as an administrator, and which requests were refused.

Two streams under the meta tag: one of changes and key reloads, one of refusals. Each has its own
bound, so refusals, which need no key, never push changes out. Entries are JSON objects that this
server wrote, and hold nothing of jobs but their ids. A page merges both, newest first.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import orjson

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.keys import Meta
from ojs_cluster.store import cursor as cursors
from ojs_cluster.store.context import Store

RETENTION_MS: Final = 90 * 24 * 3_600_000
"""For how long entries are kept at most, in ms."""
MOST_BATCH: Final = 100
"""Entries that one call appends at most."""
MOST_READ: Final = 5000
"""Entries that one page looks at, where a filter admits few."""
_CHUNK: Final = 200
_NEWEST: Final = "+"
_END: Final = "0-0"
"""Places in a stream: before its newest entry, and after its oldest."""
_is_place = re.compile(r"[0-9]{1,19}-[0-9]{1,19}|\+").fullmatch


class Stream(Enum):
    """One of the two streams. The value is how many entries it keeps."""

    CHANGES = 10_000
    REFUSALS = 2_000

    def key(self, meta: Meta) -> bytes:
        """Return its key."""
        return meta.audit if self is Stream.CHANGES else meta.audit_refused


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What a page admits; None admits everything.

    Attributes:
        principal: name of the API key.
        action: name of the action.
        since_ms: entries that were stored at or after this time, in ms of Unix time.
    """

    principal: str | None = None
    action: str | None = None
    since_ms: int | None = None

    def admits(self, entry: dict[str, Any]) -> bool:
        """Return whether an entry has the wanted principal and action."""
        return (self.principal is None or entry.get("principal") == self.principal) and (
            self.action is None or entry.get("action") == self.action
        )


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, newest first; ``cursor`` goes on after the last one, None at the end."""

    entries: list[dict[str, Any]]
    cursor: str | None


async def append(
    store: Store, stream: Stream, entries: Sequence[bytes], batch: str, *, again: bool = False
) -> None:
    """Append entries, ``MOST_BATCH`` at most, to a stream.

    Args:
        store: the store.
        stream: which one.
        entries: JSON objects.
        batch: a name that no other batch has.
        again: the batch was sent before and may be stored; it is not stored twice.

    Raises:
        BackendUnavailable: Redis did not answer in time.
        RedisReplyError: Redis refused.
    """
    key = stream.key(store.keys.meta)
    args = [stream.value, RETENTION_MS, batch, int(again), *entries]
    # Not repeated by the client: it would not say that the batch is sent again.
    await store.run_meta("audit_append", [key], args, idempotent=False)


async def read(
    store: Store, wanted: AuditFilter, *, limit: int, cursor: str | None = None
) -> AuditPage:
    """Return entries of both streams that ``wanted`` admits, newest first.

    A page has ``limit`` entries at most, of about 2 KiB at most each. It may have fewer while its
    cursor goes on: it looks at ``MOST_READ`` entries at most.

    Raises:
        InvalidRequest: the cursor is not one of ours.
        BackendUnavailable: Redis did not answer in time.
    """
    places = _places(cursor)
    # Entries that are due for removal stay until the next one is appended; they are not shown.
    oldest_ms = max(wanted.since_ms or 0, int(time.time() * 1000) - RETENTION_MS, 0)
    readers = [_Reader(store, stream, places[stream], oldest_ms) for stream in Stream]
    found: list[dict[str, Any]] = []
    seen = 0
    while len(found) < limit and seen < MOST_READ:
        heads = [(head, reader) for reader in readers if (head := await reader.head()) is not None]
        if not heads:
            break
        (place, raw), newest = max(heads, key=lambda each: each[0][0])
        newest.take()
        seen += 1
        entry = orjson.loads(raw)
        if wanted.admits(entry):
            found.append({"id": _id_of(newest.stream, place), **entry})
    places = {reader.stream: await reader.place() for reader in readers}
    over = all(place == _END for place in places.values())
    return AuditPage(found, None if over else cursors.encode([*places.values()]))


class _Reader:
    """One stream, read from the newest entry to the oldest."""

    def __init__(self, store: Store, stream: Stream, place: str, oldest_ms: int) -> None:
        self.stream = stream
        self._store = store
        self._oldest = str(oldest_ms)
        self._next = place
        """Where the next read begins."""
        self._ahead: deque[tuple[tuple[int, int], bytes]] = deque()
        self._ended = False

    async def head(self) -> tuple[tuple[int, int], bytes] | None:
        """Return place and content of the next entry, None at the end."""
        if not self._ahead and not self._ended:
            meta = self._store.keys.meta
            reply: Any = await self._store.redis.call(
                meta.slot,
                *("XREVRANGE", self.stream.key(meta), self._next, self._oldest, "COUNT", _CHUNK),
                idempotent=True,
            )
            self._ended = len(reply) < _CHUNK
            for raw_place, fields in reply:
                ms, _, sequence = raw_place.decode().partition("-")
                self._ahead.append(((int(ms), int(sequence)), fields[3]))
                self._next = f"({ms}-{sequence}"
        return self._ahead[0] if self._ahead else None

    def take(self) -> None:
        """Go on to the entry after the head."""
        self._ahead.popleft()

    async def place(self) -> str:
        """Return the place of the next entry."""
        head = await self.head()
        return _END if head is None else f"{head[0][0]}-{head[0][1]}"


def _id_of(stream: Stream, place: tuple[int, int]) -> str:
    return f"{'c' if stream is Stream.CHANGES else 'r'}-{place[0]}-{place[1]}"


def _places(text: str | None) -> dict[Stream, str]:
    places = cursors.decode(text) if text else [_NEWEST] * len(Stream)
    if (
        isinstance(places, list)
        and len(places) == len(Stream)
        and all(isinstance(each, str) and _is_place(each) for each in places)
    ):
        return dict(zip(Stream, places, strict=True))
    raise InvalidRequest("cursor is not one that this server gave", field="cursor")
