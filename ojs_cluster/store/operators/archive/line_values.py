"""The kinds of lines in an archive, and checks of their values (see ``archive``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from ojs_cluster.core import raw_json
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.pools.pool import Pool
from ojs_cluster.core.queue_defaults import QueueDefaults
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.core.tenants.settings import TenantSettings
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state.schema_index import TypePolicy
from ojs_cluster.store.operators.dashboard.marks import Mark

QUEUE_FIELDS = {
    b"paused": "paused",
    b"limits": "limits",
    b"max_per_second": "max_per_second",
    b"acked": "acked",
    b"bound": "max_depth",
    b"overflow": "overflow",
    b"on_exhaustion": "on_exhaustion",
    b"fair": "fair_share",
    b"kept": "kept",
    b"draining": "draining",
}
"""Fields of a queue's hash, with the names of their members in a line."""
POSITIONS = 1 << 45
"""Number of positions within one priority of a queue."""
_MAX_NUMBER = 2**53
is_number = re.compile(rb"-?(?:0|[1-9]\d{0,15})").fullmatch


class InvalidLine(Exception):
    """The line is not valid; the message says why."""


@dataclass(frozen=True, slots=True)
class QueueLine:
    """A queue.

    Args:
        name: the name of the queue.
        fields: settings by operators or jobs, and counters (``QUEUE_FIELDS``).
        partitions: the configured number of partitions, 0 when none is configured.
        defaults: the defaults of the queue's jobs.
    """

    name: str
    fields: Mapping[bytes, bytes]
    partitions: int = 0
    defaults: QueueDefaults = field(default_factory=QueueDefaults)


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job.

    Args:
        id: the id of the job.
        fields: the fields of its hash, without the errors.
        errors: attempt, time in milliseconds, and JSON object of each error, oldest first.
        position: position among the available jobs of its queue and priority; None if the job is
            not available.
        removed_ms: when its retention ends (ms of Unix time), None while the job has not ended.
        holds_lock: whether the job holds its unique lock.
    """

    id: str
    fields: Mapping[bytes, bytes]
    errors: tuple[tuple[int, int, bytes], ...] = ()
    position: int | None = None
    removed_ms: int | None = None
    holds_lock: bool = False

    @property
    def state(self) -> State:
        """The state of the job."""
        return State(self.fields[f.STATE].decode())

    @property
    def queue(self) -> str:
        """The queue of the job."""
        return self.fields[f.QUEUE].decode()


@dataclass(frozen=True, slots=True)
class WorkflowLine:
    """A workflow.

    Args:
        id: the id of the workflow.
        fields: the fields of its record.
        definitions: its jobs as the client has sent them.
        results: results by number of the job, without the results in ``ResultsLine`` before it.
        removed_ms: when its retention ends (Unix time in milliseconds), None while it runs.
    """

    id: str
    fields: Mapping[bytes, bytes]
    definitions: tuple[bytes, ...]
    results: Mapping[int, bytes]
    removed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ResultsLine:
    """A portion of the results of a workflow, by number of the job.

    The line of the workflow comes after its portions.
    """

    workflow_id: str
    results: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class CronLine:
    """A cron job, with the fields of its hash."""

    name: str
    fields: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class SchemaLine:
    """A schema of job args.

    Args:
        type: the job type.
        version: the version as the client spelled it.
        uri: the URI of the schema.
        document: the JSON of the schema.
        created_ms: Unix time in ms of the registration.
        policy: how the type is validated; None if it has no policy of its own.
    """

    type: str
    version: str
    uri: str
    document: bytes
    created_ms: int
    policy: TypePolicy | None = None


@dataclass(frozen=True, slots=True)
class TenantLine:
    """The settings of a tenant."""

    settings: TenantSettings


@dataclass(frozen=True, slots=True)
class PoolLine:
    """A worker pool."""

    pool: Pool


@dataclass(frozen=True, slots=True)
class MarkLine:
    """A mark on the charts of the dashboard."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class RemovedLine:
    """A line of a kind that only an earlier version wrote. An import counts it and ignores it.

    Args:
        kind: the kind of the line, in the plural for people.
    """

    kind: str


@dataclass(frozen=True, slots=True)
class ArchiveHeader:
    """The first line, with the version of the format."""

    version: int


@dataclass(frozen=True, slots=True)
class ArchiveFooter:
    """The last line, with the number of lines of each kind."""

    counts: Mapping[str, int]


ArchiveLine = (
    ArchiveHeader
    | QueueLine
    | JobLine
    | ResultsLine
    | WorkflowLine
    | CronLine
    | SchemaLine
    | TenantLine
    | PoolLine
    | MarkLine
    | ArchiveFooter
)


def dump(value: object) -> Raw:
    """Return a value as JSON."""
    return Raw(orjson.dumps(value))


def text(members: Mapping[str, Raw], name: str) -> str:
    """Return a member that is a string.

    Raises:
        InvalidLine: the member is missing or has another type.
    """
    value = raw_json.string(members[name]) if name in members else None
    if value is None:
        raise InvalidLine(f"'{name}' must be a string")
    return value


def number(members: Mapping[str, Raw], name: str) -> int:
    """Return a member that is an integer of at most 2^53, so a Redis score represents it exactly.

    Raises:
        InvalidLine: the member is missing, has another type, or is too large.
    """
    raw = bytes(members.get(name, b"")).strip()
    if not is_number(raw) or abs(int(raw)) > _MAX_NUMBER:
        raise InvalidLine(f"'{name}' must be an integer of at most 2^53")
    return int(raw)


def texts(piece: Raw) -> dict[str, str]:
    """Return an object whose values are strings.

    Raises:
        InvalidLine: the piece is not an object, or a value is not a string.
    """
    members = raw_json.object_members(piece)
    if members is None:
        raise InvalidLine("an object is expected")
    return {name: text(members, name) for name in members}
