"""The events that clients get, over SSE and over WebSockets (spec: ojs-realtime 4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import orjson

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.events.feed import Dropped
from ojs_cluster.store.features.events.new_event import STATE_CHANGED, Gap
from ojs_cluster.store.features.events.positions import part_of
from ojs_cluster.store.features.events.subscriber import Item, Subscription

GRACE_S: Final = 1.0
"""Time in seconds from ``server.shutdown`` to the end of a stream."""
SHUTDOWN: Final = "server.shutdown"
GAP: Final = "system.gap"
DROPPED: Final = "system.events_dropped"


class Announcement(NamedTuple):
    """One event as the server sends it. An event of a job may have two announcements.

    Attributes:
        kind: its type.
        data: a JSON object.
        at_ms: when it happened, in Unix milliseconds.
        last: whether its event has no further announcement.
    """

    kind: str
    data: bytes
    at_ms: int
    last: bool = True


def announce(
    reached: dict[int, bytes], subscription: Subscription, item: Item
) -> Iterator[Announcement]:
    """Yield the announcements of an event to a subscription.

    Before it yields an announcement, this sets ``reached`` to the position after the announcement.
    So the id of the announcement names that position.
    """
    if isinstance(item, Gap):
        reached[item.shard] = part_of(item.shard, item.after)
        data = orjson.dumps(_gap_data(subscription.channel.name, item))
        yield Announcement(GAP, data, item.end_ms)
        return
    wants_event = subscription.wants_type(item.kind)
    wants_change = item.changes_state and subscription.wants_states
    at_ms = item.after[0]
    if wants_change and wants_event:
        # If the client disconnects between the two announcements, it resumes with the second.
        reached[item.shard] = part_of(item.shard, item.before, half=True)
        yield Announcement(STATE_CHANGED, item.data, at_ms, last=False)
    reached[item.shard] = part_of(item.shard, item.after)
    if wants_event or wants_change:
        yield Announcement(item.kind if wants_event else STATE_CHANGED, item.data, at_ms)


def _gap_data(channel: str, gap: Gap) -> dict[str, object]:
    """Return the data of ``system.gap`` (spec: ojs-realtime 4.5)."""
    return {
        "channel": channel,
        "gap_start": format_ms(gap.start_ms).decode(),
        "gap_end": format_ms(gap.end_ms).decode(),
    }


def dropped_data(dropped: Dropped, at_ms: int) -> dict[str, object]:
    """Return the data of ``system.events_dropped`` (spec: ojs-realtime 4.4)."""
    return {
        "channel": dropped.channel,
        "dropped_count": dropped.count,
        "oldest_dropped_id": dropped.oldest.decode(),
        "newest_dropped_id": dropped.newest.decode(),
        "timestamp": format_ms(at_ms).decode(),
    }


def shutdown_data() -> dict[str, object]:
    """Return the data of ``server.shutdown`` (spec: ojs-realtime 4.6)."""
    return {"reason": "shutdown", "grace_period_ms": int(GRACE_S * 1000)}


def ended_data(job: JobRecord, now_ms: int) -> dict[str, object]:
    """Return the data of ``job.state_changed`` for an ended job (spec: ojs-realtime 2.1)."""
    return {
        "event": STATE_CHANGED,
        "type": job.type,
        "timestamp": format_ms(job.finished_ms or now_ms).decode(),
        "job_id": job.id,
        "job_type": job.type,
        "queue": job.queue,
        # A job does not store from which state it was cancelled or discarded.
        "from": State.ACTIVE.value if job.state is State.COMPLETED else None,
        "to": job.state.value,
    }
