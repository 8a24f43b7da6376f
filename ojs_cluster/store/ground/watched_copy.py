"""Keep a process's copy of records under the meta tag current.

A change is announced on a channel. The message may be lost, so each process also reads every two
seconds. While the master of the meta tag is unreachable, the last copy stays in use.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.redis.errors import RedisReplyError

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Runtime

log = logging.getLogger("ojs.store")

REFRESH_S: Final = 2.0
"""Time in seconds between two reads when no change is announced."""
_FIRST_PAUSE_S: Final = 0.2
"""Time in seconds between two attempts of the first read."""


class WatchedCopy:
    """Reads a copy again when it may have changed.

    Args:
        what: the records, for log lines.
        channel: returns the channel on which changes are announced.
        read: reads the records and replaces the copy, if they have changed.
    """

    def __init__(
        self,
        what: str,
        channel: Callable[[Runtime], bytes],
        read: Callable[[Runtime], Awaitable[None]],
    ) -> None:
        self._what = what
        self._channel = channel
        self._read = read
        self._changed = trio.Event()
        self._unreadable = False
        self.was_read = False

    async def first_read(self, store: Runtime, most_s: float) -> bool:
        """Read until it succeeds, for at most ``most_s`` seconds; return whether it succeeded."""
        with trio.move_on_after(most_s):
            while not self.was_read:
                await self.try_read(store)
                if not self.was_read:
                    await trio.sleep(_FIRST_PAUSE_S)
        return self.was_read

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

    async def try_read(self, store: Runtime) -> None:
        """Read now; if that fails, keep the last copy."""
        if not store.redis.is_responsive(store.keys.meta.slot):
            return
        try:
            await self._read(store)
        except (OJSError, RedisReplyError) as error:
            if self.was_read and not self._unreadable:
                log.warning("cannot read %s; the last copy is used: %s", self._what, error)
            self._unreadable = True
        else:
            self._unreadable, self.was_read = False, True

    async def _subscribe(self, store: Runtime) -> bool:
        try:
            await store.redis.subscribe(
                self._channel(store),
                store.keys.meta.slot,
                lambda _: self._on_change(),
                self._on_change,
            )
        except (OJSError, RedisReplyError) as error:
            log.debug("cannot subscribe to changes of %s: %r", self._what, error)
            return False
        return True

    def _on_change(self) -> None:
        self._changed.set()
