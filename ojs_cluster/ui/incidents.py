"""Read what goes wrong: types that fail, discarded jobs, and what hangs or is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Final
from urllib.parse import urlsplit

import msgspec

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.listing import JobFilter, ListingPosition
from ojs_cluster.store.features.search.merged_indexes import walk_index
from ojs_cluster.store.features.search.small_fields import read_matching
from ojs_cluster.store.features.webhooks.counts import read_counts
from ojs_cluster.store.features.workers.lists import list_workers
from ojs_cluster.store.ground.process_state.job_counts import WIDTH
from ojs_cluster.store.ground.process_state.touch import MISSED_HEARTBEATS
from ojs_cluster.store.ground.process_state.type_minutes import (
    KEPT_MINUTES,
    TypeStatistics,
    count_attempts,
    list_types,
    read_type_records,
)
from ojs_cluster.store.operators.dashboard.marks import Mark, read_marks
from ojs_cluster.ui.cron_incidents import LateCrons, SkippedCron, find_late, find_skipped
from ojs_cluster.ui.killer_jobs import KillerJob, find_killers
from ojs_cluster.ui.limit_incidents import FullKey, find_full
from ojs_cluster.ui.patience import await_while_healthy
from ojs_cluster.ui.redaction.redaction import Value
from ojs_cluster.ui.serving import read_parked, read_unserved
from ojs_cluster.ui.stuck_workflows import StuckWorkflow, find_stuck
from ojs_cluster.ui.tenant_incidents import GreedyTenant, find_greedy
from ojs_cluster.ui.visit import Visit

_KEPT_S: Final = 15.0
"""Maximum age of what is read, in seconds."""
FAILING_MINUTES: Final = 10
"""Number of minutes whose attempts count for a type that fails."""
_FAILING_SHARE: Final = 0.3
"""Share of failed attempts from which a type fails."""
_MIN_FAILED: Final = 10
"""Number of failed attempts from which a type fails: less may be chance."""
_RESTARTS: Final = 5
"""Number of workers that have begun on a host of late, and have gone again, from which the host is
said to restart them."""
RESTART_MINUTES: Final = 10
"""Number of minutes in which they began."""
_MIN_REFUSED: Final = 3
"""Number of failed attempts in a row from which a receiver fails."""
_HUNG_TIMES: Final = 100
"""A job hangs that has run for this many times what 95 % of the jobs of its type needed."""
_HUNG_MS: Final = 60_000
"""Shortest run time of a job that hangs, in ms."""
_MIN_COMPLETED: Final = 20
"""Number of completed jobs of a type from which their run times say something."""
_MAX_ACTIVE: Final = 100
"""Number of active jobs that are read to find those that hang: those whose leases end first."""
_MAX_WORKERS: Final = 1000
"""Number of silent workers that are read to find the hosts that restart them: the last seen."""
_MINUTE_MS: Final = 60_000
MAX_NAMED: Final = 3
"""Number of types, hosts and others of a kind that are reported."""


class FailingType(msgspec.Struct, frozen=True):
    """A type many of whose attempts fail.

    Args:
        name: the type.
        failed: number of failed attempts.
        ended: number of all attempts that have ended.
        mark_id: the mark since which it fails; empty for none.
        mark: the label of the mark.
    """

    name: str
    failed: int
    ended: int
    mark_id: str = ""
    mark: str = ""


class HungJob(msgspec.Struct, frozen=True):
    """A job that has run for much longer than others of its type.

    Args:
        id: the job.
        type: its type.
        run_ms: how long it has run, in ms.
        usual_ms: what 95 % of the jobs of its type needed at most, in ms.
    """

    id: str
    type: str
    run_ms: int
    usual_ms: float


class Incidents(msgspec.Struct, frozen=True):
    """What has gone wrong of late.

    Args:
        failing: the types that fail, most failed attempts first.
        discarded: the types of jobs that were discarded in the last hour, most jobs first, each
            with their number.
        restarting: the hosts whose workers end soon after they begin, each with their number and
            the mean time between two of them in ms.
        webhooks: the receivers that fail, each with the id of the subscription, the host, the
            status of the last response (0 for none), and since when in Unix ms.
        hung: jobs that hang, the longest running first.
        skipped: cron jobs that start no jobs.
        late: cron jobs that should have run.
        full: rate limit keys that are full while jobs wait for them.
        stuck: workflows with a step that no worker runs.
        greedy: tenants that keep others waiting in a queue.
        killers: jobs that kill their workers, the last death first.
    """

    failing: Sequence[FailingType] = ()
    discarded: Sequence[tuple[str, int]] = ()
    restarting: Sequence[tuple[str, int, int]] = ()
    webhooks: Sequence[tuple[str, str, int, int]] = ()
    hung: Sequence[HungJob] = ()
    skipped: Sequence[SkippedCron] = ()
    late: LateCrons = LateCrons()
    full: Sequence[FullKey] = ()
    stuck: Sequence[StuckWorkflow] = ()
    greedy: Sequence[GreedyTenant] = ()
    killers: Sequence[KillerJob] = ()


class _Described(msgspec.Struct):
    hostname: str = ""


_decoder = msgspec.json.Decoder(_Described)


async def read_incidents(visit: Visit) -> Incidents | None:
    """Return what has gone wrong of late, which viewers share.

    Returns:
        The incidents; None for a key for some queues, and while Redis does not answer.
    """
    if not visit.sees_cluster:
        return None
    neutral = visit.as_any_viewer()
    try:
        raw = await await_while_healthy(
            visit.app,
            lambda: visit.snapshots.get("incidents", lambda: _find(neutral), _KEPT_S),
        )
    except OJSError:
        return None
    return None if raw is None else msgspec.json.decode(raw, type=Incidents)


async def _find(visit: Visit) -> bytes:
    """Return the incidents, as JSON."""
    store = visit.app.store
    lately, _ = await list_types(store, FAILING_MINUTES, WIDTH)
    in_hour, _ = await list_types(store, 60, WIDTH)
    discarded = [(one.name, one.discarded) for one in in_hour if one.discarded]
    if discarded and not await _keeps_discarded(visit):
        discarded = []
    return msgspec.json.encode(
        Incidents(
            await _with_marks(store, find_failing(lately)[:MAX_NAMED]),
            sorted(discarded, key=lambda each: -each[1]),
            await _find_restarting(visit),
            await _find_failing_webhooks(visit),
            await _find_hung(visit, in_hour),
            await find_skipped(store),
            await find_late(store),
            await find_full(store, await visit.app.brief_metrics.get()),
            await find_stuck(store, await read_unserved(visit), await read_parked(visit)),
            await _find_greedy(visit),
            await find_killers(store),
        )
    )


async def _keeps_discarded(visit: Visit) -> bool:
    """Return whether discarded jobs are there; True if queues need not keep them for an hour.

    Without any, operators have retried or deleted all of the last hour.
    """
    store = visit.app.store
    defaults = [*store.queue_defaults.by_queue.values(), store.queue_defaults.policy]
    kept_ms = [each.kept_ms(State.DISCARDED) for each in defaults if each is not None]
    if min([store.settings.retention_discarded_ms, *kept_ms]) < 60 * _MINUTE_MS:
        return True
    return bool((await visit.app.overview.get()).stats.counts[State.DISCARDED])


def find_failing(types: Sequence[TypeStatistics]) -> list[FailingType]:
    """Return the types that fail, most failed attempts first."""
    failing = [
        FailingType(one.name, one.failed, one.failed + one.completed)
        for one in types
        if one.failed >= _MIN_FAILED and one.failed_share >= _FAILING_SHARE
    ]
    return sorted(failing, key=lambda each: -each.failed)


async def _with_marks(store: Store, failing: Sequence[FailingType]) -> list[FailingType]:
    """Return the types with the marks since which they fail."""
    now_ms = store.clock.now_ms()
    marks = await read_marks(store, now_ms - KEPT_MINUTES * _MINUTE_MS, now_ms) if failing else []
    found = []
    for each in failing:
        records = await read_type_records(store, each.name, WIDTH) if marks else {}
        mark = mark_of_failures(marks, records)
        if mark is not None:
            each = msgspec.structs.replace(each, mark_id=mark.id, mark=mark.label)
        found.append(each)
    return found


def mark_of_failures(marks: Sequence[Mark], records: Mapping[int, Sequence[int]]) -> Mark | None:
    """Return the mark since which a type fails, None if it failed before all of them.

    The attempts before a mark are those since the mark before it. A mark without attempts before it
    follows another one at once, or is older than the type.

    Args:
        marks: the marks of the last minutes, the oldest first.
        records: the numbers of the type, as ``read_type_records`` returns them.
    """
    since: Mark | None = None
    for number in reversed(range(len(marks))):
        since = since or marks[number]
        # A record has the number of the minute after it. The minutes of marks are left out.
        first = marks[number - 1].at_ms // _MINUTE_MS + 1 if number else 0
        last = marks[number].at_ms // _MINUTE_MS
        failed, ended = count_attempts(records[each] for each in records if first < each <= last)
        if ended:
            if failed < _FAILING_SHARE * ended:
                return since
            since = None
    return since


async def _find_restarting(visit: Visit) -> list[tuple[str, int, int]]:
    """Return the hosts with many workers that were first seen of late and are silent already.

    A worker that ends in order removes itself, so it does not count.
    """
    store = visit.app.store
    now_ms = store.clock.now_ms()
    # The list has the last seen first, so it begins behind those that are seen all the time.
    seen_before_ms = now_ms - MISSED_HEARTBEATS * store.settings.heartbeat_interval_ms
    workers, _, _ = await list_workers(store, limit=_MAX_WORKERS, after=(seen_before_ms, ""))
    began_ms: dict[str, list[int]] = {}
    for worker in workers:
        is_new = now_ms - worker.first_seen_ms < RESTART_MINUTES * 60_000
        if is_new and worker.status(store, now_ms) == "stale":
            try:
                host = _decoder.decode(worker.info).hostname
            except msgspec.MsgspecError:
                continue
            began_ms.setdefault(host, []).append(worker.first_seen_ms)
    found = [
        (host, len(times), (max(times) - min(times)) // (len(times) - 1))
        for host, times in began_ms.items()
        if host and len(times) >= _RESTARTS
    ]
    names = [msgspec.json.encode(host) for host, _, _ in found]
    shown = await visit.redaction.apply([Value(name, ("worker", "hostname")) for name in names])
    return sorted(found, key=lambda each: -each[1]) if shown == names else []


async def _find_failing_webhooks(visit: Visit) -> list[tuple[str, str, int, int]]:
    store = visit.app.store
    found = []
    for subscription_id, counts in (await read_counts(store)).items():
        subscription = store.webhooks.get(subscription_id)
        if subscription is None or not subscription.active:
            continue
        if counts.failures_in_row >= _MIN_REFUSED:
            host = urlsplit(subscription.url).hostname or ""
            found.append((subscription_id, host, counts.last_status, counts.failing_since_ms))
    return sorted(found)


async def _find_greedy(visit: Visit) -> list[GreedyTenant]:
    """Return tenants that keep others waiting, without those that the operator hides."""
    unserved = await read_unserved(visit)
    found = await find_greedy(visit.app.store, await visit.app.brief_metrics.get(), unserved)
    names = [name for each in found for name in (each.tenant, each.behind)]
    shown = await visit.redaction.texts(names, ("meta", "tenant_id"))
    return found if list(shown) == names else []


async def _find_hung(visit: Visit, types: Sequence[TypeStatistics]) -> list[HungJob]:
    store = visit.app.store
    usual_ms = {one.name: one.run_ms(0.95) for one in types if one.completed >= _MIN_COMPLETED}
    if not usual_ms:
        return []
    ids = []
    walk = walk_index(store, "active", "", ListingPosition(), newest=False)
    async with aclosing(walk) as entries:
        async for entry in entries:
            ids.append((entry.shard, entry.job_id))
            if len(ids) >= _MAX_ACTIVE:
                break
    jobs = await read_matching(store, JobFilter(state=State.ACTIVE), ids)
    now_ms = store.clock.now_ms()
    running = [(job, now_ms - (job.started_ms or now_ms)) for job in jobs]
    found = [
        HungJob(job.id, job.type, run_ms, usual_ms[job.type])
        for job, run_ms in running
        if job.type in usual_ms and run_ms > max(_HUNG_MS, _HUNG_TIMES * usual_ms[job.type])
    ]
    return sorted(found, key=lambda each: -each.run_ms)
