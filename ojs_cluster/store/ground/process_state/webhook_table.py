"""This process's copy of the webhook subscriptions.

Each script that appends events must know which subscriptions select them. The subscriptions are
not in the script's shard, so each process keeps a copy and passes it to the scripts (docs/adr/041).
Without subscriptions this costs nothing. The copy is watched (``versioned_table``). The events of a
process without a copy reach no webhook, so it waits for its first read, for a limited time.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from ojs_cluster.core.webhooks import Subscription, pack
from ojs_cluster.keys import Meta
from ojs_cluster.store.ground.process_state.jobs_per_script import jobs_per_script
from ojs_cluster.store.ground.process_state.subscriptions import SUBSCRIPTIONS, oldest_first
from ojs_cluster.store.ground.versioned_table import Snapshot, VersionedTable

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Runtime


class WebhookTable:
    """This process's copy of the webhook subscriptions."""

    def __init__(self) -> None:
        """Start with an empty copy; ``start`` or ``run`` reads the subscriptions."""
        self._subscriptions: dict[str, Subscription] = {}
        self._selecting: Counter[str] = Counter()
        self._damaged: frozenset[str] = frozenset()
        self._copy = VersionedTable(
            *("webhook subscriptions", SUBSCRIPTIONS.read_changed, self.replace),
            channel=Meta().webhook_channel,
        )
        self.run = self._copy.run
        self.read = self._copy.read
        self.try_read = self._copy.try_read
        self._unread_since_s: float | None = None
        self._unread_s = 0.0
        self.packed = b""
        """What the active subscriptions select (``core.webhooks.pack``); empty if no event."""

    def selects(self, kind: str) -> bool:
        """Return whether an active subscription selects events of the type ``kind``."""
        return kind in self._selecting

    def jobs_per_script(self, script: str, most: int) -> int:
        """Return how many jobs one call of a script may change, ``most`` without webhooks."""
        return jobs_per_script(script, most, self._selecting) if self.packed else most

    def get(self, subscription_id: str) -> Subscription | None:
        """Return a subscription of the copy."""
        return self._subscriptions.get(subscription_id)

    def exists(self, subscription_id: str) -> bool:
        """Return whether the copy has a subscription, also one whose record cannot be read."""
        return subscription_id in self._subscriptions or subscription_id in self._damaged

    def is_damaged(self, subscription_id: str) -> bool:
        """Return whether a subscription exists, but its record cannot be read."""
        return subscription_id in self._damaged

    def ids(self) -> list[str]:
        """Return the ids of the subscriptions of the copy."""
        return list(self._subscriptions)

    @property
    def unread_s(self) -> float:
        """For how many seconds this process has worked without a copy (see ``start``)."""
        if self._unread_since_s is None:
            return self._unread_s
        return trio.current_time() - self._unread_since_s

    async def start(self, store: Runtime, nursery: trio.Nursery) -> None:
        """Read the subscriptions, then keep the copy current (``VersionedTable.start``).

        Without a copy, ``unread_s`` counts the time until the first read.
        """
        without = "events of this process are not delivered to webhooks"
        await self._copy.start(store, nursery, without)
        if not self._copy.was_read:
            self._unread_since_s = trio.current_time()

    def replace(self, snapshot: Snapshot[Subscription]) -> None:
        """Replace the copy."""
        self._unread_s, self._unread_since_s = self.unread_s, None
        self._subscriptions = {each.id: each for each in oldest_first(snapshot)}
        self._damaged = frozenset(snapshot.stored.keys() - snapshot.records.keys())
        active = [each for each in self._subscriptions.values() if each.active]
        self._selecting = Counter(name for each in active for name in each.selected_names())
        self.packed = pack(active)
