"""Cron jobs as clients see them: register, look, change, delete, run (spec: ojs-cron 8)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.cron_job import CronDefinition, is_cron_name
from ojs_cluster.core.errors import (
    Conflict,
    Internal,
    InvalidRequest,
    NotFound,
    ValidationFailed,
)
from ojs_cluster.store.context import Store
from ojs_cluster.store.cron.cron_record import CronRecord, cron_record
from ojs_cluster.store.cron.cron_store import StoreBook
from ojs_cluster.store.cron.firing import run_by_hand
from ojs_cluster.store.cron.tick_job import UnusableDefinition
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.off_loop import off_loop
from ojs_cluster.store.partial_failures import begun
from ojs_cluster.store.runtime import Arg

_ABSENT = "-"
_QUEUES_READ = 500
"""Cron jobs whose queues one call reads: half a millisecond of the master."""
_ROUNDS = 20
"""Times that a change is tried anew because somebody else's came first."""


@dataclass(frozen=True, slots=True)
class PastTick:
    """A line of the history. Times in ms.

    Args:
        outcome: fire, skip, hand for a run that was asked for, or error when no job could be made.
        job_id: the job; of a skipped tick the run that was in the way; '' where there is none.
        error: why no job could be made.
    """

    outcome: str
    tick_ms: int
    at_ms: int
    job_id: str
    error: str = ""


async def register(
    store: Store,
    definition: CronDefinition,
    check_present: Callable[[CronRecord], None] | None = None,
) -> tuple[CronRecord, bool]:
    """Register a cron job, or give the one of this name this definition.

    Returns it, and whether it is new. ``check_present`` is called with the one that is there, and
    raises what keeps it from being replaced.

    Raises:
        InvalidRequest: the schedule never comes true in its zone.
        ValidationFailed: it would be one too many.
        Conflict: others kept changing it, where ``check_present`` is given.
        BackendUnavailable: Redis did not answer in time.
    """
    if check_present is None:
        found = await _put(store, definition, "")
        assert found is not None  # noqa: S101 - only an expected version can be a wrong one
        return found
    for _ in range(_ROUNDS):
        present = await _present(store, definition.name)
        if present is not None:
            check_present(present)
        found = await _put(store, definition, _ABSENT if present is None else present.version)
        if found is not None:
            return found
    raise _changed_by_others(definition.name)


async def _present(store: Store, name: str) -> CronRecord | None:
    try:
        return await get(store, name)
    except NotFound:
        return None


async def get(store: Store, name: str) -> CronRecord:
    """One cron job.

    Raises:
        NotFound: there is none of this name.
        BackendUnavailable: Redis did not answer in time.
    """
    if is_cron_name(name):
        meta = store.keys.meta
        now_ms, flat = await store.run_meta("read_hash", [meta.cron(name)], [])
        if flat:
            found = cron_record(name, flat, now_ms)
            if not found.deleted:
                if found.fault is not None:
                    raise Internal(f"cron job '{name}' is malformed in Redis: {found.fault}")
                return found
    raise NotFound("cron job", name[:255])


async def list_crons(
    store: Store,
    *,
    limit: int,
    offset: int,
    enabled: bool | None = None,
    within: QueuePatterns | None = None,
) -> tuple[list[CronRecord], int]:
    """A page of cron jobs, the enabled ones first, each part by name; and how many there are.

    Args:
        within: the queues that the reader may reach, None for all.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    low, high = ("-inf", "+inf") if enabled is None else (int(not enabled), int(not enabled))
    total: Any
    names: Any
    if within is None:
        total = await store.redis.call(
            meta.slot, "ZCOUNT", meta.cron_names, low, high, idempotent=True
        )
        names = await store.redis.call(
            meta.slot,
            *("ZRANGEBYSCORE", meta.cron_names, low, high, "LIMIT", offset, limit),
            idempotent=True,
        )
    else:
        reached = await _names_within(store, within, low, high)
        total, names = len(reached), reached[offset : offset + limit]
    found: dict[bytes, CronRecord] = {}

    async def read(name: bytes) -> None:
        # Deleted meanwhile, or malformed: left out.
        with suppress(NotFound, Internal):
            found[name] = await get(store, name.decode())

    await over_shards(names, read)
    return [found[name] for name in names if name in found], total


async def _names_within(store: Store, within: QueuePatterns, low: Arg, high: Arg) -> list[bytes]:
    """Names of the cron jobs in reach. All are looked at: ``OJS_MAX_CRONS`` bounds them."""
    meta = store.keys.meta
    found: list[bytes] = []
    for begin in itertools.count(0, _QUEUES_READ):
        flat = await store.run_meta(
            "cron_queues", [meta.cron_names], [low, high, begin, _QUEUES_READ]
        )
        items = iter(flat)
        for name, queue in zip(items, items, strict=True):
            if within.admits(queue.decode()):
                found.append(name)
        if len(flat) < 2 * _QUEUES_READ:
            break
    return found


async def change(
    store: Store, name: str, edit: Callable[[CronDefinition], CronDefinition], size: int = 0
) -> CronRecord:
    """Give a cron job the definition that ``edit`` makes of its present one.

    Args:
        size: bytes of JSON that ``edit`` reads besides the present definition.

    Raises:
        NotFound, InvalidRequest, BackendUnavailable: as ``get`` and ``register``.
        Conflict: others kept changing it.
    """
    for _ in range(_ROUNDS):
        present = await get(store, name)
        job = present.definition.job
        definition = await off_loop(partial(edit, present.definition), size + len(job))
        changed = await _put(store, definition, present.version)
        if changed is not None:
            return changed[0]
    raise _changed_by_others(name)


def _changed_by_others(name: str) -> Conflict:
    return Conflict(f"cron job '{name}' is being changed by others", resource="cron job", id=name)


async def drop(store: Store, name: str) -> CronRecord:
    """Delete a cron job. Its jobs stay.

    Returns what it was.

    Raises:
        NotFound: there is none of this name.
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    if is_cron_name(name):
        reply = await store.run_meta(
            "cron_drop",
            [meta.cron(name), meta.crons, meta.cron_names, meta.cron_history(name)],
            [name],
            idempotent=False,
        )
        if reply[0] == b"ok":
            return cron_record(name, reply[1], 0)
    raise NotFound("cron job", name[:255])


