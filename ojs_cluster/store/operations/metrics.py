"""The cluster's numbers for monitoring: one small script per shard, for a bounded number of queues.

What a queue has seen is counted by the transitions, in Redis, so it is the same whichever process
of whichever node is asked, and outlives all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.cached import Cached
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs.validate_job import number

CACHED_S = 5.0
"""Numbers are at most this old: however many ask, Redis is asked this often by a process."""
PATIENCE_S = 0.5
"""Longest wait in seconds for one shard: a scrape has two."""
_CHUNK = 50
"""Queues that one script looks at: it keeps its node from others for a fraction of a ms."""
_STATES = tuple(state for state in State if state is not State.AVAILABLE)
_SUMS = ("acked", "came", "failed", "ran", "waited")
# The order of FIELDS in store/operations/metrics.lua.
_FIELDS = (
    *("scheduled", "pending", "active", "retryable", "completed", "cancelled", "discarded"),
    *_SUMS,
    "paused",
)


@dataclass(slots=True)
class QueueNumbers:
    """A queue now.

    Args:
        jobs: in each state. ``dead``: dead letters.
        oldest_ms: how long the longest waiting available job has been available, 0 without any.
        came, acked, failed: jobs enqueued, jobs completed, and attempts failed, ever.
        ran_ms, waited_ms: how long the completed ones ran, and waited before their last attempt.
    """

    jobs: dict[State, int] = field(default_factory=lambda: dict.fromkeys(State, 0))
    dead: int = 0
    oldest_ms: int = 0
    came: int = 0
    acked: int = 0
    failed: int = 0
    ran_ms: int = 0
    waited_ms: int = 0
    paused: bool = False


@dataclass(slots=True)
class Numbers:
    """The whole cluster now.

    Args:
        queues: by name; the first ones when there are too many. ``registered``: how many there are,
            None while the registry is away.
        waiting, parked: outbox entries.
        late_ms: of the effects, due jobs and leases whose time has come, how long the first has
            waited for a scheduler; 0 when none is late.
        away: shards that did not answer, the meta tag among them. Their numbers are missing,
            and so are all queues that have a part in them: a sum without a part would look like a
            counter that was reset.
    """

    queues: dict[str, QueueNumbers]
    registered: int | None
    waiting: int = 0
    parked: int = 0
    late_ms: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("outbox", "promote", "reap"), 0)
    )
    away: int = 0


async def collect(store: Store, most_queues: int) -> Numbers:
    """Ask every shard once. A shard that does not answer within ``PATIENCE_S`` is left out.

    Args:
        most_queues: queues to look at, the first by name.

    Raises:
        BackendUnavailable: no shard answered in time.
    """
    names, registered = await _names(store, most_queues)
    await store.partitions.current(store)
    numbers = Numbers(
        {name: QueueNumbers() for name in names or ()}, registered, away=int(names is None)
    )
    lying: dict[Shard, list[str]] = {shard: [] for shard in store.keys}
    for name in names or ():
        for shard in _shards_of(store, name):
            lying[shard].append(name)

    async def ask(shard: Shard) -> None:
        if store.redis.answers(shard.slot):
            with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable):
                await look(shard)
                return
        numbers.away += 1
        away.add(shard)

    async def look(shard: Shard) -> None:
        here = lying[shard]
        for at in range(0, max(1, len(here)), _CHUNK):
            part = here[at : at + _CHUNK]
            keys = [
                shard.outbox_due,
                shard.outbox_dead_letters,
                shard.due,
                shard.active,
                shard.outbox_blocked_shards,
            ]
            for name in part:
                keys += (shard.queue_counters(name), shard.queue_available(name))
                keys += (shard.queue_dead(name), shard.queue_blocked(name))
            reply = await store.run(shard, "metrics", keys, idempotent=True)
            if at == 0:
                _add_shard(numbers, reply)
            for i, name in enumerate(part):
                _add_queue(numbers.queues[name], reply[0], reply[6 + 4 * i : 10 + 4 * i])

    away: set[Shard] = set()
    await over_shards(store.keys, ask)
    if len(away) == len(store.keys):
        raise BackendUnavailable("no shard answers", outcome="not_applied")
    for name in names or ():
        if away.intersection(_shards_of(store, name)):
            del numbers.queues[name]
    return numbers


async def _names(store: Store, most_queues: int) -> tuple[list[str] | None, int | None]:
    """The first queues by name, and how many there are; None when the registry is away."""
    meta = store.keys.meta
    if store.redis.answers(meta.slot):
        with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable):
            registered: Any = await store.redis.call(
                meta.slot, "ZCARD", meta.queues, idempotent=True
            )
            found: Any = []
            if most_queues:
                found = await store.redis.call(
                    meta.slot, "ZRANGE", meta.queues, 0, most_queues - 1, idempotent=True
                )
            return [name.decode() for name in found], registered
    return None, None


class Collected(Cached[Numbers]):
    """What was collected last, for everybody who asks within ``CACHED_S``.

    ``get`` raises BackendUnavailable when Redis did not answer in time.
    """

    def __init__(self, store: Store, most_queues: int) -> None:
        super().__init__(lambda: collect(store, most_queues), lambda _took_s: CACHED_S)


def _shards_of(store: Store, queue: str) -> Sequence[Shard]:
    return store.keys.partitions(queue, store.partitions.layout(queue).held)


def _add_shard(numbers: Numbers, reply: Sequence[Any]) -> None:
    now, waiting, tried, parked, due, leases = reply[:6]
    numbers.waiting += waiting
    numbers.parked += parked
    for loop, first in (("outbox", tried), ("promote", due), ("reap", leases)):
        if first >= 0:
            numbers.late_ms[loop] = max(numbers.late_ms[loop], now - first)


def _add_queue(queue: QueueNumbers, now: int, reply: Sequence[Any]) -> None:
    available, since, dead, values = reply
    found = {name: value or b"0" for name, value in zip(_FIELDS, values, strict=True)}
    queue.jobs[State.AVAILABLE] += available
    for state in _STATES:
        queue.jobs[state] += number(found[state.value])
    if since >= 0:
        queue.oldest_ms = max(queue.oldest_ms, now - since)
    queue.dead += dead
    acked, came, failed, ran, waited = (number(found[name]) for name in _SUMS)
    queue.acked += acked
    queue.came += came
    queue.failed += failed
    queue.ran_ms += ran
    queue.waited_ms += waited
    queue.paused = queue.paused or found["paused"] != b"0"
