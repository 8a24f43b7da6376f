"""Read metrics of the whole cluster, by one small script per shard.

The counters are in Redis, where the transitions change them. So every process reports the same
counters, and a restart of a process does not reset them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from heapq import nlargest
from typing import Any

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import META, Shard
from ojs_cluster.redis.packed_calls import PackedKeys
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.validate_job import read_number
from ojs_cluster.store.engine.tenants.tenant_counts import read_many
from ojs_cluster.store.ground.cached import Cached
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.job_counts import TIMES, read_types
from ojs_cluster.store.operators.operations.cluster_counts import ClusterCounts, read_counts

CACHED_S = 5.0
"""Maximum age in seconds of the metrics that a process reports without reading Redis again."""
PATIENCE_S = 0.5
"""Longest time in seconds to wait for the reply of one shard."""
WEBHOOK_OUTCOMES = ("delivered", "failed", "dead", "full", "pending")
"""Numbers in the order of OUTCOMES in ``metrics.lua`` beside this file, then pending deliveries.

``delivered``: successful attempts. ``failed``: failed attempts that are repeated. ``dead``: failed
attempts that were the last of their delivery. ``full``: events that were dropped because too many
deliveries were pending."""

_MAX_WATCHED = 20_000
"""Queues that are searched for those that wait. It bounds the time of a scrape."""
_MAX_WAITING = 1000
"""Largest number of queues in ``ClusterMetrics.waiting``."""
_WAITING_MS = 10_000
"""Time in ms that a job has been available when its queue counts as one that waits. Without a limit
each busy queue would come and go."""
_CHUNK = 50
"""Queues per script call, so that one call blocks its Redis server for less than a millisecond."""
_NO_JOBS = dict.fromkeys(State, 0)
_PAGE = 1000
"""Queues after which the event loop serves other requests."""
_STATES = tuple(state for state in State if state is not State.AVAILABLE)
_TOTALS = (
    *("acked", "enqueued", "failed"),
    *("retried_total", "discarded_total", "cancelled_total", "expired_total"),
)
# In the order of FIELDS in ``metrics.lua`` beside this file.
_FIELDS = (
    *("scheduled", "pending", "active", "retryable", "completed", "cancelled", "discarded"),
    *_TOTALS,
    "paused",
)
_SHARD_NUMBERS = 7
"""Elements of a reply of ``metrics.lua`` before its first queue."""


@dataclass(slots=True)
class QueueMetrics:
    """Metrics of one queue.

    Args:
        jobs: number of jobs in each state.
        dead_letters: number of dead letters.
        oldest_ms: time in ms since the oldest available job became available; 0 when no job is
            available.
        enqueued: number of jobs enqueued since the queue was created.
        completed, discarded, cancelled, expired: number of jobs with this outcome since the queue
            was created. Expired jobs also count as discarded.
        failed_attempts: number of failed attempts since the queue was created.
        retried: number of failed attempts after which the job was retried.
        times: how long jobs waited and ran, in the order of ``TIMES``.
        types: jobs enqueued, completed and discarded, by type.
        paused: whether the queue is paused.
        parked: number of parked jobs; only in brief metrics.
    """

    jobs: dict[State, int] = field(default_factory=_NO_JOBS.copy)
    dead_letters: int = 0
    oldest_ms: int = 0
    enqueued: int = 0
    completed: int = 0
    failed_attempts: int = 0
    retried: int = 0
    discarded: int = 0
    cancelled: int = 0
    expired: int = 0
    times: list[int] = field(default_factory=lambda: [0] * len(TIMES))
    types: dict[str, list[int]] = field(default_factory=dict)
    paused: bool = False
    parked: int = 0


@dataclass(slots=True)
class ClusterMetrics:
    """Metrics of the whole cluster.

    Args:
        queues: queue name -> metrics; only the first ``max_queues`` queues in the order of
            their names.
        registered: number of all queues, None while the list of queues is unreachable.
        outbox_entries: number of effects that are not delivered yet.
        outbox_dead_letters: number of effects that failed too often.
        webhooks: attempts to deliver webhooks by outcome, and the deliveries that are pending.
        late_ms: per scheduler loop, time in ms for which the first effect, due job or ended lease
            has waited for a scheduler; 0 when none is late.
        unreachable: number of shards that did not answer, the meta tag included. Queues with a
            partition in such a shard are left out: a sum without one partition would look like a
            counter that was reset.
        bulk_operations: number of running bulk operations, None while their list is unreachable.
        counts: what belongs to no queue; not in brief metrics.
        unread: the queues that were left out because a shard did not answer.
        waiting: brief metrics of queues beyond ``queues`` that are paused or whose jobs wait; the
            worst ``_MAX_WAITING`` of the first ``_MAX_WATCHED`` queues by name.
        unwatched: number of queues that ``waiting`` lacks although they wait, or could wait.
    """

    queues: dict[str, QueueMetrics]
    registered: int | None
    outbox_entries: int = 0
    outbox_dead_letters: int = 0
    webhooks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WEBHOOK_OUTCOMES, 0))
    late_ms: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("outbox", "promote", "reap"), 0)
    )
    unreachable: int = 0
    bulk_operations: int | None = None
    counts: ClusterCounts = field(default_factory=ClusterCounts)
    unread: list[str] = field(default_factory=list)
    waiting: dict[str, QueueMetrics] = field(default_factory=dict)
    unwatched: int = 0


@dataclass(slots=True)
class _Call:
    """One call of ``metrics.lua``.

    Args:
        shard: the shard.
        names: the queues.
        keys: the packed KEYS, once ``BriefCalls`` keeps them.
    """

    shard: Shard
    names: list[str]
    keys: PackedKeys | None = None

    def build_keys(self, *, brief: bool) -> list[bytes]:
        """Return the KEYS."""
        shard = self.shard
        keys = _shard_keys(shard)
        for name in self.names:
            keys += (shard.queue_counters(name), shard.queue_available(name))
            keys.append(shard.queue_blocked(name))
            if not brief:
                keys.append(shard.queue_dead(name))
                keys += (shard.queue_times(name), shard.queue_types(name))
        return keys


class BriefCalls:
    """The calls of ``metrics.lua`` for brief metrics, kept until the list of queues changes.

    The keys of 1000 queues take longer to build than everything else that a process does for brief
    metrics.
    """

    def __init__(self) -> None:
        self._made_of: tuple[Sequence[str], bytes] | None = None
        self._calls: dict[Shard, list[_Call]] = {}

    async def calls(self, store: Store, names: Sequence[str]) -> dict[Shard, list[_Call]]:
        """Return the calls for each shard."""
        made_of = (names, store.partitions.version)
        if made_of != self._made_of:
            self._calls, self._made_of = await _make_calls(store, names), made_of
        return self._calls


async def _make_calls(store: Store, names: Sequence[str]) -> dict[Shard, list[_Call]]:
    """Return the calls of ``metrics.lua`` for each shard, at least one."""
    queues_of: dict[Shard, list[str]] = {shard: [] for shard in store.keys}
    for number, name in enumerate(names, 1):
        for shard in _shards_of(store, name):
            queues_of[shard].append(name)
        if number % _PAGE == 0:
            await trio.lowlevel.checkpoint()
    return {
        shard: [
            _Call(shard, here[start : start + _CHUNK])
            for start in range(0, max(1, len(here)), _CHUNK)
        ]
        for shard, here in queues_of.items()
    }


async def collect(
    store: Store,
    max_queues: int,
    *,
    brief: bool = False,
    kept: BriefCalls | None = None,
) -> ClusterMetrics:
    """Read the metrics from every shard, without shards that take longer than ``PATIENCE_S``.

    Args:
        store: the store.
        max_queues: maximum number of queues to include, the first by name.
        brief: whether to read only what problems are found by: of a queue whether it is paused, and
            ``oldest_ms``. Queues without available jobs that are not paused are then left out.
        kept: the calls of the last brief metrics; None to build them.

    Raises:
        BackendUnavailable: no shard answered in time.
    """
    names, registered = await _queue_names(store, max_queues)
    await store.partitions.refresh_if_stale(store)
    included = () if brief else names or ()
    cluster = ClusterMetrics(
        {name: QueueMetrics() for name in included}, registered, unreachable=int(names is None)
    )
    make = partial(_make_calls, store) if kept is None else partial(kept.calls, store)
    calls_of = await make(names or ())
    unreachable: set[Shard] = set()

    async def read_in_time(shard: Shard) -> None:
        if store.redis.is_responsive(shard.slot):
            with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable):
                await read(shard)
                return
        cluster.unreachable += 1
        unreachable.add(shard)

    async def read(shard: Shard) -> None:
        for number, call in enumerate(calls_of[shard]):
            keys: Sequence[bytes] | None = call.keys
            if keys is None:
                keys = call.build_keys(brief=brief)
                if kept is not None:
                    keys = call.keys = PackedKeys(keys)
            what = ["brief" if brief else ""]
            reply = await store.run(shard, "metrics", keys, what, idempotent=True)
            shard_reply, queue_replies = reply[:_SHARD_NUMBERS], reply[_SHARD_NUMBERS:]
            now_ms = shard_reply[0]
            if number == 0:
                _add_shard(cluster, shard_reply)
            if brief:
                for position, available_since, paused, parked in queue_replies:
                    name = call.names[position]
                    queue = cluster.queues.get(name)
                    if queue is None:
                        queue = cluster.queues[name] = QueueMetrics()
                    _add_oldest(queue, now_ms, available_since)
                    queue.paused = queue.paused or bool(paused)
                    queue.parked += parked
                continue
            for name, queue_reply in zip(call.names, queue_replies, strict=True):
                _add_queue(cluster.queues[name], now_ms, queue_reply)

    await run_concurrently(store.keys, read_in_time)
    if names is not None:
        cluster.bulk_operations = await _bulk_operations(store)
        await _add_meta_webhooks(store, cluster)
    if not brief:
        cluster.counts = await read_counts(store)
    if len(unreachable) == len(store.keys):
        raise BackendUnavailable("no shard answers", outcome="not_applied")
    for name in (names or ()) if unreachable else ():
        if unreachable.intersection(_shards_of(store, name)):
            cluster.queues.pop(name, None)
            cluster.unread.append(name)
    return cluster


async def _collect_watched(store: Store, max_queues: int, kept: BriefCalls) -> ClusterMetrics:
    """Read the metrics, and find the queues beyond the first ``max_queues`` that wait.

    The counters of a queue must not come and go, or their rates are wrong. So the first queues by
    name keep all metrics, and a queue that waits gets only gauges beside them.

    Raises:
        BackendUnavailable: no shard answered in time.
    """
    numbers = await collect(store, max_queues)
    if not max_queues or numbers.registered is None or numbers.registered <= max_queues:
        return numbers
    brief = await collect(store, _MAX_WATCHED, brief=True, kept=kept)
    waiting = [
        (name, queue)
        for name, queue in brief.queues.items()
        if (queue.paused or queue.oldest_ms >= _WAITING_MS) and name not in numbers.queues
    ]
    worst = nlargest(_MAX_WAITING, waiting, key=lambda found: found[1].oldest_ms)
    numbers.waiting = dict(sorted(worst))
    unread = len(set(brief.unread).difference(numbers.unread))
    beyond = max(0, numbers.registered - _MAX_WATCHED)
    numbers.unwatched = len(waiting) - len(worst) + unread + beyond
    return numbers


async def oldest_available_ms(store: Store, queue: str) -> int | None:
    """Return when the oldest available job of a queue became available, in Unix milliseconds.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: list[int] = []

    async def read(shard: Shard) -> None:
        keys = _Call(shard, [queue]).build_keys(brief=True)
        reply = await store.run(shard, "metrics", keys, ["brief"], idempotent=True)
        found.extend(since for _, since, *_ in reply[_SHARD_NUMBERS:] if since >= 0)

    await run_concurrently(await store.partitions.occupied_shards(store, queue), read)
    return min(found, default=None)


