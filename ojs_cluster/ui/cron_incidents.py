"""Read which cron jobs do not run: those that are skipped, and those that are late."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ojs_cluster.core.errors import MalformedRecord, NotFound
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.cron import cron

_MAX_EVENTS: Final = 500
"""Number of the newest events of the meta tag in which skipped cron jobs are found."""
_MAX_SKIPPED: Final = 10
"""Number of cron jobs whose history is read."""
_MIN_SKIPPED: Final = 3
"""Number of occurrences in a row from which skipping one is a problem. A run may take long once."""
_SKIPPED_MS: Final = 5 * 60_000
"""Time in ms without a run after which a single skipped occurrence is a problem, too."""
_HISTORY: Final = 20
_LATE_MS: Final = 30_000
"""Delay of an occurrence in ms from which a cron job is late."""
MAX_LATE: Final = 3


class SkippedCron(msgspec.Struct, frozen=True):
    """A cron job whose last occurrences have started no job.

    Args:
        name: the cron job.
        reason: ``overlap`` if its earlier run has not ended, or the first word of the error.
        count: number of the last occurrences without a job, ``_HISTORY`` at most.
        since_ms: when the first of them was due, in Unix milliseconds.
    """

    name: str
    reason: str
    count: int
    since_ms: int


class LateCrons(msgspec.Struct, frozen=True):
    """Cron jobs that should have run.

    Args:
        names: the first ones, the longest due first, one more than ``MAX_LATE`` at most.
        since_ms: since when the first one is due, in Unix milliseconds; 0 for none.
    """

    names: list[str] = []
    since_ms: int = 0


async def find_skipped(store: Store) -> list[SkippedCron]:
    """Return cron jobs that start no jobs, those that were skipped last first.

    Events name those that were skipped of late, so the cost does not grow with the number of cron
    jobs. Without an event stream (``OJS_EVENTS_PER_SHARD=0``) none is found.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    entries: Any = await store.redis.call(
        *(meta.slot, "XREVRANGE", meta.events, "+", "-", "COUNT", _MAX_EVENTS), idempotent=True
    )
    names: dict[str, None] = {}
    for _, flat in entries:
        fields = dict(zip(flat[::2], flat[1::2], strict=False))
        if fields.get(b"t") == b"cron.skipped" and fields.get(b"w") != b"dst_skip":
            names[fields.get(b"c", b"").decode(errors="replace")] = None
    found = [await _read(store, name) for name in list(names)[:_MAX_SKIPPED]]
    return [each for each in found if each is not None]


async def _read(store: Store, name: str) -> SkippedCron | None:
    """Return a cron job if it starts no jobs."""
    try:
        enabled = (await cron.get(store, name)).definition.enabled
        history = await cron.history(store, name, _HISTORY) if enabled else []
    except (NotFound, MalformedRecord):
        return None
    skipped = []
    for each in history:
        if each.outcome not in ("skip", "error"):
            break
        skipped.append(each)
    if not skipped:
        return None
    newest, first = skipped[0], skipped[-1]
    is_short = store.clock.now_ms() - first.at_ms < _SKIPPED_MS and len(skipped) < _MIN_SKIPPED
    if newest.outcome == "skip" and is_short:
        return None
    reason = "overlap" if newest.outcome == "skip" else newest.error.partition(":")[0]
    return SkippedCron(name, reason, len(skipped), first.occurrence_ms)


async def find_late(store: Store) -> LateCrons:
    """Return the cron jobs that should have run.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta, before_ms = store.keys.meta, store.clock.now_ms() - _LATE_MS
    flat: Any = await store.redis.call(
        *(meta.slot, "ZRANGEBYSCORE", meta.crons, "-inf", before_ms, "WITHSCORES"),
        *("LIMIT", 0, MAX_LATE + 1),
        idempotent=True,
    )
    names = [name.decode(errors="replace") for name in flat[::2]]
    return LateCrons(names, int(float(flat[1]))) if names else LateCrons()
