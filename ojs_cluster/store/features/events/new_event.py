"""Events as subscribers get them (spec: ojs-realtime 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import orjson

from ojs_cluster.core import events
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.features.events.content import content_of
from ojs_cluster.store.features.events.entries import Position

STATE_CHANGED: Final = "job.state_changed"

_NEW_STATES: Final[Mapping[str, tuple[State | None, State]]] = MappingProxyType(
    {
        events.JOB_ENQUEUED: (None, State.AVAILABLE),
        events.JOB_SCHEDULED: (None, State.SCHEDULED),
        events.JOB_STARTED: (State.AVAILABLE, State.ACTIVE),
        events.JOB_COMPLETED: (State.ACTIVE, State.COMPLETED),
        events.JOB_RETRYING: (State.ACTIVE, State.RETRYABLE),
        events.JOB_DISCARDED: (State.ACTIVE, State.DISCARDED),
        events.JOB_EXPIRED: (None, State.DISCARDED),
        events.JOB_CANCELLED: (None, State.CANCELLED),
        events.JOB_HELD: (State.AVAILABLE, State.PENDING),
    }
)
"""Per event: the states before and after it. If the state before is None here, it is in the
entry's field ``f``; an entry without ``f`` is about a new job."""


@dataclass(frozen=True, slots=True, eq=False)
class NewEvent:
    """One event.

    Attributes:
        kind: its type, such as ``job.completed``.
        shard: the index of the shard of its stream.
        before: the position before the event.
        after: the position after the event.
        event_id: the id that the event has in listings.
        data: a JSON object.
        changes_state: whether the event is also a ``job.state_changed``.
        ends_job: whether the job is in a terminal state now.
    """

    kind: str
    shard: int
    before: Position
    after: Position
    event_id: bytes
    data: bytes
    changes_state: bool
    ends_job: bool

    @property
    def size(self) -> int:
        """The bytes that the event takes in a buffer."""
        return len(self.data) + _OVERHEAD


_OVERHEAD: Final = 400
"""Bytes of the Python objects of an event besides its data."""


@dataclass(frozen=True, slots=True, eq=False)
class Gap:
    """Events of one stream that a subscriber may have missed.

    Attributes:
        shard: the index of the shard of the stream.
        after: the position at which the stream goes on.
        start_ms: when the last event before the gap happened, in Unix milliseconds.
        end_ms: when the first event after the gap happened.
    """

    shard: int
    after: Position
    start_ms: int
    end_ms: int
    size: int = _OVERHEAD


def new_event(
    shard: int, before: Position, after: Position, fields: Mapping[bytes, bytes]
) -> NewEvent:
    """Return the event with the fields of a stream entry.

    Raises:
        KeyError, ValueError, OverflowError: the entry is damaged.
    """
    kind, at_ms = fields[b"t"].decode(), after[0]
    _, content = content_of(at_ms, fields)
    implied, to_state = _NEW_STATES.get(kind, (None, None))
    from_state = fields.get(b"f", b"").decode() or implied
    changes_state = to_state is not None and from_state is not None
    job_type = fields.get(b"y") if kind.startswith(("job.", "cron.")) else None
    members = [
        b'"event":"%b","type":%b,"timestamp":"%b"'
        % (fields[b"t"], orjson.dumps((job_type or fields[b"t"]).decode()), format_ms(at_ms)),
        content,
    ]
    if changes_state:
        members.append(b'"from":%b,"to":"%b"' % (orjson.dumps(from_state), str(to_state).encode()))
    if kind == events.JOB_PROGRESS:
        members.append(b'"progress":%b' % fields.get(b"p", b"null"))
        if b"g" in fields:
            members.append(b'"message":%b' % orjson.dumps(fields[b"g"].decode()))
    number = b"" if after[2] is None else b"-%d" % after[2]
    event_id = b"evt_%d-%d%b-%d" % (*after[:2], number, shard)
    data = b"{%b}" % b",".join(members)
    ends_job = to_state in TERMINAL
    return NewEvent(kind, shard, before, after, event_id, data, changes_state, ends_job)