async def _read_tenants(store: Store, max_tenants: int) -> dict[str, dict[str, int]]:
    """Return the numbers of the first tenants by name; none while a shard does not answer.

    A sum without one shard would look like a counter that was reset.
    """
    if max_tenants:
        with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable):
            tenants = (await store.tenants.names(store))[:max_tenants]
            return await read_many(store, tenants)
    return {}


async def _bulk_operations(store: Store) -> int | None:
    meta = store.keys.meta
    with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable):
        running: Any = await store.redis.call(
            meta.slot, "ZCARD", meta.bulk_running, idempotent=True
        )
        return int(running)
    return None


async def _add_meta_webhooks(store: Store, cluster: ClusterMetrics) -> None:
    """Add the webhook deliveries of the events of cron jobs."""
    tag = store.keys.webhook_tag(META)
    with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable):
        _add_shard(
            cluster, await store.run(tag, "metrics", _shard_keys(tag), [""], idempotent=True)
        )


async def _queue_names(store: Store, max_queues: int) -> tuple[list[str] | None, int | None]:
    """Return the first queues by name, and the number of all queues.

    Returns:
        None for both values while the list of queues is unreachable.
    """
    meta = store.keys.meta
    if store.redis.is_responsive(meta.slot):
        with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable):
            registered: Any = await store.redis.call(
                meta.slot, "ZCARD", meta.queues, idempotent=True
            )
            names: Any = []
            if max_queues:
                names = await store.redis.call(
                    meta.slot, "ZRANGE", meta.queues, 0, max_queues - 1, idempotent=True
                )
            return [name.decode(errors="replace") for name in names], registered
    return None, None


