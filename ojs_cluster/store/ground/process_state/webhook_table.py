"""This process's copy of the webhook subscriptions.

Each script that appends events must know which subscriptions select them. The subscriptions are
not in the script's shard, so each process keeps a copy and passes it to the scripts (docs/adr/041).
Without subscriptions this costs nothing. A change is announced on a channel. The message may be
lost, so each process also reads the version of the subscriptions every two seconds.

While the master of the meta tag is unreachable, the last copy stays in use. A process that starts
in that time has no copy, and the events of its scripts reach no webhook. So it waits for its first
read, for a limited time: the shards of other masters must be served.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.core.webhooks import Subscription, pack
from ojs_cluster.store.ground.process_state import fan_out
from ojs_cluster.store.ground.process_state.subscriptions import Snapshot, read_changed
from ojs_cluster.store.ground.watched_copy import WatchedCopy

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Runtime

log = logging.getLogger("ojs.store")

FIRST_READ_S: Final = 10.0
"""Maximum time in seconds for which a process waits for its first read: a failover is over then."""


class WebhookTable:
    """This process's copy of the webhook subscriptions."""

    def __init__(self) -> None:
        """Start with an empty copy; ``start`` or ``run`` reads the subscriptions."""
        self._subscriptions: dict[str, Subscription] = {}
        self._selecting: Counter[str] = Counter()
        self._damaged: frozenset[str] = frozenset()
        self._version = b""
        self._read_began = float("-inf")
        self._copy = WatchedCopy(
            "webhook subscriptions", lambda store: store.keys.meta.webhook_channel, self.read
        )
        self.run = self._copy.run
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
        return fan_out.jobs_per_script(script, most, self._selecting) if self.packed else most

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
        """Read the subscriptions, then keep the copy current in ``nursery``.

        Call it before the process serves requests or leads shards. It returns after
        ``FIRST_READ_S`` at the latest, also without a copy. ``unread_s`` then counts the time until
        the first read.
        """
        if not await self._copy.first_read(store, FIRST_READ_S):
            self._unread_since_s = trio.current_time()
            log.warning(
                "cannot read webhook subscriptions: until the master of the meta tag answers, "
                "events of this process are not delivered to webhooks"
            )
        nursery.start_soon(self.run, store)

    async def read(self, store: Runtime) -> None:
        """Read the subscriptions now.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        began = trio.current_time()
        snapshot = await read_changed(store, self._version)
        if snapshot is None or began < self._read_began:
            return  # nothing has changed, or a read that began later is already done
        self._read_began = began
        self.replace(snapshot)

    def replace(self, snapshot: Snapshot) -> None:
        """Replace the copy."""
        self._unread_s, self._unread_since_s = self.unread_s, None
        found = snapshot.subscriptions()
        self._subscriptions = {each.id: each for each in found}
        self._damaged = frozenset(snapshot.records.keys() - self._subscriptions.keys())
        self._version = snapshot.version
        active = [each for each in found if each.active]
        self._selecting = Counter(name for each in active for name in each.selected_names())
        self.packed = pack(active)
