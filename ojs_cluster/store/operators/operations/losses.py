"""Notice that a master has lost its data, and restore what the others know of it.

A master without a replica and without an AOF comes back empty. Its shards then answer as if nothing
had ever been stored. So every tag has a stamp, a field beside its copy of the layout:

* ``1``: a process has written the stamp.
* ``2``: the process had seen that every tag has one.

A tag without a stamp has lost its data if any other tag has the stamp ``2``. A new cluster has no
such stamp before all tags have one. Slots move, and replicas take over, with the keys.

The record of a loss is a field beside the new stamp, so no other loss takes it along. It tells the
time, so an operator who knows of one loss hears of the next one of the same master,
unless it follows within a minute.

One process (``http/problem_watch.py``) calls ``record_losses`` and ``rebuild``. A meta tag that has
lost its data gets the stamp ``1`` only. While it has that and others have a ``2``, the list of
queues is to be rebuilt from the other masters. So a process that dies leaves the rest to another.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ojs_cluster.keys import KEYS_OF_QUEUES, META, queue_of_key
from ojs_cluster.redis.connection import pack
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.redis.packed_calls import PackedReads
from ojs_cluster.redis.settings import Address
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.partitions import NO_ENTRY_LIMIT
from ojs_cluster.store.operators.migrations.layout import raise_copy

log = logging.getLogger("ojs.store")

KEPT_MS: Final = 7 * 86_400_000
"""Time in ms for which a loss is reported, unless an operator acknowledges it before."""
_WRITTEN, _SEEN_IN_ALL = 1, 2
_ONE_LOSS_MS: Final = 60_000
"""Losses that a master has within this time are one: several processes may record it."""
_PATIENCE_S: Final = 0.5
_PAGE: Final = 1000
"""Number of keys that one SCAN call visits."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a master has lost.

    Attributes:
        address: the master.
        shards: number of shards whose data is lost.
        of_meta: whether the data of the whole cluster is lost, such as cron jobs and settings.
        at_ms: when the loss was first recorded, in Unix milliseconds; None until then.
    """

    address: str
    shards: int
    of_meta: bool
    at_ms: int | None


@dataclass(frozen=True, slots=True)
class _Tag:
    """What the master of a tag knows: its stamp, 0 for none, and its recorded loss, if any."""

    stamp: int
    loss: bytes
    address: str = ""
    at_ms: int = 0


async def read_losses(store: Store) -> tuple[Loss, ...]:
    """Return the losses that are recorded, and those that are seen now.

    Never raises for a master that does not answer: its losses are left out.
    """
    tags = await _read_tags(store)
    oldest_ms = store.clock.now_ms() - KEPT_MS
    found = {key: each for key, each in _recorded(tags).items() if key[1] > oldest_ms}
    for index in _without_data(store, tags):
        found.setdefault((_address(store, index), 0), []).append(index)
    return tuple(
        Loss(address, sum(index != META for index in indexes), META in indexes, at_ms or None)
        for (address, at_ms), indexes in sorted(found.items())
    )


async def record_losses(store: Store) -> bool:
    """Record new losses, and write missing stamps.

    Returns:
        Whether the meta tag has lost its data, and ``rebuild`` has not ended since.

    Raises:
        BackendUnavailable: Redis did not answer in time. The next call continues.
    """
    tags = await _read_tags(store)
    if lost := _without_data(store, tags):
        await _record(store, lost)
    elif len(tags) == len(store.keys) + 1:
        await _raise_stamps(store, tags)
    is_seen = any(tag.stamp == _SEEN_IN_ALL for tag in tags.values())
    return META in lost or (is_seen and META in tags and tags[META].stamp == _WRITTEN)


async def _record(store: Store, lost: Sequence[int]) -> None:
    """Write records of losses, each beside the new stamp of its tag."""
    at_ms = store.clock.now_ms()
    losses = {index: f"{at_ms} {_address(store, index)}" for index in lost}
    _log(store, lost)
    await _write_stamps(store, [META] if META in losses else [], _WRITTEN, losses)
    await _write_stamps(store, losses.keys() - {META}, _SEEN_IN_ALL, losses)


async def _raise_stamps(store: Store, tags: Mapping[int, _Tag]) -> None:
    """Write the next stamp where tags lack it; the stamps of all tags are known.

    The stamps are none at first, then 1 everywhere, then 2 on the meta tag, then 2 everywhere. The
    meta tag is first, so it has an older stamp than others only after a loss.
    """
    if missing := [index for index, tag in tags.items() if not tag.stamp]:
        await _write_stamps(store, missing, _WRITTEN)
    elif not store.layout.is_stamped:
        await _write_stamps(store, [META], _SEEN_IN_ALL)
        store.layout.is_stamped = True
    if store.layout.is_stamped:
        older = {index for index, tag in tags.items() if tag.stamp < _SEEN_IN_ALL}
        await _write_stamps(store, older - {META}, _SEEN_IN_ALL)


async def rebuild(store: Store, may_continue: Callable[[], Awaitable[bool]]) -> None:
    """Rebuild what the other masters know of a meta tag that has lost its data.

    Args:
        store: the store.
        may_continue: returns False when another process has the task now.

    Raises:
        BackendUnavailable: Redis did not answer in time. The next call begins again.
        RedisReplyError: a master refuses a command, such as SCAN. The queues of the other masters
            are registered, and the next call begins again.
    """
    if await _rebuild_queue_list(store, may_continue):
        await _write_stamps(store, [META], _SEEN_IN_ALL)


async def forget_losses(store: Store, subject: str) -> bool:
    """Remove a loss, or all of a master if the subject has no time; return whether it was there.

    Args:
        store: the store.
        subject: ``address`` or ``address@at_ms``, as in the id of a problem.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    address, _, at_ms = subject.partition("@")
    tags = await _read_tags(store)
    found = {
        index: tags[index]
        for key, indexes in _recorded(tags).items()
        if key[0] == address and at_ms in ("", str(key[1]))
        for index in indexes
    }

    async def forget(index: int) -> None:
        tag = store.keys.shard_or_meta(index)
        script = store.scripts["loss_forget"]
        await store.redis.script(
            tag.slot, script, [tag.schema], [found[index].loss], idempotent=True
        )

    await run_concurrently(found, forget)
    return bool(found)


