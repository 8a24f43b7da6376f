"""The audit streams: administrative changes, and refused requests.

Two streams lie under the meta tag. One has administrative changes and reloads of the API keys, the
other has refused requests. Each stream has its own maximum length, because a client without an API
key can cause refused requests, which must not displace changes. Entries are JSON objects. They
contain the ids of jobs, but no other data of jobs. A page merges both streams, newest first.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import orjson

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.keys import Meta
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground import cursor as cursors

RETENTION_MS: Final = 90 * 24 * 3_600_000
"""Longest time for which entries are kept, in milliseconds."""
MAX_BATCH: Final = 100
"""Maximum number of entries that one call appends."""
MAX_READ: Final = 5000
"""Maximum number of entries that are read for one page, even if the filter admits few of them."""
_CHUNK: Final = 200
_NEWEST: Final = "+"
_END: Final = "0-0"
"""Positions in a stream: before its newest entry, and after its oldest."""
_is_position = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?|\+").fullmatch


class AuditStream(Enum):
    """One of the two streams. The value is the number of entries that it keeps."""

    CHANGES = 10_000
    REFUSALS = 2_000

    def key(self, meta: Meta) -> bytes:
        """Return the Redis key of the stream."""
        return meta.audit if self is AuditStream.CHANGES else meta.audit_refused


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries a page contains; None admits every value.

    Attributes:
        principal: name of the API key.
        action: name of the action.
        object: what was changed, such as the name of a queue. A name of a queue also admits the
            queue's deletion with its jobs, and changes of many jobs of the queue.
        since_ms: earliest time at which an entry was stored, in milliseconds of Unix time.
        until_ms: the time before which an entry was stored.
    """

    principal: str | None = None
    action: str | None = None
    object: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def admits(self, entry: dict[str, Any]) -> bool:
        """Return whether an entry has the wanted principal, action and object."""
        wanted = {"principal": self.principal, "action": self.action}
        return all(
            entry.get(name) == value for name, value in wanted.items() if value is not None
        ) and (self.object is None or self.object in _objects(entry))


def _objects(entry: dict[str, Any]) -> Iterator[str]:
    """Yield the texts by which the object of an entry is found."""
    text = str(entry.get("object") or "")
    yield text
    words = text.split()
    if entry.get("action") == "queue.delete":
        yield from words[:1]  # such as 'mail move slow'
    # Such as 'queue=mail type=report.send'.
    yield from (word.removeprefix("queue=") for word in words if word.startswith("queue="))


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, newest first. ``cursor`` is where the next page starts, None after the last page."""

    entries: list[dict[str, Any]]
    cursor: str | None


async def append_entries(
    store: Store, stream: AuditStream, entries: Sequence[bytes], batch: str, *, again: bool = False
) -> None:
    """Append at most ``MAX_BATCH`` entries to a stream.

    Args:
        store: the store.
        stream: the stream to append to.
        entries: JSON objects.
        batch: a unique name of the batch.
        again: whether an earlier attempt has an unknown outcome. Then the script stores the batch
            only if it is not stored already.

    Raises:
        BackendUnavailable: Redis did not answer in time.
        RedisReplyError: Redis refused the command.
    """
    key = stream.key(store.keys.meta)
    args = [stream.value, RETENTION_MS, batch, int(again), *entries]
    # The Redis client must not repeat this call: it would send the same ``again``.
    await store.run_meta("audit_append", [key], args, idempotent=False)


async def read_entries(
    store: Store, wanted: AuditFilter, *, limit: int, cursor: str | None = None
) -> AuditPage:
    """Return entries of both streams that ``wanted`` admits, newest first.

    A page reads at most ``MAX_READ`` entries. So it may have fewer than ``limit`` entries although
    it is not the last page.

    Args:
        store: the store.
        wanted: which entries to return.
        limit: maximum number of entries in the page. An entry has up to about 3 KiB.
        cursor: where the page starts, from the page before; None for the newest entry.

    Raises:
        InvalidRequest: this server did not create the cursor.
        BackendUnavailable: Redis did not answer in time.
    """
    positions = _positions(cursor, wanted.until_ms)
    # Only an append trims the stream. So the stream may hold entries whose retention has ended, and
    # the reader must leave them out.
    oldest_ms = max(wanted.since_ms or 0, store.clock.now_ms() - RETENTION_MS, 0)
    readers = [_StreamReader(store, stream, positions[stream], oldest_ms) for stream in AuditStream]
    found: list[dict[str, Any]] = []
    seen = 0
    while len(found) < limit and seen < MAX_READ:
        heads = [(head, reader) for reader in readers if (head := await reader.peek()) is not None]
        if not heads:
            break
        # The streams are merged by entry id.
        (entry_id, raw), reader = max(heads, key=lambda head_and_reader: head_and_reader[0][0])
        reader.skip()
        seen += 1
        entry = orjson.loads(raw)
        if wanted.admits(entry):
            found.append({"id": _public_id(reader.stream, entry_id), **entry})
    positions = {reader.stream: await reader.position() for reader in readers}
    at_end = all(position == _END for position in positions.values())
    return AuditPage(found, None if at_end else cursors.encode([*positions.values()]))


class _StreamReader:
    """Reads one stream from the newest entry to the oldest, in chunks."""

    def __init__(self, store: Store, stream: AuditStream, position: str, oldest_ms: int) -> None:
        self.stream = stream
        self._store = store
        self._oldest = str(oldest_ms)
        self._next = position
        """Where the next chunk begins."""
        self._ahead: deque[tuple[tuple[int, int], bytes]] = deque()
        self._ended = False

    async def peek(self) -> tuple[tuple[int, int], bytes] | None:
        """Return id and content of the next entry, None at the end."""
        if not self._ahead and not self._ended:
            meta = self._store.keys.meta
            reply: Any = await self._store.redis.call(
                meta.slot,
                *("XREVRANGE", self.stream.key(meta), self._next, self._oldest, "COUNT", _CHUNK),
                idempotent=True,
            )
            self._ended = len(reply) < _CHUNK
            for raw_id, fields in reply:
                ms, _, sequence = raw_id.decode().partition("-")
                # The fields are b, the batch, and e, the entry (audit_append.lua).
                self._ahead.append(((int(ms), int(sequence)), fields[3]))
                self._next = f"({ms}-{sequence}"
        return self._ahead[0] if self._ahead else None

    def skip(self) -> None:
        """Skip the entry that ``peek`` returns."""
        self._ahead.popleft()

    async def position(self) -> str:
        """Return the position of the next entry, for a cursor."""
        head = await self.peek()
        return _END if head is None else f"{head[0][0]}-{head[0][1]}"


def _public_id(stream: AuditStream, entry_id: tuple[int, int]) -> str:
    return f"{'c' if stream is AuditStream.CHANGES else 'r'}-{entry_id[0]}-{entry_id[1]}"


def _positions(text: str | None, until_ms: int | None) -> dict[AuditStream, str]:
    newest = _NEWEST if until_ms is None else str(until_ms - 1) if until_ms > 0 else _END
    positions = cursors.decode(text) if text else [newest] * len(AuditStream)
    if (
        isinstance(positions, list)
        and len(positions) == len(AuditStream)
        and all(isinstance(each, str) and _is_position(each) for each in positions)
    ):
        return dict(zip(AuditStream, positions, strict=True))
    raise InvalidRequest("cursor was not created by this server", field="cursor")
