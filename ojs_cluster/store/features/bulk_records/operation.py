"""A bulk operation as it is stored: what it does, how far it has come, and what it has counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from ojs_cluster.core.bulk.selection import BulkAction, Selection
from ojs_cluster.core.jobs.states import State

MAX_FAILURES: Final = 20
"""Maximum number of failures that an operation keeps. It counts all failures."""
MEMBER_ENCODING: Final = "latin-1"
"""Encoding of the last entry in a position. An entry may be damaged, and this keeps all bytes."""
MAX_REASON: Final = 300
"""Maximum number of characters of a reason."""
_STATES: Final = frozenset(State)
_COUNTS: Final = ("examined", "matched", "succeeded", "failed")


class BulkState(StrEnum):
    """The states of a bulk operation. The value is the name in the API and in Redis."""

    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


class DamagedOperation(Exception):
    """The stored fields of a bulk operation cannot be read; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far the walk over the indexes, or over the ids of the operation, has come.

    Args:
        index: number of the index.
        queue: name of the queue whose index is walked, '' before the first and for other indexes.
        shard: index of the shard.
        score: score of the last entry as Redis spells it, '' at the beginning of an index.
        member: the last entry, decoded by ``MEMBER_ENCODING``.
        ids: number of the operation's ids that were processed.
    """

    index: int = 0
    queue: str = ""
    shard: int = 0
    score: str = ""
    member: str = ""
    ids: int = 0

    def members(self) -> list[Any]:
        """Return the position as JSON values; ``of_members`` reads them."""
        return [self.index, self.queue, self.shard, self.score, self.member, self.ids]

    @classmethod
    def of_members(cls, members: Any) -> Position:
        """Return the position that ``members`` has written.

        Raises:
            DamagedOperation: the members are damaged.
        """
        match members:
            case [int(index), str(queue), int(shard), str(score), str(member), int(ids)] if min(
                index, shard, ids
            ) >= 0 and all(char <= "\xff" for char in member):
                return cls(index, queue, shard, score, member, ids)
        raise DamagedOperation("its position is damaged")


@dataclass(frozen=True, slots=True)
class Target:
    """A job that a slice changes.

    Args:
        job_id: the job.
        replays: how often an operator had retried it when it was chosen; None if not known.
        state: its state when it was chosen; None if not known.
        created_ms: when it was created, in Unix milliseconds; None if not known. A later job with
            the same id is another job, which is not cancelled or deleted.
    """

    job_id: str
    replays: int | None = None
    state: State | None = None
    created_ms: int | None = None

    def members(self) -> list[Any]:
        """Return the job as JSON values; ``of_members`` reads them."""
        return [self.job_id, self.replays, self.state, self.created_ms]

    @classmethod
    def of_members(cls, members: Any) -> Target:
        """Return the job that ``members`` has written.

        Raises:
            DamagedOperation: the members are damaged.
        """
        match members:
            case [str(job_id), int(replays), str(state), int(created_ms)] if state in _STATES:
                return cls(job_id, replays, State(state), created_ms)
        raise DamagedOperation("its slice is damaged")


@dataclass(frozen=True, slots=True)
class Slice:
    """The chosen jobs that an operation changes next.

    The slice is stored before its first job is changed. So a process that continues after a crash
    knows the chosen jobs, and counts each of them once.

    Args:
        targets: the jobs.
        following: where the walk continues after these jobs, None at its end.
    """

    targets: Sequence[Target]
    following: Position | None

    def encode(self) -> bytes:
        """Return the slice as stored."""
        position = None if self.following is None else self.following.members()
        return orjson.dumps([[target.members() for target in self.targets], position])


@dataclass(frozen=True, slots=True)
class QueueDeletion:
    """The deletion of a queue that an operation carries out, with the jobs of the queue.

    Args:
        queue: the queue.
        token: the token of its drain.
        target: the queue that gets the jobs; empty if they are discarded.
    """

    queue: str
    token: str
    target: str = ""

    def encode(self) -> bytes:
        """Return the deletion as stored."""
        return orjson.dumps([self.queue, self.token, self.target])


@dataclass(frozen=True, slots=True)
class Walk:
    """What a deletion knows of its walk over the jobs of the queue.

    Args:
        changed_before: number of jobs that were changed before it.
        waits: whether it is no walk: the deletion only waits for active jobs.
        stuck: number of walks before it, in a row, that left waiting jobs and changed nothing.
        idle: number of walks before it, in a row, that left active jobs alone and changed nothing.
        failure: why its first job could not be changed; '' if there is none.
    """

    changed_before: int = 0
    waits: bool = False
    stuck: int = 0
    idle: int = 0
    failure: str = ""

    def encode(self) -> bytes:
        """Return the walk as stored."""
        members = [self.changed_before, self.waits, self.stuck, self.idle]
        return orjson.dumps([*members, self.failure[:MAX_REASON]])


@dataclass(slots=True)
class KnownVersion:
    """The version of an operation that a process has read or written last.

    Args:
        version: the version; '' while the process has read none.
    """

    version: str = ""


@dataclass(frozen=True, slots=True)
class BulkOperation:
    """A bulk operation.

    Args:
        id: its id, a UUIDv7.
        action: what is done to each job.
        state: its state.
        version: number of updates. An update is refused if another process has made one since.
        created_ms: when it was created, in Unix milliseconds.
        ended_ms: when it ended, in Unix milliseconds; None while it has not ended.
        selection: which jobs it chooses. It also applies to an operation on ids.
        ids: the ids of its jobs; None for all jobs that the selection admits. An ended operation
            has none.
        named: number of its ids, also after its end; None for all jobs that the selection admits.
        searched: whether the search of the selection lists these ids. It then chooses the same jobs
            without them.
        dry_run: whether it only counts.
        priority: the priority that the action ``priority`` gives to each job.
        principal: name of the API key that has created it.
        position: where the walk continues, None at its end.
        slice: the jobs that are being changed, None between two slices.
        examined: number of jobs that were compared with the selection.
        matched: number of jobs that were chosen.
        succeeded: number of jobs that were changed.
        failed: number of jobs that could not be changed.
        failures: ids and reasons of the first jobs that could not be changed.
        reason: why it has failed, or has not counted all jobs; otherwise ''.
        followed_by: id of the operation that was created to follow this dry run, None if there is
            none.
        deletion: the queue that it deletes, None for other operations. Its walk begins again while
            jobs are left in the queue.
        walk: the present walk of a deletion.
        known: is kept up to date by the updates of this process, also when a later command of the
            same step fails.
    """

    id: str
    action: BulkAction
    state: BulkState
    version: str
    created_ms: int
    selection: Selection
    ended_ms: int | None = None
    ids: Sequence[str] | None = None
    named: int | None = None
    searched: bool = False
    dry_run: bool = False
    priority: int = 0
    principal: str = ""
    position: Position | None = field(default_factory=Position)
    slice: Slice | None = None
    examined: int = 0
    matched: int = 0
    succeeded: int = 0
    failed: int = 0
    failures: Sequence[tuple[str, str]] = ()
    reason: str = ""
    followed_by: str | None = None
    deletion: QueueDeletion | None = None
    walk: Walk = field(default_factory=Walk)
    known: KnownVersion = field(default_factory=KnownVersion, compare=False)

    @property
    def ended(self) -> bool:
        """Whether the operation has ended."""
        return self.ended_ms is not None

    @property
    def is_claimed(self) -> bool:
        """Whether a process has updated the operation. A deletion then had its drain.

        Failures that are counted are no update.
        """
        return self.version != "0"

    def with_failures(self, found: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Return the kept failures and as many of ``found`` as fit, with shortened reasons."""
        shortened = [(job_id, reason[:MAX_REASON]) for job_id, reason in found]
        return (*self.failures, *shortened)[:MAX_FAILURES]


