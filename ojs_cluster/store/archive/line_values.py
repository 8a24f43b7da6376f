"""What the lines of an archive say, and how their values are checked (see ``archive``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from ojs_cluster.core import raw_json
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.store.jobs import fields as f

QUEUE_FIELDS = {
    b"paused": "paused",
    b"limits": "limits",
    b"max_per_second": "max_per_second",
    b"acked": "acked",
    b"bound": "max_depth",
}
_MOST = 2**53
is_number = re.compile(rb"-?(?:0|[1-9]\d{0,15})").fullmatch


class BadLine(Exception):
    """A line cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class QueueLine:
    """A queue that was there.

    Args:
        fields: of its hash, what an operator or its jobs have set (``QUEUE_FIELDS``).
        partitions: how many it was given, 0 when it had no number of its own.
    """

    name: str
    fields: Mapping[bytes, bytes]
    partitions: int = 0


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job.

    Args:
        fields: its hash, without errors.
        errors: attempt, ms, and the error's JSON object, oldest first.
        place: its place among the available jobs of its queue and priority; None when it has none.
        removed_ms: when retention removes it; None while it has not ended.
        holds_lock: whether it holds the lock of its uniqueness.
    """

    id: str
    fields: Mapping[bytes, bytes]
    errors: tuple[tuple[int, int, bytes], ...] = ()
    place: int | None = None
    removed_ms: int | None = None
    holds_lock: bool = False

    @property
    def state(self) -> State:
        return State(self.fields[f.STATE].decode())

    @property
    def queue(self) -> str:
        return self.fields[f.QUEUE].decode()


@dataclass(frozen=True, slots=True)
class WorkflowLine:
    """One workflow: its record, its jobs as the client sent them, their results by number."""

    id: str
    fields: Mapping[bytes, bytes]
    definitions: tuple[bytes, ...]
    results: Mapping[int, bytes]
    removed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ResultsLine:
    """Results of a workflow's jobs by number: a portion of those that are too much for its own
    line, which comes after them and has the last portion.
    """

    workflow_id: str
    results: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class CronLine:
    """One cron job: the fields of its hash."""

    name: str
    fields: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Head:
    """The first line."""

    version: int


@dataclass(frozen=True, slots=True)
class End:
    """The last line: how many of each kind were written before it."""

    counts: Mapping[str, int]


Line = Head | QueueLine | JobLine | ResultsLine | WorkflowLine | CronLine | End


def dump(value: object) -> Raw:
    """A value as JSON."""
    return Raw(orjson.dumps(value))


def text(members: Mapping[str, Raw], name: str) -> str:
    """The text of a member. Raises BadLine."""
    value = raw_json.string(members[name]) if name in members else None
    if value is None:
        raise BadLine(f"'{name}' is missing, or no text")
    return value


def number(members: Mapping[str, Raw], name: str) -> int:
    """The whole number of a member, exact also as a score. Raises BadLine."""
    raw = bytes(members.get(name, b"")).strip()
    if not is_number(raw) or abs(int(raw)) > _MOST:
        raise BadLine(f"'{name}' is missing, or no whole number below 2^53")
    return int(raw)


def texts(piece: Raw) -> dict[str, str]:
    """An object whose values are texts. Raises BadLine."""
    members = raw_json.object_members(piece)
    if members is None:
        raise BadLine("an object is missing")
    return {name: text(members, name) for name in members}
