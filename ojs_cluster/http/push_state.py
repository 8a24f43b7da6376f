"""The event streams of one API process, and their maximum number."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ojs_cluster.core.errors import RateLimited, StreamRefused
from ojs_cluster.http.settings import HttpSettings
from ojs_cluster.store.features.events.feed import BufferBudget
from ojs_cluster.store.features.events.hub import EventHub

_RETRY_S: Final = 5.0
"""Time in seconds after which a refused client may try again."""


class PushState:
    """Counts the streams of a process. ``hub`` reads the events for them."""

    def __init__(self, settings: HttpSettings) -> None:
        """Begin without streams."""
        budget = BufferBudget(settings.push_buffer_bytes, settings.push_buffer_events)
        self.hub = EventHub(budget)
        self._max_streams = settings.push_subscribers
        self._max_per_client = settings.push_per_client
        self._by_client: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """The number of open streams."""
        return self._by_client.total()

    def open(self, client: str) -> None:
        """Count a stream.

        Args:
            client: the name of the client; see ``StreamAccess.client_name``.

        Raises:
            StreamRefused: the process has as many streams as it may have.
            RateLimited: the client has as many streams as it may have.
        """
        if self.count >= self._max_streams:
            raise StreamRefused(
                f"this process serves {self._max_streams} event streams already",
                retry_after_s=_RETRY_S,
            )
        if self._by_client[client] >= self._max_per_client:
            raise RateLimited(
                f"the client has {self._max_per_client} event streams already",
                retry_after_s=_RETRY_S,
            )
        self._by_client[client] += 1

    def close(self, client: str) -> None:
        """Forget a stream of this client."""
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]