class CachedMetrics(Cached[ClusterMetrics]):
    """The metrics of the cluster, read from Redis at most once per ``CACHED_S``.

    ``get`` raises BackendUnavailable when Redis does not answer in time.

    Attributes:
        tenants: numbers of ``tenant_counts.read_counts`` by tenant, of the first ``max_tenants``
            tenants with settings. Pages of the dashboard use the rest only, so it is not read with
            them.
    """

    def __init__(
        self, store: Store, max_queues: int, *, max_tenants: int = 0, brief: bool = False
    ) -> None:
        kept = BriefCalls()

        def compute() -> Awaitable[ClusterMetrics]:
            if brief:
                return collect(store, max_queues, brief=True, kept=kept)
            return _collect_watched(store, max_queues, kept)

        super().__init__(compute, lambda _value, _took_s: CACHED_S)
        self.tenants = Cached(
            lambda: _read_tenants(store, max_tenants), lambda _value, _took_s: CACHED_S
        )


def _shard_keys(shard: Shard) -> list[bytes]:
    """Return the first KEYS of ``metrics.lua``."""
    return [
        shard.outbox_due,
        shard.outbox_dead_letters,
        shard.due,
        shard.active,
        shard.outbox_blocked_shards,
        shard.webhook_counts,
        shard.webhook_due,
    ]