async def _read_tags(store: Store) -> dict[int, _Tag]:
    """Return what is known of every tag whose master answers in time."""
    tags = [store.keys.shard_or_meta(index) for index in (META, *range(len(store.keys)))]
    reads = [PackedReads(tag.slot, pack(("HMGET", tag.schema, b"stamp", b"loss"))) for tag in tags]
    found: dict[int, _Tag] = {}
    answers: Any = await store.redis.read_each(reads, within_s=_PATIENCE_S)
    for tag, answer in zip(tags, answers, strict=True):
        if answer and not isinstance(answer[0], Exception):
            stamp, loss = (value or b"" for value in answer[0])
            at_ms, _, address = loss.partition(b" ")
            found[tag.index] = _Tag(
                int(stamp) if stamp.isdigit() else 0,
                loss,
                address.decode(errors="replace"),
                int(at_ms) if at_ms.isdigit() and len(at_ms) < 19 else 0,
            )
    return found


def _recorded(tags: Mapping[int, _Tag]) -> dict[tuple[str, int], list[int]]:
    """Return the tags of each recorded loss, by its address and its earliest time in ms."""
    began: dict[str, int] = {}
    found: dict[tuple[str, int], list[int]] = {}
    for index, tag in sorted(tags.items(), key=lambda each: each[1].at_ms):
        if tag.loss:
            start_ms = began.get(tag.address)
            if start_ms is None or tag.at_ms > start_ms + _ONE_LOSS_MS:
                start_ms = began[tag.address] = tag.at_ms
            found.setdefault((tag.address, start_ms), []).append(index)
    return found


def _without_data(store: Store, tags: Mapping[int, _Tag]) -> list[int]:
    """Return the tags that have lost their data.

    The process remembers that all tags had a stamp, in case that no master has kept its data.
    """
    if any(tag.stamp == _SEEN_IN_ALL for tag in tags.values()):
        store.layout.is_stamped = True
    if not store.layout.is_stamped:
        return []
    return [index for index, tag in tags.items() if not tag.stamp]


def _log(store: Store, lost: Iterable[int]) -> None:
    by_address: dict[str, list[int]] = {}
    for index in lost:
        by_address.setdefault(_address(store, index), []).append(index)
    for address, indexes in by_address.items():
        log.error(
            "the Redis master %s has lost its data: %d shards%s",
            address,
            sum(index != META for index in indexes),
            ", cron jobs and settings" if META in indexes else "",
        )


async def _write_stamps(
    store: Store, indexes: Iterable[int], stamp: int, losses: Mapping[int, str] | None = None
) -> None:
    """Write stamps, records of losses, and the copies of the layout, which may be lost too."""

    async def write(index: int) -> None:
        tag, loss = store.keys.shard_or_meta(index), (losses or {}).get(index, "")
        await raise_copy(store, tag, store.layout.record, stamp, loss)

    await run_concurrently(indexes, write)


async def _rebuild_queue_list(store: Store, may_continue: Callable[[], Awaitable[bool]]) -> bool:
    """Register the queues of all shards again; return whether that is done.

    A queue whose partitions are unknown now gets as many open ones as it has used. So workers find
    their jobs, and the partitions close when they are empty. Queues are registered page by page, so
    those are known already if the process dies.

    Raises:
        RedisReplyError: the first refusal of a master, after the others have been read.
    """
    if not all(store.redis.is_responsive(shard.slot) for shard in store.keys):
        return False
    counts: dict[str, int] = {}
    shards = {shard.tag: shard for shard in store.keys}
    is_complete = True
    refusals: list[RedisReplyError] = []

    async def find(address: Address) -> None:
        try:
            await find_all(address)
        except RedisReplyError as error:  # raised below: it must not cancel the other masters
            refusals.append(error)

    async def find_all(address: Address) -> None:
        nonlocal is_complete
        cursor: Any = b"0"
        while True:
            if not await may_continue():
                is_complete = False
                return
            reply: Any = await store.redis.call_node(
                *(address, "SCAN", cursor, "MATCH", KEYS_OF_QUEUES, "COUNT", _PAGE)
            )
            cursor, keys = reply
            more: set[str] = set()
            for tag, queue in map(queue_of_key, keys):
                if tag in shards:
                    count = store.keys.partition_of(queue, shards[tag]) + 1
                    if count > counts.get(queue, 0):
                        counts[queue] = count
                        more.add(queue)
            await run_concurrently(more, register)
            if cursor == b"0":
                return

    async def register(queue: str) -> None:
        await store.queues.register(store, queue)
        count = min(counts[queue], store.keys.max_partitions)
        if count > store.partitions.layout(queue).open_count:
            await store.partitions.update(
                store,
                queue,
                lambda old, now_ms: old.with_open(max(count, old.open_count), now_ms),
                max_entries=NO_ENTRY_LIMIT,
            )

    await store.partitions.read(store)
    await run_concurrently(store.redis.topology.masters, find)
    if refusals:
        raise refusals[0]
    return is_complete


def _address(store: Store, index: int) -> str:
    return str(store.redis.topology.owner(store.keys.slot_of_index(index)) or "")
