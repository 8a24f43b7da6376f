"""Cron jobs as clients see them: register, read, change, delete, run (spec: ojs-cron 8)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.cron.cron_job import CronDefinition, is_cron_name
from ojs_cluster.core.errors import (
    Conflict,
    InvalidRequest,
    MalformedRecord,
    NotFound,
    ValidationFailed,
)
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.cron.cron_record import CronRecord, check_time, parse_cron_record
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import run_manually
from ojs_cluster.store.features.cron.occurrence_job import UnusableDefinition
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.listed import Listed, Position, cut, scored_names
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.runtime import Arg

_ABSENT = "-"
"""The expected version of a cron job that must not exist yet."""
_UNREADABLE = {
    **(dict.fromkeys((b"created", b"updated", b"anchor", b"runs", b"enabled"), b"0")),
    **{b"expression": b"@every 1h", b"timezone": b"UTC", b"overlap_policy": b"skip"},
    **{b"queue": b"unknown", b"type": b"unknown", b"job": b'{"type":"unknown","args":[]}'},
    **{b"description": b"null", b"version": b"0"},
}
"""Fields that a response shows instead of those of a malformed cron job."""
_QUEUES_PER_CALL = 500
"""Maximum number of cron jobs whose queues one call reads. It blocks its node for 0.5 ms."""
_MAX_CHANGE_ATTEMPTS = 20
"""Maximum number of attempts to change a cron job that other clients change at the same time."""


@dataclass(frozen=True, slots=True)
class PastOccurrence:
    """An entry of a cron job's history.

    Args:
        outcome: ``fire``, ``skip``, ``manual`` for a manual run, or ``error`` when no job could be
            made.
        occurrence_ms: Unix time of the occurrence in ms; for a manual run the time of the request.
        at_ms: Unix time in ms when the occurrence was decided.
        job_id: id of the job, or for ``skip`` of the unfinished run; '' for ``error``.
        error: why no job could be made.
    """

    outcome: str
    occurrence_ms: int
    at_ms: int
    job_id: str
    error: str = ""


async def register(
    store: Store,
    definition: CronDefinition,
    check_present: Callable[[CronRecord], None] | None = None,
) -> tuple[CronRecord, bool]:
    """Register a cron job, or give an existing one of this name a new definition.

    Args:
        store: the store.
        definition: the definition.
        check_present: called with an existing cron job of this name. It raises an error if that
            cron job must not be replaced.

    Returns:
        The cron job, and whether it is new.

    Raises:
        InvalidRequest: the schedule has no occurrence in its time zone.
        ValidationFailed: the server has the maximum number of cron jobs.
        Conflict: other clients kept changing the cron job. Raised only with ``check_present``.
        BackendUnavailable: Redis did not answer in time.
    """
    if check_present is None:
        found = await _put(store, definition, "")
        assert found is not None  # noqa: S101 - without an expected version it cannot be stale
        return found
    for _ in range(_MAX_CHANGE_ATTEMPTS):
        present = await _get_or_none(store, definition.name)
        if present is not None:
            check_present(present)
        found = await _put(store, definition, _ABSENT if present is None else present.version)
        if found is not None:
            return found
    raise _changed_by_others(definition.name)


async def _get_or_none(store: Store, name: str) -> CronRecord | None:
    try:
        return await get(store, name)
    except NotFound:
        return None


async def get(store: Store, name: str) -> CronRecord:
    """Return one cron job.

    Raises:
        NotFound: there is no cron job of this name.
        MalformedRecord: the stored cron job is malformed.
        BackendUnavailable: Redis did not answer in time.
    """
    if is_cron_name(name):
        meta = store.keys.meta
        with _naming_wrong_type(name):
            now_ms, flat = await store.run_meta("read_hash", [meta.cron(name)], [])
        if flat:
            record = parse_cron_record(name, flat, now_ms)
            if not record.deleted:
                if record.fault is not None:
                    raise MalformedRecord("cron job", name, record.fault)
                return record
    raise NotFound("cron job", name[:255])


@contextmanager
def _naming_wrong_type(name: str) -> Iterator[None]:
    """Raise ``MalformedRecord`` when a key of a cron job has another type."""
    try:
        yield
    except RedisReplyError as error:
        if error.has_wrong_type:
            raise MalformedRecord("cron job", name, "its key has another type") from error
        raise


async def list_crons(
    store: Store,
    *,
    limit: int,
    offset: int = 0,
    after: Position | None = None,
    enabled: bool | None = None,
    within: QueuePatterns | None = None,
    tenant: str | None = None,
) -> Listed[CronRecord]:
    """Return a page of cron jobs and their number: first the enabled, then the disabled, by name.

    A cron job that is enabled between two requests goes to the front. If no page has shown it, it
    is then missing.

    Args:
        store: the store.
        limit: maximum number of cron jobs of the page.
        offset: how many cron jobs are skipped, unless ``after`` is given.
        after: the position of the last cron job before the page, which may be missing: 0 for an
            enabled one and 1 for a disabled one, and its name.
        enabled: True for enabled cron jobs only, False for disabled cron jobs only, None for all.
        within: the queues that the reader may see, None for all.
        tenant: the tenant whose cron jobs the reader may see, None for all.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    low, high = (0, 1) if enabled is None else (int(not enabled), int(not enabled))
    total: Any
    if within is None and tenant is None:
        total = await store.redis.call(
            meta.slot, "ZCOUNT", meta.cron_names, low, high, idempotent=True
        )
        # One more name than requested tells whether other cron jobs follow.
        listed = await _read_names(store, low, high, limit + 1, offset, after)
        part: Sequence[tuple[int, str]] = listed[:limit]
        follows = len(listed) > limit
    else:
        visible = await _visible_names(store, within, tenant, low, high)
        total = len(visible)
        part, follows = cut(visible, lambda each: each, limit=limit, offset=offset, after=after)
    names = [name for _, name in part]
    last = part[-1] if follows else None
    found: dict[str, CronRecord] = {}

    async def read(name: str) -> None:
        # A cron job that was deleted since, or is malformed, is left out.
        with suppress(NotFound, MalformedRecord):
            found[name] = await get(store, name)

    await run_concurrently(names, read)
    return Listed([found[name] for name in names if name in found], total, last)