def read_operation(operation_id: str, flat: Sequence[bytes]) -> BulkOperation:
    """Return the operation that a hash holds.

    Args:
        operation_id: id of the operation.
        flat: names and values of the fields.

    Raises:
        DamagedOperation: the fields are damaged.
    """
    items = iter(flat)
    fields = dict(zip(items, items, strict=False))
    try:
        ids = _json(fields, b"ids")
        failures = _json(fields, b"failures") or []
        return BulkOperation(
            id=operation_id,
            action=BulkAction(fields[b"action"].decode()),
            state=BulkState(fields[b"state"].decode()),
            version=str(int(fields[b"version"])),
            created_ms=int(fields[b"created"]),
            selection=Selection.of_members(_json(fields, b"filter")),
            ended_ms=int(fields[b"ended"]) if b"ended" in fields else None,
            ids=None if ids is None else [str(job_id) for job_id in ids],
            named=int(fields[b"named"]) if b"named" in fields else None,
            searched=fields.get(b"searched") == b"1",
            dry_run=fields.get(b"dry_run") == b"1",
            priority=int(fields.get(b"priority", 0)),
            principal=fields.get(b"principal", b"").decode(),
            position=_position(fields),
            slice=_slice(fields),
            failures=tuple((str(job_id), str(reason)) for job_id, reason in failures),
            reason=fields.get(b"reason", b"").decode(),
            followed_by=fields.get(b"followed_by", b"").decode() or None,
            deletion=_deletion(fields),
            walk=_walk(fields),
            known=KnownVersion(),
            **{name: int(fields.get(name.encode(), 0)) for name in _COUNTS},
        )
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedOperation(f"its stored fields are damaged: {error!r}") from None


def _json(fields: Mapping[bytes, bytes], name: bytes) -> Any:
    text = fields.get(name)
    return None if text is None else orjson.loads(text)


def _position(fields: Mapping[bytes, bytes]) -> Position | None:
    members = _json(fields, b"position")
    if members is None:
        return Position() if b"position" not in fields else None
    return Position.of_members(members)


def _deletion(fields: Mapping[bytes, bytes]) -> QueueDeletion | None:
    members = _json(fields, b"deletion")
    return None if members is None else read_deletion(members)


def read_deletion(members: Any) -> QueueDeletion:
    """Return the deletion of an operation.

    Args:
        members: the JSON value that ``QueueDeletion.encode`` has written.

    Raises:
        DamagedOperation: it is damaged.
    """
    match members:
        case [str(queue), str(token), str(target)]:
            return QueueDeletion(queue, token, target)
    raise DamagedOperation("its deletion is damaged")


def _walk(fields: Mapping[bytes, bytes]) -> Walk:
    match _json(fields, b"walk"):
        case None:
            return Walk()
        case [int(before), bool(waits), int(stuck), int(idle), str(failure)]:
            return Walk(before, waits, stuck, idle, failure)
    raise DamagedOperation("its walk is damaged")


def _slice(fields: Mapping[bytes, bytes]) -> Slice | None:
    text = fields.get(b"slice")
    if not text:
        return None
    targets, position = orjson.loads(text)
    return Slice(
        [Target.of_members(members) for members in targets],
        None if position is None else Position.of_members(position),
    )
