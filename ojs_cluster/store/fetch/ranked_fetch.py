"""Fetch from queues of many shards: one read of each shard, then the first jobs in order.

Asking one shard after the other, until there are enough jobs, costs as many calls in a row as there
are shards before the first job. So the depths of all queues are read at once, by a script that
changes nothing. From them follows which queues the first jobs in order are in, and these shards are
asked at once: each for as many jobs as it has among them.

The order holds: a queue is asked only when all that the earlier ones had is asked for. When a shard
gives fewer than it had, because others were faster, the rest is taken from the queues that follow.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError, OutOfTime
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.fetch.depths import HELD
from ojs_cluster.store.sweeps.deadlines import promote

READ_S = 1.0
"""A shard whose depths take longer to be read is left alone for a while."""
_HELD_MOST = 16
"""Of queues whose jobs all wait for tokens, so many are asked by one fetch, chosen by chance."""
_QUEUES_MOST = 256
"""Queues that one call reads: about half a ms."""
_PROMOTED = 16


class Asking(Protocol):
    """A fetch under way."""

    @property
    def wanted(self) -> int:
        """How many jobs more."""
        ...

    @property
    def full(self) -> bool:
        """Whether what it has is as large as a reply may be."""
        ...

    async def take(self, shard: Shard, queues: Sequence[str], most: int) -> int:
        """Take up to ``most`` jobs of a shard; returns how many it gave."""
        ...


@dataclass(slots=True)
class _Place:
    """A queue, or one partition of it, and how many jobs it should have."""

    shard: Shard
    queue: str
    depth: int


@dataclass(slots=True)
class _Part:
    """What one shard is asked for in a round."""

    places: list[_Place]
    count: int = 0
    given: int = 0
    failure: Exception | None = None


async def ask_in_order(
    store: Store, stages: Sequence[tuple[list[Shard], list[str]]], asking: Asking
) -> Exception | None:
    """Take what a fetch still wants from queues in the order given.

    A shard that does not answer keeps back only its own jobs. Returns why the first such shard, or
    a quiet worker, could not be served; None when all answered.

    Args:
        stages: the queues in order, each with its shards.
    """
    await ensure_task()
    queues: dict[Shard, list[str]] = {}
    for shards, names in stages:
        for shard in shards:
            queues.setdefault(shard, []).extend(names)
    depths, failure = await _read_all(store, queues)
    places = _held_bounded(_places(store, stages, depths))
    while asking.wanted and not asking.full:
        parts = _plan(places, asking.wanted)
        if not parts:
            break
        await over_shards(parts.values(), partial(_take, asking))
        for part in parts.values():
            if part.failure is not None:
                if not isinstance(part.failure, OJSError):
                    return part.failure
                if isinstance(part.failure, BackendUnavailable) and not isinstance(
                    part.failure, OutOfTime
                ):
                    store.depths.failed(part.places[0].shard)
                failure = _graver(failure, part.failure)
            if part.given < part.count:
                for place in part.places:
                    place.depth = 0
    return failure


async def read_depths(store: Store, shard: Shard, queues: Sequence[str]) -> Mapping[str, int]:
    """Read how many jobs a worker could get from queues of one shard; ``HELD`` for held ones only.

    Jobs that are due become available first, as in a fetch.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    depths: dict[str, int] = {}
    for first in range(0, len(queues), _QUEUES_MOST):
        names = queues[first : first + _QUEUES_MOST]
        keys = [shard.due]
        for queue in names:
            keys += (
                shard.queue_available(queue),
                shard.queue_counters(queue),
                shard.queue_blocked(queue),
            )
        due, *found = await store.run(shard, "depths", keys, idempotent=True)
        if due:
            await promote(store, shard, _PROMOTED)
            _, *found = await store.run(shard, "depths", keys, idempotent=True)
        depths.update(zip(names, found, strict=True))
    return depths


async def _read_all(
    store: Store, queues: Mapping[Shard, Sequence[str]]
) -> tuple[dict[Shard, Mapping[str, int]], Exception | None]:
    depths: dict[Shard, Mapping[str, int]] = {}
    failure: Exception | None = None

    async def read(shard: Shard) -> None:
        nonlocal failure
        try:
            with trio.fail_after(READ_S):
                depths[shard] = await store.depths.read(
                    shard, queues[shard], partial(read_depths, store)
                )
        except trio.TooSlowError:
            store.depths.failed(shard)
            failure = failure or BackendUnavailable(
                f"shard {shard.index} did not answer in time", outcome="not_applied"
            )
        except BackendUnavailable as error:
            failure = failure or error

    asked = store.depths.worth_asking(list(queues))
    await over_shards(asked, read)
    if len(asked) < len(queues) and failure is None:
        failure = BackendUnavailable(
            f"{len(queues) - len(asked)} of {len(queues)} shards did not answer lately",
            outcome="not_applied",
        )
    return depths, failure


def _places(
    store: Store,
    stages: Sequence[tuple[list[Shard], list[str]]],
    depths: Mapping[Shard, Mapping[str, int]],
) -> list[_Place]:
    """The queues that have jobs, in order. Of partitions the fuller ones are likely to be first."""
    places: list[_Place] = []
    for shards, names in stages:
        for queue in names:
            found = [
                _Place(shard, queue, depths[shard][queue])
                for shard in shards
                if shard in depths and depths[shard][queue]
            ]
            if len(found) > 1:
                found = _by_chance(found, shards[store.partitions.layout(queue).count :])
            places += found
    return places


def _by_chance(partitions: list[_Place], closing: Sequence[Shard]) -> list[_Place]:
    """Fuller ones are likely to be first, and each is now and then.

    Those that are being closed hold the oldest jobs, so they come first (as in ``hints``).
    """
    drawn = [
        (place.shard in closing, random.random() ** (1 / abs(place.depth)), number)  # noqa: S311 - it spreads load
        for number, place in enumerate(partitions)
    ]
    return [partitions[number] for _, _, number in sorted(drawn, reverse=True)]


def _held_bounded(places: list[_Place]) -> list[_Place]:
    held = [place for place in places if place.depth == HELD]
    spared = {id(place) for place in random.sample(held, max(0, len(held) - _HELD_MOST))}
    return [place for place in places if id(place) not in spared]


def _plan(places: Sequence[_Place], wanted: int) -> dict[Shard, _Part]:
    """Which shard is to give how many of the first ``wanted`` jobs, and from which queues."""
    parts: dict[Shard, _Part] = {}
    for place in places:
        if not wanted:
            break
        count = min(abs(place.depth), wanted)
        if count:
            part = parts.setdefault(place.shard, _Part([]))
            part.places.append(place)
            part.count += count
            wanted -= count
            place.depth = 0 if place.depth == HELD else place.depth - count
    return parts


async def _take(asking: Asking, part: _Part) -> None:
    queues = list(dict.fromkeys(place.queue for place in part.places))
    try:
        part.given = await asking.take(part.places[0].shard, queues, part.count)
    except Exception as error:  # judged when all shards have answered
        part.failure = error


def _graver(one: Exception | None, other: Exception) -> Exception:
    """Of two failures the one that may have been a success."""
    if isinstance(other, BackendUnavailable) and other.outcome != "not_applied":
        return other
    return one or other