async def trigger(store: Store, name: str) -> tuple[CronRecord, JobRecord]:
    """Run a cron job now, enabled or not; its next tick stays what it is.

    Returns the cron job and the job; ``deduplicated`` where one of the same uniqueness is there
    already, under a policy that says so.

    Raises:
        Duplicate: a job of the same uniqueness is in the way.
        NotFound: there is none of this name.
        Conflict: others kept changing it.
        InvalidRequest, ValidationFailed, Unsupported, PayloadTooLarge: its job cannot be made.
        BackendUnavailable: Redis did not answer in time. The run may still happen.
    """
    book = StoreBook(store)
    for _ in range(_ROUNDS):
        try:
            run = await run_by_hand(book, await get(store, name))
        except UnusableDefinition as found:
            raise found.error from found
        if run is not None:
            with begun():
                job = await read_jobs.get(store, run.job_id)
                cron = await get(store, name)
            return cron, msgspec.structs.replace(job, deduplicated=not run.own)
    raise _changed_by_others(name)


async def history(store: Store, name: str, limit: int) -> list[PastTick]:
    """The last occurrences, newest first.

    Raises:
        NotFound: there is none of this name.
        BackendUnavailable: Redis did not answer in time.
    """
    await get(store, name)
    meta = store.keys.meta
    lines: Any = await store.redis.call(
        meta.slot, "LRANGE", meta.cron_history(name), 0, limit - 1, idempotent=True
    )
    found = []
    for line in lines:
        outcome, tick, at, rest = line.decode().split(" ", 3)
        job_id, error = ("", rest) if outcome == "error" else (rest, "")
        found.append(PastTick(outcome, int(tick), int(at), job_id, error))
    return found


async def _put(
    store: Store, definition: CronDefinition, version: str
) -> tuple[CronRecord, bool] | None:
    """Write a definition; None when ``version`` is not the present one.

    '' stands for any version, and ``_ABSENT`` for none.
    """
    meta = store.keys.meta
    now: Any = await store.redis.call(meta.slot, "TIME", idempotent=True)
    now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
    following = definition.schedule.following(now_ms, now_ms)
    if following is None:
        raise InvalidRequest("the expression never comes true in its timezone", field="expression")
    plan: list[Arg] = ["", now_ms, ""]
    if definition.enabled:
        plan = [following.ms, now_ms, "" if following.gap_ms is None else following.gap_ms]
    reply = await store.run_meta(
        "cron_put",
        [meta.cron(definition.name), meta.crons, meta.cron_names],
        [definition.name, store.settings.max_crons, version, *plan, *_fields(definition)],
    )
    if reply[0] == b"full":
        raise ValidationFailed(
            f"cron job '{definition.name}' would be one more than the "
            f"{store.settings.max_crons} allowed",
            field="name",
        )
    if reply[0] == b"stale":
        return None
    return cron_record(definition.name, reply[2], reply[3]), bool(reply[1])


def _fields(definition: CronDefinition) -> Sequence[Arg]:
    return (
        *("x", definition.schedule.expression, "z", definition.schedule.timezone),
        *("o", definition.overlap, "d", definition.description, "j", definition.job),
        *("q", definition.queue, "t", definition.type, "on", "1" if definition.enabled else "0"),
    )
