"""The secret of the sessions, as one process knows it."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.cached import Cached
from ojs_cluster.store.operators.operations.session_secret import session_secret

_KEPT_S: Final = 60.0
_PATIENCE_S: Final = 0.5
"""Time in seconds to wait for Redis if an earlier secret is known."""


class SessionSecret:
    """Reads the secret once per minute, and keeps the last one while Redis does not answer.

    So the dashboard shows what is wrong while the master of the meta tag is away.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cached = Cached(lambda: session_secret(store), lambda _value, _took_s: _KEPT_S)
        self._last: bytes | None = None

    async def get(self) -> bytes:
        """Return the secret.

        Raises:
            BackendUnavailable: Redis did not answer in time, and no earlier secret is known.
        """
        if self._last is None:
            self._last = await self._cached.get()
        elif self._store.redis.is_responsive(self._store.keys.meta.slot):
            with trio.move_on_after(_PATIENCE_S), suppress(OJSError):
                self._last = await self._cached.get()
        return self._last