def _shards_of(store: Store, queue: str) -> Sequence[Shard]:
    """Return the shards of all partitions of a queue that may have jobs, closing ones included."""
    return store.keys.partitions(queue, store.partitions.layout(queue).occupied_count)


def _add_shard(cluster: ClusterMetrics, reply: Sequence[Any]) -> None:
    """Add the metrics of one shard from a reply of ``metrics.lua``."""
    now, outbox_entries, delivery_ms, outbox_dead_letters, due_ms, lease_end_ms, webhooks = reply
    for outcome, number in zip(WEBHOOK_OUTCOMES, webhooks, strict=True):
        cluster.webhooks[outcome] += read_number(number)
    cluster.outbox_entries += outbox_entries
    cluster.outbox_dead_letters += outbox_dead_letters
    # The time from which on each scheduler loop has work, -1 when it has none.
    work_since = {"outbox": delivery_ms, "promote": due_ms, "reap": lease_end_ms}
    for loop, since_ms in work_since.items():
        if since_ms >= 0:
            cluster.late_ms[loop] = max(cluster.late_ms[loop], now - since_ms)


def _add_oldest(queue: QueueMetrics, now: int, available_since: int) -> None:
    """Add the time when the oldest job of a partition became available, -1 for none."""
    if available_since >= 0:
        queue.oldest_ms = max(queue.oldest_ms, now - available_since)


def _add_queue(queue: QueueMetrics, now: int, reply: Sequence[Any]) -> None:
    """Add the metrics of one queue from a reply of ``metrics.lua``."""
    available, available_since, dead_letters, values, times, types = reply
    counters = dict(zip(_FIELDS, values, strict=True))
    queue.jobs[State.AVAILABLE] += available
    for state in _STATES:
        queue.jobs[state] += read_number(counters[state.value])
    _add_oldest(queue, now, available_since)
    queue.dead_letters += dead_letters
    acked, enqueued, failed, retried, discarded, cancelled, expired = (
        read_number(counters[name]) for name in _TOTALS
    )
    queue.completed += acked
    queue.enqueued += enqueued
    queue.failed_attempts += failed
    queue.retried += retried
    queue.discarded += discarded
    queue.cancelled += cancelled
    queue.expired += expired
    if times:
        queue.times = [old + read_number(new) for old, new in zip(queue.times, times, strict=True)]
    for job_type, numbers in read_types(types).items():
        queue.types[job_type] = numbers
    queue.paused = queue.paused or (counters["paused"] or b"0") != b"0"
