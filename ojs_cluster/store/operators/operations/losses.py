"""Notice that a master has lost its data, and restore what the others know of it.

A master without a replica and without an AOF comes back empty. Its shards then answer as if nothing
had ever been stored. So every tag has a stamp, a field beside its copy of the layout:

* ``1``: a process has written the stamp.
* ``2``: the process had seen that every tag has one.

A tag without a stamp has lost its data if any other tag has the stamp ``2``. A new cluster has no
such stamp before all tags have one. Slots move, and replicas take over, with the keys.

One process (``http/problem_watch.py``) calls ``restore``. It records the loss under the meta tag
first. If the meta tag itself is lost, it then rebuilds the list of queues from the other masters.
Last it writes the stamps again. So a process that dies in between leaves the rest to the next call.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import KEYS_OF_QUEUES, META, queue_of_key
from ojs_cluster.redis.acl_errors import AclDenied
from ojs_cluster.redis.connection import pack
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.redis.packed_calls import PackedReads
from ojs_cluster.redis.settings import Address
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.partitions import NO_ENTRY_LIMIT
from ojs_cluster.store.ground.runtime import Arg
from ojs_cluster.store.operators.migrations.layout import raise_copy

log = logging.getLogger("ojs.store")

KEPT_MS: Final = 7 * 86_400_000
"""Time in ms for which a loss is reported, unless an operator acknowledges it before."""
_STAMP: Final = b"stamp"
_WRITTEN, _SEEN_IN_ALL = 1, 2
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
        at_ms: when the loss was noticed, in Unix milliseconds.
    """

    address: str
    shards: int
    of_meta: bool
    at_ms: int


async def read_losses(store: Store) -> tuple[Loss, ...]:
    """Return the losses that are recorded, and those that are seen now.

    Never raises for a master that does not answer: its losses are left out.
    """
    meta, now_ms = store.keys.meta, store.clock.now_ms()
    lost: dict[int, tuple[str, int]] = {}
    if store.redis.is_responsive(meta.slot):
        with (
            trio.move_on_after(_PATIENCE_S),
            suppress(BackendUnavailable, RedisReplyError, ValueError),
        ):
            flat: Any = await store.redis.call(meta.slot, "HGETALL", meta.losses, idempotent=True)
            for index, value in zip(flat[::2], flat[1::2], strict=True):
                at_ms, _, address = value.decode(errors="replace").partition(" ")
                lost[int(index)] = (address, int(at_ms))
    for index in _without_data(store, await _read_stamps(store)):
        lost.setdefault(index, (_address(store, index), now_ms))
    indexes_of: dict[str, list[int]] = {}
    for index, (address, _at_ms) in lost.items():
        indexes_of.setdefault(address, []).append(index)
    return tuple(
        Loss(
            address,
            sum(index != META for index in indexes),
            META in indexes,
            min(lost[index][1] for index in indexes),
        )
        for address, indexes in sorted(indexes_of.items())
    )


async def restore(store: Store) -> None:
    """Record new losses, restore what the other masters know, and write missing stamps.

    Raises:
        BackendUnavailable: Redis did not answer in time. The next call continues.
    """
    stamps = await _read_stamps(store)
    lost = _without_data(store, stamps)
    if lost:
        shards = [index for index in lost if index != META]
        # A loss of the meta tag loses this record as well, so one that is there is of this loss.
        is_new = META in lost and not await _is_recorded(store, META)
        await _record(store, lost if is_new else shards)
        await _write_stamps(store, shards, _SEEN_IN_ALL)
        # It stays lost until a later call has rebuilt the list.
        if META in lost and await _rebuild_queue_list(store):
            await _write_stamps(store, [META], _SEEN_IN_ALL)
    elif len(stamps) == len(store.keys) + 1:
        if missing := [index for index, stamp in stamps.items() if not stamp]:
            await _write_stamps(store, missing, _WRITTEN)
        else:
            older = [index for index, stamp in stamps.items() if stamp != _SEEN_IN_ALL]
            await _write_stamps(store, older, _SEEN_IN_ALL)
            store.layout.is_stamped = True


