"""Subscriptions: which events a client wants, and which it may get."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.store.features.events.new_event import STATE_CHANGED, Gap, NewEvent

Item = NewEvent | Gap


@dataclass(frozen=True, slots=True)
class Channel:
    """What a subscription is about.

    Attributes:
        name: its name, such as ``queue:emails``.
        kind: the part of the name before the colon.
        value: the part after the colon: a job id or the name of a queue.
    """

    name: str
    kind: Literal["job", "queue", "all"]
    value: str = ""


@dataclass(frozen=True, slots=True)
class Subscription:
    """The events of one channel that a client wants. Equal subscriptions get the same events.

    Attributes:
        channel: the channel.
        types: types of events; ``job.*`` stands for all types that begin with ``job.``. An empty
            collection admits all.
        queues: names of queues; an empty collection admits all.
        within: the queues that the client may access, None for all.
        tenant: the tenant whose events the client may access, None for all.
    """

    channel: Channel
    types: Collection[str] = ()
    queues: Collection[str] = ()
    within: QueuePatterns | None = None
    tenant: str | None = None

    @property
    def wants_states(self) -> bool:
        """Whether it wants ``job.state_changed``."""
        return not self.types or STATE_CHANGED in self.types or "job.*" in self.types

    def wants_type(self, kind: str) -> bool:
        """Return whether it wants events of this type, apart from ``job.state_changed``."""
        types = self.types
        return not types or kind in types or f"{kind.partition('.')[0]}.*" in types

    def admits(self, queue: str, tenant: str) -> bool:
        """Return whether it wants events of this queue, and its client may access them.

        Args:
            queue: the queue of the event.
            tenant: the tenant of the event's jobs, '' for none.
        """
        return (
            (self.within is None or self.within.admits(queue))
            and (self.tenant is None or self.tenant == tenant)
            and (not self.queues or queue in self.queues)
        )

    def wants(self, item: Item) -> bool:
        """Return whether it wants an event that it admits.

        A channel of kind ``job`` always wants the last event of its job, which ends the stream.
        """
        return (
            isinstance(item, Gap)
            or self.wants_type(item.kind)
            or (item.changes_state and self.wants_states)
            or (item.ends_job and self.channel.kind == "job")
        )
