"""The event streams of one API process, and how many it opens."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ojs_cluster.core.errors import RateLimited, StreamRefused
from ojs_cluster.http.settings import HttpSettings
from ojs_cluster.store.events.hub import EventHub
from ojs_cluster.store.events.subscriber import BufferBudget

_RETRY_S: Final = 5.0


class PushState:
    """Counts the streams of a process, and has the hub that feeds them."""

    def __init__(self, settings: HttpSettings) -> None:
        """Begin without streams."""
        budget = BufferBudget(settings.push_buffer_bytes, settings.push_buffer_events)
        self.hub = EventHub(budget)
        self._most = settings.push_subscribers
        self._most_per_client = settings.push_per_client
        self._by_client: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """The number of open streams."""
        return self._by_client.total()

    def open(self, client: str) -> None:
        """Count a stream.

        Args:
            client: the name of the API key, or an address.

        Raises:
            StreamRefused: the process has as many streams as it may have.
            RateLimited: the client has.
        """
        if self.count >= self._most:
            raise StreamRefused(
                f"this process serves {self._most} event streams already", retry_after_s=_RETRY_S
            )
        if self._by_client[client] >= self._most_per_client:
            raise RateLimited(
                f"the client has {self._most_per_client} event streams already",
                retry_after_s=_RETRY_S,
            )
        self._by_client[client] += 1

    def close(self, client: str) -> None:
        """Forget a stream of this client."""
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]
