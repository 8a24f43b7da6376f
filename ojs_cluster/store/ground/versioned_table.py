"""Records of the meta tag that are one hash with a version, and each process's copy of them.

A copy is kept current in one of two ways. Every request needs some records, so their copy is
watched: a change is announced on a channel. The message may be lost, so the process also reads the
version every two seconds. Few requests need other records. These requests read the copy again when
it is two seconds old, so a process without them reads nothing.

While the master of the meta tag is unreachable, the last copy stays in use.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError
from ojs_cluster.redis.errors import RedisReplyError

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Runtime

log = logging.getLogger("ojs.store")

VERSION: Final = b"#"
"""Name of the field that holds the version."""
REFRESH_S: Final = 2.0
"""Age in seconds at which a copy is read again when no change is announced."""
FIRST_READ_S: Final = 10.0
"""Maximum time in seconds for which a process waits for its first read: a failover is over then."""
_FIRST_PAUSE_S: Final = 0.2
"""Time in seconds between two attempts of the first read."""
_MAX_WAIT_S: Final = 1.0
"""Longest time in seconds that a request waits for a new copy."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[R]):
    """All records at one time.

    Attributes:
        now_ms: Unix time in ms, by the clock of Redis.
        version: version of the records; empty before the first record.
        stored: the records as stored, by name.
        records: the records by name, in the order of the names. A damaged one is left out.
    """

    now_ms: int = 0
    version: bytes = b""
    stored: dict[str, bytes] = field(default_factory=dict)
    records: dict[str, R] = field(default_factory=dict)


class VersionedHash(Generic[R]):
    """A hash of the meta tag with records and a version.

    Args:
        what: what a record is about, for log lines, such as ``tenant``.
        key: the key of the hash.
        decode: returns a record. It raises ``ValueError`` if the record is damaged.
    """

    def __init__(self, what: str, key: bytes, decode: Callable[[bytes], R]) -> None:
        self._what = what
        self._key = key
        self._decode = decode

    async def read_changed(self, store: Runtime, known: bytes) -> Snapshot[R] | None:
        """Return all records, or None if ``known`` is their version.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        now_ms, version, *flat = await store.run_meta("read_versioned_hash", [self._key], [known])
        if not flat and known:
            return None
        items = iter(flat[0] if flat else ())
        stored = {
            name.decode(errors="replace"): record
            for name, record in zip(items, items, strict=True)
            if name != VERSION
        }
        records = {}
        for name, record in sorted(stored.items()):
            try:
                records[name] = self._decode(record)
            except ValueError as error:  # also msgspec.DecodeError
                log.warning("the record of %s %s is damaged: %s", self._what, name[:300], error)
        return Snapshot(now_ms, version, stored, records)

    async def read_all(self, store: Runtime) -> Snapshot[R]:
        """Return all records.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        return await self.read_changed(store, b"") or Snapshot()


class Versioned(Protocol):
    """What a table reads."""

    @property
    def version(self) -> bytes:
        """The version of the records."""


V = TypeVar("V", bound=Versioned)


class VersionedTable(Generic[V]):
    """This process's copy of records.

    Args:
        what: the records, for messages, such as ``worker pools``.
        read_changed: returns the records, or None if the given version is theirs.
        replace: is called with records that have changed.
        channel: the channel on which changes are announced; empty if the copy is not watched.
    """

    def __init__(
        self,
        what: str,
        read_changed: Callable[[Runtime, bytes], Awaitable[V | None]],
        replace: Callable[[V], None],
        channel: bytes = b"",
    ) -> None:
        self._what = what
        self._read_changed = read_changed
        self._replace = replace
        self._channel = channel
        self._version = b""
        self._read_began = float("-inf")
        self._changed = trio.Event()
        self._unreadable = False

    @property
    def was_read(self) -> bool:
        """Whether this process has a copy."""
        return self._read_began > float("-inf")

    async def read(self, store: Runtime) -> None:
        """Read the records now, and replace the copy if they have changed.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        began = trio.current_time()
        found = await self._read_changed(store, self._version)
        if began < self._read_began:
            return  # a read that began later is already done
        self._read_began = began
        if found is not None:
            self._version = found.version
            self._replace(found)

    async def try_read(self, store: Runtime) -> None:
        """Read now, as after a change by this process; if that fails, keep the last copy."""
        if not store.redis.is_responsive(store.keys.meta.slot):
            return
        try:
            await self.read(store)
        except (OJSError, RedisReplyError) as error:
            if self.was_read and not self._unreadable:
                log.warning("cannot read the %s; the last copy is used: %s", self._what, error)
            self._unreadable = True
        else:
            self._unreadable = False

    async def refresh(self, store: Runtime, max_age_s: float = REFRESH_S) -> None:
        """Read the records again if the copy is older than ``max_age_s`` seconds.

        Raises:
            BackendUnavailable: this process has no copy, and Redis did not answer in time.
        """
        if trio.current_time() - self._read_began < max_age_s:
            return
        answers = not self.was_read or store.redis.is_responsive(store.keys.meta.slot)
        wait_s = _MAX_WAIT_S if answers else 0
        await store.background.once(self._what, partial(self.read, store), wait_s)
        if not self.was_read:
            raise BackendUnavailable(
                f"the {self._what} cannot be read at present", outcome="not_applied"
            )

    async def start(self, store: Runtime, nursery: trio.Nursery, without: str) -> None:
        """Read the records, then keep the copy current in ``nursery``.

        Call it before the process serves requests or leads shards. It returns after
        ``FIRST_READ_S`` at the latest, also without a copy: the shards of other masters must be
        served.

        Args:
            store: the store.
            nursery: where the copy is kept current.
            without: what is the matter until the first read, for the log.
        """
        with trio.move_on_after(FIRST_READ_S):
            while not self.was_read:
                await self.try_read(store)
                if not self.was_read:
                    await trio.sleep(_FIRST_PAUSE_S)
        if not self.was_read:
            log.warning(
                "cannot read the %s: until the master of the meta tag answers, %s",
                *(self._what, without),
            )
        nursery.start_soon(self.run, store)

    async def run(self, store: Runtime) -> None:
        """Keep the copy current until cancelled. Never raises."""
        subscribed = False
        while True:
            if not subscribed and store.redis.is_responsive(store.keys.meta.slot):
                subscribed = await self._subscribe(store)
            self._changed = trio.Event()
            await self.try_read(store)
            with trio.move_on_after(REFRESH_S):
                await self._changed.wait()

    async def _subscribe(self, store: Runtime) -> bool:
        try:
            await store.redis.subscribe(
                self._channel, store.keys.meta.slot, lambda _: self._on_change(), self._on_change
            )
        except (OJSError, RedisReplyError) as error:
            log.debug("cannot subscribe to changes of the %s: %r", self._what, error)
            return False
        return True

    def _on_change(self) -> None:
        self._changed.set()