async def _read_names(
    store: Store, low: int, high: int, limit: int, offset: int, after: Position | None
) -> list[tuple[int, str]]:
    """Return scores and names of cron jobs, in order, with scores from ``low`` to ``high``."""
    meta = store.keys.meta
    flat: Any
    if after is None:
        flat = await store.redis.call(
            meta.slot,
            *("ZRANGEBYSCORE", meta.cron_names, low, high, "WITHSCORES", "LIMIT", offset, limit),
            idempotent=True,
        )
    else:
        arguments = [*max(after, (low, "")), 0, limit]
        _, *flat = await store.run_meta("sorted_set_after", [meta.cron_names], arguments)
    return [each for each in scored_names(flat) if each[0] <= high]


async def _visible_names(
    store: Store, within: QueuePatterns | None, tenant: str | None, low: int, high: int
) -> list[tuple[int, str]]:
    """Return scores and names of visible cron jobs.

    All cron jobs are read, up to ``OJS_MAX_CRONS``.
    """
    meta = store.keys.meta
    found: list[tuple[int, str]] = []
    for begin in itertools.count(0, _QUEUES_PER_CALL):
        flat = await store.run_meta(
            "cron_queues", [meta.cron_names], [low, high, begin, _QUEUES_PER_CALL]
        )
        items = iter(flat)
        for name, score, queue, owner in zip(items, items, items, items, strict=True):
            if (within is None or within.admits(queue.decode(errors="replace"))) and (
                tenant is None or owner == tenant.encode()
            ):
                found.append((int(float(score)), name.decode()))
        if len(flat) < 4 * _QUEUES_PER_CALL:
            break
    return found


async def change(
    store: Store, name: str, edit: Callable[[CronDefinition], CronDefinition], size: int = 0
) -> CronRecord:
    """Change the definition of a cron job.

    Args:
        store: the store.
        name: name of the cron job.
        edit: returns the new definition, given the present definition.
        size: number of bytes of JSON that ``edit`` reads besides the present definition.

    Raises:
        NotFound: there is no cron job of this name.
        InvalidRequest: the schedule has no occurrence in its time zone.
        Conflict: other clients kept changing the cron job.
        BackendUnavailable: Redis did not answer in time.
    """
    for _ in range(_MAX_CHANGE_ATTEMPTS):
        present = await get(store, name)
        job = present.definition.job
        definition = await off_loop(partial(edit, present.definition), size + len(job))
        changed = await _put(store, definition, present.version)
        if changed is not None:
            return changed[0]
    raise _changed_by_others(name)


def _changed_by_others(name: str) -> Conflict:
    return Conflict(
        f"cron job '{name}' is being changed by other clients: try again",
        resource="cron job",
        id=name,
    )


