"""Walk the indexes that hold the jobs of a selection, one page of one index in one shard at a time.

A position names the last entry of a page by its score and its id. So a job that stays in its index
is read exactly once, even if other jobs enter or leave the index between two pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from ojs_cluster.core.bulk.selection import JobSummary, Selection
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.bulk_records.operation import MEMBER_ENCODING, Position, Target

PAGE: Final = 200
"""Maximum number of entries that one script reads. It takes about a millisecond."""
_NAMES_AT_ONCE: Final = 100
"""Number of queue names that one command reads. All but the first are used only after damage."""
_FIELDS: Final = 11
"""Number of values of each job in the reply of ``bulk_page.lua``, without the id."""
_INDEXES: Final[Mapping[State, tuple[str, ...]]] = {
    State.PENDING: ("pending",),
    State.AVAILABLE: ("queue_available", "queue_blocked"),
    State.SCHEDULED: ("due",),
    State.RETRYABLE: ("due",),
    State.ACTIVE: ("active",),
    State.COMPLETED: ("finished",),
    State.CANCELLED: ("finished",),
    State.DISCARDED: ("finished",),
}
"""Indexes of the jobs of each state. Dead letters are also in ``finished``."""
_STATES: Final = frozenset(State)
_INDEXES_OF_QUEUE: Final = frozenset({"queue_available", "queue_blocked", "queue_dead"})
"""The indexes that each queue has."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    Args:
        jobs: the jobs.
        following: the position after the page, None at the end of the walk.
        shard: the shard of all jobs, None if they may be in several.
        unreadable: jobs of the selection's queue whose small fields are unreadable. Only a deletion
            of the queue changes them.
    """

    jobs: Sequence[JobSummary]
    following: Position | None
    shard: Shard | None = None
    unreadable: Sequence[Target] = ()


def indexes_of(selection: Selection) -> tuple[str, ...]:
    """Return the names of the indexes that hold the jobs of a selection."""
    if selection.dead:
        return ("dead",) if selection.queue is None else ("queue_dead",)
    names = dict.fromkeys(name for state in selection.states for name in _INDEXES[state])
    return tuple(names)


async def read_page(store: Store, selection: Selection, position: Position) -> Page:
    """Return the next page of the walk.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    indexes = indexes_of(selection)
    if position.index >= len(indexes):
        return Page((), None)
    name = indexes[position.index]
    queue = selection.queue or position.queue
    if name in _INDEXES_OF_QUEUE and not queue:
        following = await _next_queue(store, position)
        return Page((), following if following is not None else _next_index(position, indexes))
    shard = store.keys.shard(min(position.shard, len(store.keys) - 1))
    if queue and shard not in await store.partitions.occupied_shards(store, queue):
        return Page((), await _next_shard(store, selection, position, indexes))
    key = getattr(shard, name)
    own = name in _INDEXES_OF_QUEUE
    rows, score = await _read(store, shard, key(queue) if own else key, position)
    jobs: list[JobSummary] = []
    unreadable: list[Target] = []
    for raw_id, values in rows:
        if (job := _summary(raw_id, values)) is not None:
            jobs.append(job)
        elif selection.queue is not None and (own or values[1] == selection.queue.encode()):
            with suppress(UnicodeDecodeError):
                unreadable.append(_unreadable(raw_id.decode(), values))
    if len(rows) == PAGE:
        member = rows[-1][0].decode(MEMBER_ENCODING)
        after: Position | None = replace(position, score=score, member=member)
    else:
        after = await _next_shard(store, selection, position, indexes)
    return Page(jobs, after, shard, unreadable)


async def _next_shard(
    store: Store, selection: Selection, position: Position, indexes: Sequence[str]
) -> Position | None:
    """Return the position at the beginning of the next shard, queue or index."""
    shards = range(position.shard + 1, len(store.keys))
    queue = selection.queue or position.queue
    if queue:  # a queue has few shards
        occupied = await store.partitions.occupied_shards(store, queue)
        shards_of_queue = {shard.index for shard in occupied}
        shard = next((index for index in shards if index in shards_of_queue), None)
    else:
        shard = next(iter(shards), None)
    if shard is not None:
        return Position(position.index, position.queue, shard)
    if position.queue:
        after = await _next_queue(store, position)
        if after is not None:
            return after
    return _next_index(position, indexes)


def _next_index(position: Position, indexes: Sequence[str]) -> Position | None:
    index = position.index + 1
    return Position(index) if index < len(indexes) else None


async def _next_queue(store: Store, position: Position) -> Position | None:
    """Return the position at the beginning of the next queue by name, None after the last one.

    A registered name that is not UTF-8 belongs to no queue, so it is left out.
    """
    meta = store.keys.meta
    begin = f"({position.queue}".encode() if position.queue else b"-"
    while True:
        names: Any = await store.redis.call(
            meta.slot,
            *("ZRANGEBYLEX", meta.queues, begin, "+", "LIMIT", 0, _NAMES_AT_ONCE),
            idempotent=True,
        )
        for name in names:
            with suppress(UnicodeDecodeError):
                return Position(position.index, name.decode())
        if not names:
            return None
        begin = b"(" + names[-1]


async def _read(
    store: Store, shard: Shard, key: bytes, position: Position
) -> tuple[list[tuple[bytes, Sequence[bytes]]], str]:
    """Read a page of an index.

    Returns:
        The ids and small fields of the jobs, and the score of the last one.
    """
    flat: Any = await store.run(
        *(shard, "bulk_page", [key]),
        [position.score, position.member.encode(MEMBER_ENCODING), PAGE],
        idempotent=True,
    )
    width = _FIELDS + 1
    rows = [(flat[at], flat[at + 1 : at + width]) for at in range(1, len(flat), width)]
    return rows, flat[0].decode()


def _summary(raw_id: bytes, values: Sequence[bytes]) -> JobSummary | None:
    """Return the summary of a job, None for one that is gone or malformed."""
    state, queue, kind, created, finished, priority, dead, hidden, replays, attempt, worker = values
    if not _is_short_number(created) or (replays and not _is_short_number(replays)):
        return None  # an operation stores these, and a script compares them
    try:
        return JobSummary(
            raw_id.decode(),
            State(state.decode()),
            queue.decode(),
            kind.decode(),
            int(created),
            int(finished) if finished else None,
            int(priority or 0),
            bool(dead),
            bool(hidden),
            int(replays or 0),
            int(attempt or 0),
            worker.decode() if state == b"active" else "",
        )
    except ValueError:
        return None


def _is_short_number(value: bytes) -> bool:
    """Return whether Redis scripts and Python read the same integer, of 15 digits at most."""
    return len(value) <= 15 and value.removeprefix(b"-").isdigit()


def _unreadable(job_id: str, values: Sequence[bytes]) -> Target:
    """Return a job of which only those small fields are used that are readable.

    ``discard_job.lua`` and ``move_job.lua`` read an unreadable time as 0, too.
    """
    state, created = values[0].decode(errors="replace"), values[3]
    return Target(
        *(job_id, 0, State(state) if state in _STATES else State.AVAILABLE),
        created_ms=int(created) if _is_short_number(created) else 0,
    )
