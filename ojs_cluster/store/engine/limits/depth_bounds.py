"""Depth bounds: how many jobs may wait in a queue (spec: ojs-backpressure).

The bound of a queue is a field of the queue's hash. So the script that stores a job compares the
bound with the depth in the same step. ``OJS_MAX_QUEUE_DEPTH`` is the bound of a queue without one.

Each of P partitions may hold 1/P of the bound, rounded up. So the queue holds at most P - 1 jobs
more than its bound. A job is refused when the partition that was chosen for the job is full.

A write in several steps (a batch over shards, a workflow) is checked before anything is committed.
Other requests may enqueue between the check and the write. So the queue may exceed its bound by the
jobs of all such writes that run at the same time. Accepted jobs are never refused later: this holds
for retries, promotions, later steps of a workflow, and jobs that run again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from ojs_cluster.core.errors import QueueDraining, QueueFull
from ojs_cluster.keys import Shard
from ojs_cluster.store.engine.mirrored_fields import MirroredText
from ojs_cluster.store.engine.outbox.deliver_in_background import deliver_in_background
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.partial_failures import before_first_write

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store
    from ojs_cluster.store.ground.runtime import Arg

_BOUND = re.compile(rb"\d{1,15}")
is_overflow = re.compile(rb"(reject|block|drop_oldest):(0(\.\d{1,6})?|1(\.0{1,6})?)").fullmatch
"""Match the stored strategy and warning threshold of a queue."""
DEFAULT_THRESHOLD: Final = 0.8
Strategy = Literal["reject", "block", "drop_oldest"]
STRATEGIES: Final[Mapping[str, Strategy]] = {
    "reject": "reject",
    "block": "block",
    "drop_oldest": "drop_oldest",
}
_MAX_DROPPED: Final = 50
"""Maximum number of jobs that one script drops."""
_WRITE_S: Final = 1.0
"""Seconds from a check of bounds to a check of the pressure, when the jobs are stored."""
_ROOM_TRIES: Final = 20
"""Maximum number of times that one write makes room. Other producers may take it each time."""


@dataclass(frozen=True, slots=True)
class DepthBound:
    """The bound of a queue.

    Args:
        jobs: maximum number of waiting jobs; 0 for any number.
        strategy: what happens to a new job of a full queue. ``reject`` refuses it. ``block``
            refuses it too, unless the client waits for room (``http/blocking.py``).
            ``drop_oldest`` stores it, and discards the oldest available jobs.
        threshold: part of the bound, from 0 to 1, above which responses warn clients.
    """

    jobs: int
    strategy: Strategy = "reject"
    threshold: float = DEFAULT_THRESHOLD

    def packed(self) -> str:
        """Return the fields ``bound`` and ``overflow``, joined by a blank."""
        threshold = f"{self.threshold:.6f}".rstrip("0").rstrip(".")
        overflow = f"{self.strategy}:{threshold}"
        return f"{self.jobs} {'' if overflow == _DEFAULT_OVERFLOW else overflow}"


_DEFAULT_OVERFLOW: Final = f"reject:{DEFAULT_THRESHOLD}"


def unpack_bound(text: str) -> DepthBound:
    """Return the bound that ``DepthBound.packed`` has written."""
    jobs, _, overflow = text.partition(" ")
    strategy, _, threshold = (overflow or _DEFAULT_OVERFLOW).partition(":")
    return DepthBound(int(jobs), STRATEGIES.get(strategy, "reject"), float(threshold))


def bound_arguments(store: Store, new: Mapping[str, int]) -> str:
    """Return the argument of ``store/include/queues/check_depth_bound.lua``.

    Args:
        store: the store.
        new: the number of new jobs of each queue, in the order in which the script's KEYS name the
            queues.
    """
    bound, partition_count = store.settings.max_queue_depth, store.partitions.producer_count
    return " ".join(f"{bound}/{partition_count(queue)}/{jobs}" for queue, jobs in new.items())


def queue_full_error(queues: Iterable[str], reply: Sequence[Any]) -> QueueFull:
    """Return the error for a reply ``{'full', ...}`` or ``{'draining', ...}``.

    Args:
        queues: the queues of the script, in the order of its KEYS.
        reply: the reply; its position counts from 1.
    """
    queue = list(queues)[int(reply[1]) - 1]
    if reply[0] == b"draining":
        return QueueDraining(f"queue '{queue}' is draining: it takes no new jobs", queue=queue)
    depth, bound = int(reply[2]), int(reply[3])
    return QueueFull(
        f"queue '{queue}' has reached its depth bound ({bound})",
        queue=queue,
        depth=depth,
        bound=bound,
        strategy=reply[4].decode(),
    )


class Room:
    """Makes room for the jobs of one write in full queues that drop their oldest jobs.

    The drop precedes the write, so a process that dies in between has dropped jobs and stored none.
    One script for both would have to load all that the end of a job needs into each enqueue of a
    queue with a bound (docs/adr/053). Writes of one queue make room together (``room_groups``).
    Writes of several queues do not wait for each other, because they could wait in a circle.

    Args:
        store: the store.
        shard: the shard of the new jobs.
        new: the number of new jobs of each queue, in the order of the script's KEYS.
    """

    def __init__(self, store: Store, shard: Shard, new: Mapping[str, int]) -> None:
        self._store = store
        self._shard = shard
        self._new = new
        self._tries = _ROOM_TRIES
        self._leave: Callable[[], None] | None = None

    def leave(self) -> None:
        """End the write that ``make`` or ``wait_turn`` has made room for."""
        if self._leave is not None:
            self._leave()
            self._leave = None

    async def wait_turn(self) -> None:
        """Make room before the first try, if other writes of this process wait for room.

        Otherwise the write could take the room that they have made, again and again.

        Raises:
            BackendUnavailable: Redis did not answer in time. Jobs may have been dropped.
        """
        [queue] = self._new
        bound = self._store.room_groups.bound_of((self._shard.index, queue))
        if bound:
            await self._join(queue, bound)

    async def _join(self, queue: str, bound: int) -> bool:
        key, drop = (self._shard.index, queue), partial(_drop, self._store, self._shard, queue)
        self._leave, has_room = await self._store.room_groups.join(
            key, self._new[queue], bound, drop
        )
        return has_room

    async def make(self, reply: Sequence[Any]) -> Sequence[Any] | None:
        """Drop jobs after a script has replied ``{'full', ...}``.

        Nothing is dropped if another queue of the write refuses its jobs.

        Returns:
            None to try the write again, otherwise the reply with which a queue refuses its jobs.

        Raises:
            BackendUnavailable: Redis did not answer in time. Jobs may have been dropped.
        """
        if reply[0] != b"full" or reply[4] != b"drop_oldest" or not self._tries:
            return reply
        self._tries -= 1
        self.leave()
        if len(self._new) == 1:
            [queue] = self._new
            return None if await self._join(queue, int(reply[3])) else reply
        checked = await _check_all(self._store, self._shard, self._new)
        if checked and checked[0] != b"drop":
            return checked
        return await _drop_in(self._store, self._shard, self._new, checked[1:])


async def _drop_in(
    store: Store, shard: Shard, new: Mapping[str, int], full: Iterable[Sequence[Any]]
) -> Sequence[Any] | None:
    """Drop jobs in full queues; return the reply of a queue that could not drop enough."""
    for reply in full:
        queue = list(new)[int(reply[1]) - 1]
        fits, _ = await _drop(store, shard, queue, new[queue])
        if not fits:
            return reply
    return None


async def _drop(store: Store, shard: Shard, queue: str, jobs: int) -> tuple[bool, bool]:
    """Drop as many jobs of a queue as are missing for ``jobs`` new ones.

    Returns:
        Whether they fit, and whether jobs were dropped.

    Raises:
        BackendUnavailable: Redis did not answer in time. Jobs may have been dropped.
    """
    settings = store.settings
    keys = [shard.queue_counters(queue), shard.queue_available(queue)]
    keys += (shard.expiring, shard.finished, shard.events)
    args: list[Arg] = [store.events_arg, queue, bound_arguments(store, {queue: jobs})]
    args.append(store.webhooks.jobs_per_script("drop_oldest", _MAX_DROPPED))
    args += (settings.retention_discarded_ms, settings.errors_kept)
    has_dropped = False
    while True:
        # Repeated after a lost reply, the script counts again, so it never drops too many.
        dropped, missing, effects = await store.run(
            shard, "drop_oldest", keys, args, idempotent=True
        )
        # Other writes wait for this drop, and need none of its effects.
        await deliver_in_background(store, shard, effects)
        has_dropped = has_dropped or bool(dropped)
        if not missing or not dropped:
            return not missing, has_dropped


async def check_bounds(store: Store, jobs: Iterable[tuple[Shard, str]]) -> None:
    """Check the depth bounds of queues before jobs are written in several steps.

    When no queue refuses its jobs, full queues drop their oldest ones. These stay dropped even if
    the write fails, so this is the last check before the write.

    Args:
        store: the store.
        jobs: the shard and the queue of each new job.

    Raises:
        QueueFull: a queue would exceed its bound.
        BackendUnavailable: Redis did not answer in time.
    """
    by_shard: dict[Shard, Counter[str]] = {}
    for shard, queue in jobs:
        by_shard.setdefault(shard, Counter())[queue] += 1
    full: dict[Shard, Sequence[Any]] = {}

    async def check(shard: Shard) -> None:
        reply = await _check_all(store, shard, by_shard[shard])
        if reply and reply[0] != b"drop":
            raise queue_full_error(by_shard[shard], reply)
        if reply:
            full[shard] = reply[1:]

    async def drop(shard: Shard) -> None:
        refusal = await _drop_in(store, shard, by_shard[shard], full[shard])
        if refusal is not None:
            raise queue_full_error(by_shard[shard], refusal)

    with before_first_write():
        await run_concurrently(by_shard, check)
        for _ in range(_ROOM_TRIES):
            if not full:
                return
            await run_concurrently(list(full), drop)
            full.clear()
            await run_concurrently(by_shard, check)
        for shard, replies in full.items():
            raise queue_full_error(by_shard[shard], replies[0])


async def _check_all(store: Store, shard: Shard, new: Mapping[str, int]) -> list[Any]:
    """Return the reply of ``bound_check.lua`` for the queues of a write in one shard.

    If the reply only tells that queues would be nearly full, it is empty.
    """
    keys = [
        key for queue in new for key in (shard.queue_counters(queue), shard.queue_available(queue))
    ]
    args = [bound_arguments(store, new), *new]
    reply: list[Any] = await store.run(shard, "bound_check", keys, args, idempotent=True)
    if not reply:
        return reply
    await store.pressure.notice(store, new, _WRITE_S)
    return [] if reply[0] == b"pressure" else reply


async def _read_bound(store: Store, shard: Shard, queue: str) -> str | None:
    """Return the bound in one partition, packed; "" for none, None if it is damaged."""
    key = shard.queue_counters(queue)
    found: Any = await store.redis.call(
        shard.slot, "HMGET", key, "bound", "overflow", idempotent=True
    )
    jobs, overflow = found
    if jobs is None and overflow is None:
        return ""
    if not _BOUND.fullmatch(jobs or b"") or (overflow and not is_overflow(overflow)):
        return None
    return f"{jobs.decode()} {(overflow or b'').decode()}"


async def _write_bound(store: Store, shard: Shard, queue: str, packed: str) -> None:
    bound, _, overflow = packed.partition(" ")
    args = [queue, bound, overflow]
    effects = await store.run(
        shard, "bound_queue", [shard.queue_counters(queue)], args, idempotent=True
    )
    await deliver(store, shard, effects)


BOUND: Final = MirroredText(_read_bound, _write_bound)


async def set_bound(store: Store, queue: str, bound: DepthBound | int | None) -> None:
    """Set the bound of a queue, as ``MirroredText.set``.

    Args:
        store: the store.
        queue: the queue's name.
        bound: the bound, or a number of jobs that ``reject`` enforces; None for
            ``OJS_MAX_QUEUE_DEPTH``.
    """
    if isinstance(bound, int):
        bound = DepthBound(bound)
    await BOUND.set(store, queue, "" if bound is None else bound.packed())


async def get_bound(store: Store, queue: str) -> DepthBound | None:
    """Return the bound that an operator has set for a queue, None when none is set."""
    found = await BOUND.get(store, queue)
    return unpack_bound(found) if found else None