async def delete(store: Store, name: str) -> CronRecord:
    """Delete a cron job; return it as it was. The jobs that it has enqueued stay.

    Of a malformed cron job only the name is returned.

    Raises:
        NotFound: there is no cron job of this name.
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    if is_cron_name(name):
        reply = await store.run_meta(
            "cron_delete",
            [meta.cron(name), meta.crons, meta.cron_names, meta.cron_history(name)],
            [name],
            idempotent=False,
        )
        if reply[0] == b"ok":
            record = parse_cron_record(name, reply[1], 0)
            return record if record.fault is None else CronRecord(name, _UNREADABLE)
    raise NotFound("cron job", name[:255])


async def trigger(store: Store, name: str) -> tuple[CronRecord, JobRecord]:
    """Enqueue the job of a cron job now, whether it is enabled or not.

    Its next occurrence stays.

    Args:
        store: the store.
        name: name of the cron job.

    Returns:
        The cron job and the job. ``deduplicated`` is set when an existing job with the same
        fingerprint is returned.

    Raises:
        Duplicate: a job with the same fingerprint exists.
        NotFound: there is no cron job of this name.
        Conflict: other clients kept changing the cron job.
        OJSError: no job can be made from the definition.
        BackendUnavailable: Redis did not answer in time. The run may still happen.
    """
    cron_store = RedisCronStore(store)
    for _ in range(_MAX_CHANGE_ATTEMPTS):
        try:
            run = await run_manually(cron_store, await get(store, name))
        except UnusableDefinition as found:
            raise found.error from found
        if run is not None:
            with after_first_write():
                job = await read_jobs.get(store, run.job_id)
                cron = await get(store, name)
            return cron, msgspec.structs.replace(job, deduplicated=not run.is_new)
    raise _changed_by_others(name)


async def history(store: Store, name: str, limit: int) -> list[PastOccurrence]:
    """Return the last occurrences and manual runs, newest first.

    Args:
        store: the store.
        name: name of the cron job.
        limit: maximum number of entries.

    Raises:
        NotFound: there is no cron job of this name.
        BackendUnavailable: Redis did not answer in time.
    """
    await get(store, name)
    meta = store.keys.meta
    with _naming_wrong_type(name):
        lines: Any = await store.redis.call(
            meta.slot, "LRANGE", meta.cron_history(name), 0, limit - 1, idempotent=True
        )
    found = []
    for line in lines:
        with suppress(ValueError):  # a damaged line is left out
            outcome, occurrence, at, rest = line.decode().split(" ", 3)
            job_id, error = ("", rest) if outcome == "error" else (rest, "")
            times_ms = check_time(int(occurrence)), check_time(int(at))
            found.append(PastOccurrence(outcome, *times_ms, job_id, error))
    return found


async def _put(
    store: Store, definition: CronDefinition, version: str
) -> tuple[CronRecord, bool] | None:
    """Write a definition; return None when the cron job has another version than ``version``.

    Args:
        store: the store.
        definition: the definition.
        version: the expected version; '' for any, ``_ABSENT`` for a cron job that does not exist.
    """
    meta = store.keys.meta
    now: Any = await store.redis.call(meta.slot, "TIME", idempotent=True)
    now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
    following = definition.schedule.following(now_ms, now_ms)
    if following is None:
        raise InvalidRequest("the expression has no occurrence in its timezone", field="expression")
    # The next occurrence, the start of ``@every``, and a clock change.
    schedule: list[Arg] = ["", now_ms, ""]
    if definition.enabled:
        schedule = [following.ms, now_ms, "" if following.gap_ms is None else following.gap_ms]
    reply = await store.run_meta(
        "cron_register",
        [meta.cron(definition.name), meta.crons, meta.cron_names],
        [definition.name, store.settings.max_crons, version, *schedule, *_fields(definition)],
    )
    if reply[0] == b"full":
        raise ValidationFailed(
            f"cron job '{definition.name}' would exceed the limit of {store.settings.max_crons} "
            "cron jobs: delete another one, or raise OJS_MAX_CRONS",
            field="name",
        )
    if reply[0] == b"stale":
        return None
    if reply[0] == b"malformed":  # one script cannot remove a key and write it again
        with suppress(NotFound):
            await delete(store, definition.name)
        return await _put(store, definition, version)
    return parse_cron_record(definition.name, reply[2], reply[3]), bool(reply[1])


def _fields(definition: CronDefinition) -> Sequence[Arg]:
    return (
        *("expression", definition.schedule.expression),
        *("timezone", definition.schedule.timezone),
        *("overlap_policy", definition.overlap),
        *("description", definition.description),
        *("job", definition.job),
        *("queue", definition.queue),
        *("type", definition.type),
        *("tenant", definition.tenant),
        *("enabled", "1" if definition.enabled else "0"),
    )