async def forget_losses(store: Store, address: str) -> bool:
    """Remove the losses of a master; return whether there were any.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return bool(await store.run_meta("losses_forget", [store.keys.meta.losses], [address]))


async def _read_stamps(store: Store) -> dict[int, int]:
    """Return the stamp of every tag whose master answers, 0 for a tag without one."""
    tags = [store.keys.shard_or_meta(index) for index in (META, *range(len(store.keys)))]
    reads = [PackedReads(tag.slot, pack(("HGET", tag.schema, _STAMP))) for tag in tags]
    stamps: dict[int, int] = {}
    for tag, answers in zip(tags, await store.redis.read_each(reads), strict=True):
        if answers and not isinstance(answers[0], Exception):
            stamp: Any = answers[0] or b""
            stamps[tag.index] = int(stamp) if stamp.isdigit() else 0
    return stamps


def _without_data(store: Store, stamps: Mapping[int, int]) -> list[int]:
    """Return the tags that have lost their data.

    The process remembers that all tags had a stamp, in case that no master has kept its data.
    """
    if _SEEN_IN_ALL in stamps.values():
        store.layout.is_stamped = True
    if not store.layout.is_stamped:
        return []
    return [index for index, stamp in stamps.items() if not stamp]


async def _is_recorded(store: Store, index: int) -> bool:
    meta = store.keys.meta
    return bool(await store.redis.call(meta.slot, "HEXISTS", meta.losses, index, idempotent=True))


async def _record(store: Store, lost: Iterable[int]) -> None:
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
        args: list[Arg] = [KEPT_MS, address, *indexes]
        await store.run_meta("losses_record", [store.keys.meta.losses], args)


async def _write_stamps(store: Store, indexes: Iterable[int], stamp: int) -> None:
    """Write the stamps, and the copies of the layout, which may be lost too."""

    async def write(index: int) -> None:
        await raise_copy(store, store.keys.shard_or_meta(index), store.layout.record, stamp)

    await run_concurrently(indexes, write)


async def _rebuild_queue_list(store: Store) -> bool:
    """Register the queues of all shards again; return whether that is done.

    A queue whose partitions are unknown now gets as many open ones as it has used. So workers find
    their jobs, and the partitions close when they are empty.
    """
    if not all(store.redis.is_responsive(shard.slot) for shard in store.keys):
        return False
    counts: dict[str, int] = {}
    shards = {shard.tag: shard for shard in store.keys}

    async def find(address: Address) -> None:
        cursor: Any = b"0"
        while True:
            reply: Any = await store.redis.call_node(
                *(address, "SCAN", cursor, "MATCH", KEYS_OF_QUEUES, "COUNT", _PAGE)
            )
            cursor, keys = reply
            for tag, queue in map(queue_of_key, keys):
                if tag in shards:
                    count = store.keys.partition_of(queue, shards[tag]) + 1
                    counts[queue] = max(count, counts.get(queue, 0))
            if cursor == b"0":
                return

    async def register(queue: str) -> None:
        await store.queues.register(store, queue)
        count = min(counts[queue], store.keys.max_partitions)
        if count > store.partitions.layout(queue).open_count:
            await store.partitions.update(
                store,
                queue,
                lambda old, now_ms: old.with_open(count, now_ms),
                max_entries=NO_ENTRY_LIMIT,
            )

    try:
        await run_concurrently(store.redis.topology.masters, find)
    except (AclDenied, RedisReplyError) as error:
        log.warning("the list of queues gets only those in use again: %s", error)
    await store.partitions.read(store)
    await run_concurrently(counts, register)
    return True


def _address(store: Store, index: int) -> str:
    return str(store.redis.topology.owner(store.keys.slot_of_index(index)) or "")
