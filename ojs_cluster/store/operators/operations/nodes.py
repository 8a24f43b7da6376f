"""Read what operators want to know about the Redis nodes and the schedulers.

One INFO per master tells its memory and its replicas, CONFIG GET its host. The locks
of the shards tell which scheduler leads which shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import META
from ojs_cluster.redis.connection import pack
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.redis.packed_calls import PackedReads
from ojs_cluster.redis.settings import Address
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.operators.operations.losses import Loss, read_losses
from ojs_cluster.store.operators.operations.processes import ProcessDescription, list_processes

PATIENCE_S: Final = 0.5
"""Longest time in seconds to wait for one node or one shard."""
_MAX_SCHEDULERS: Final = 64
"""Maximum number of candidates, as in ``lead.lua``."""
_FULL: Final = 0.99
"""Used part of the memory limit from which a master is full. Redis refuses jobs above the limit,
and its memory then goes up and down around it."""
_NEARLY_FULL: Final = 0.85
_HOST: Final = "cluster-announce-human-nodename"

MemoryVerdict = Literal["", "no_limit", "ok", "nearly_full", "full"]
"""Whether the memory of a master suffices; empty if unknown."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica, as its master sees it.

    Attributes:
        address: the address.
        online: whether it follows the master; otherwise it still copies the data.
        lag_s: seconds since its last acknowledgement, None if unknown.
        behind_bytes: bytes of writes that it has not acknowledged, None if unknown.
    """

    address: str
    online: bool
    lag_s: int | None
    behind_bytes: int | None


@dataclass(frozen=True, slots=True)
class MasterStatus:
    """One master. Numbers that it did not tell are None.

    Attributes:
        address: the address.
        slots: number of its slots.
        shards: number of shards whose keys it has.
        answers: whether it has answered INFO.
        took_ms: the time of this answer in milliseconds.
        server: its program and version.
        memory_bytes: memory used.
        max_memory_bytes: the limit of the memory; 0 for none.
        memory: the verdict on both.
        policy: what it does when the memory is full.
        persistence: ``AOF`` or ``no AOF``; empty if unknown.
        clients: number of connections.
        commands_per_s: commands per second.
        uptime_s: time since its start in seconds.
        replicas: its replicas.
        host: the host that it announces (``cluster-announce-human-nodename``), as nodes of the
            chart do; empty if unknown.
    """

    address: str
    slots: int
    shards: int
    answers: bool = False
    took_ms: float | None = None
    server: str = ""
    memory_bytes: int | None = None
    max_memory_bytes: int | None = None
    memory: MemoryVerdict = ""
    policy: str = ""
    persistence: str = ""
    clients: int | None = None
    commands_per_s: int | None = None
    uptime_s: int | None = None
    replicas: tuple[ReplicaStatus, ...] = ()
    host: str = ""


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """One scheduler.

    Attributes:
        identity: its name, new at each start.
        shards: number of shards that it leads.
        leads_meta: whether it leads the meta tag, so that it fires cron jobs.
    """

    identity: str
    shards: int
    leads_meta: bool


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The Redis nodes and the schedulers.

    Attributes:
        clustered: whether Redis is in cluster mode.
        slots_covered: number of the 16384 slots that have a master.
        shards: number of all shards.
        masters: the masters, by address.
        schedulers: the schedulers of a group, those with most shards first.
        without_leader: number of shards and of the meta tag that no scheduler of the group leads.
        unread: number of those whose lock could not be read in time.
        processes: the API processes and schedulers by their identity; None if unknown.
        clocks_apart_ms: the largest difference between the clocks of two masters, in milliseconds.
        losses: what masters have lost of late.
    """

    clustered: bool
    slots_covered: int
    shards: int
    masters: tuple[MasterStatus, ...]
    schedulers: tuple[SchedulerStatus, ...]
    without_leader: int
    unread: int
    processes: Mapping[str, ProcessDescription] | None
    clocks_apart_ms: int
    losses: tuple[Loss, ...]


async def read_cluster(store: Store, group: str) -> ClusterStatus:
    """Read the status of all masters and of the schedulers of one group.

    The function never raises for a node that does not answer: its numbers are missing.

    Args:
        store: the store.
        group: the scheduler group.
    """
    topology = store.redis.topology
    owned = Counter(topology.owner(shard.slot) for shard in store.keys)
    slots: Counter[Address] = Counter()
    for item in topology.ranges:
        slots[item.master] += item.last - item.first + 1
    masters: list[MasterStatus] = []

    async def read_one(address: Address) -> None:
        began, info, host = trio.current_time(), None, ""
        with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable):
            try:
                info = _parse_info(await store.redis.call_node(address, "INFO"))
            except RedisReplyError:
                info = {}  # it answers, although the user of the server may not run INFO
        took_ms = (trio.current_time() - began) * 1000
        if info and topology.clustered:
            with (
                trio.move_on_after(PATIENCE_S),
                suppress(BackendUnavailable, RedisReplyError),
            ):
                # Servers before Redis 7.4 do not know the setting, and the user may not read it.
                reply: Any = await store.redis.call_node(address, "CONFIG", "GET", _HOST)
                host = b"".join(reply[1:]).decode(errors="replace")
        masters.append(_master(str(address), slots[address], owned[address], info, took_ms, host))

    await run_concurrently(topology.masters, read_one)
    schedulers, without_leader, unread = await _read_schedulers(store, group)
    processes: Mapping[str, ProcessDescription] | None = None
    if store.redis.is_responsive(store.keys.meta.slot):
        with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable, RedisReplyError):
            processes = await list_processes(store)
    return ClusterStatus(
        topology.clustered,
        topology.slots_covered,
        len(store.keys),
        tuple(sorted(masters, key=lambda master: master.address)),
        schedulers,
        without_leader,
        unread,
        processes,
        store.clock.masters_apart_ms,
        await read_losses(store),
    )


def _parse_info(reply: Any) -> dict[str, str]:
    text = bytes(reply).decode(errors="replace")
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _number(info: Mapping[str, str], name: str) -> int | None:
    text = info.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _master(
    address: str,
    slots: int,
    shards: int,
    info: Mapping[str, str] | None,
    took_ms: float,
    host: str,
) -> MasterStatus:
    if info is None:
        return MasterStatus(address, slots, shards)
    kind = info.get("server_name") or ("valkey" if "valkey_version" in info else "redis")
    version = info.get("valkey_version") or info.get("redis_version", "")
    used, limit = _number(info, "used_memory"), _number(info, "maxmemory")
    return MasterStatus(
        address,
        slots,
        shards,
        answers=True,
        took_ms=round(took_ms, 1),
        server=f"{kind} {version}".strip() if version else "",
        memory_bytes=used,
        max_memory_bytes=limit,
        memory=_verdict(used, limit, _number(info, "mem_not_counted_for_evict") or 0),
        policy=info.get("maxmemory_policy", ""),
        persistence={"1": "AOF", "0": "no AOF"}.get(info.get("aof_enabled", ""), ""),
        clients=_number(info, "connected_clients"),
        commands_per_s=_number(info, "instantaneous_ops_per_sec"),
        uptime_s=_number(info, "uptime_in_seconds"),
        replicas=tuple(_replicas(info)),
        host=host,
    )


def _verdict(used: int | None, limit: int | None, uncounted: int) -> MemoryVerdict:
    """Return the verdict on the memory of a master.

    Args:
        used: memory used in bytes, None if unknown.
        limit: the limit in bytes, 0 for none, None if unknown.
        uncounted: the part of ``used`` that does not count for the limit, such as the buffers of
            replicas.
    """
    if used is None or limit is None:
        return ""
    if limit == 0:
        return "no_limit"
    part = max(0, used - uncounted) / limit
    return "full" if part >= _FULL else "nearly_full" if part >= _NEARLY_FULL else "ok"


def _replicas(info: Mapping[str, str]) -> Sequence[ReplicaStatus]:
    """Return the replicas in lines such as ``slave0:ip=A,port=P,state=online,offset=5,lag=0``."""
    written = _number(info, "master_repl_offset")
    found = []
    for index in range(_number(info, "connected_slaves") or 0):
        line = info.get(f"slave{index}", "")
        fields = dict(part.partition("=")[::2] for part in line.split(","))
        if "ip" not in fields:
            continue
        offset = _number(fields, "offset")
        behind = None if written is None or offset is None else max(0, written - offset)
        address = f"{fields['ip']}:{fields.get('port', '')}"
        online = fields.get("state") == "online"
        found.append(ReplicaStatus(address, online, _number(fields, "lag"), behind))
    return found


async def _read_schedulers(
    store: Store, group: str
) -> tuple[tuple[SchedulerStatus, ...], int, int]:
    """Return the schedulers, the number of tags without a leader, and of tags not read."""
    leads: Counter[str] = Counter()
    of_meta: list[str] = []
    candidates: list[str] = []
    without_leader, read = 0, 0
    tags = [META, *range(len(store.keys))]

    def count(index: int, lock: Any) -> None:
        nonlocal without_leader, read
        read += 1
        identity = (lock or b"").decode(errors="replace").rpartition(" ")[0]
        if not identity:
            without_leader += 1
        elif index == META:
            of_meta.append(identity)
        else:
            leads[identity] += 1

    async def read_lock(index: int) -> None:
        keys = store.keys.shard_or_meta(index)
        if not store.redis.is_responsive(keys.slot):
            return
        with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable, RedisReplyError):
            count(
                index,
                await store.redis.call(keys.slot, "GET", keys.leader(group), idempotent=True),
            )

    unread: list[int] = []
    all_keys = [store.keys.shard_or_meta(index) for index in tags]
    reads = [PackedReads(keys.slot, pack(("GET", keys.leader(group)))) for keys in all_keys]
    for index, answers in zip(tags, await store.redis.read_each(reads), strict=True):
        if not answers or isinstance(answers[0], Exception):
            unread.append(index)
        else:
            count(index, answers[0])
    await run_concurrently(unread, read_lock)
    meta = store.keys.meta
    with trio.move_on_after(PATIENCE_S), suppress(BackendUnavailable, RedisReplyError):
        found: Any = await store.redis.call(
            meta.slot, "ZRANGE", meta.candidates(group), 0, _MAX_SCHEDULERS - 1, idempotent=True
        )
        candidates = [name.decode(errors="replace") for name in found]
    names = dict.fromkeys([*of_meta, *leads, *candidates])
    schedulers = [SchedulerStatus(name, leads[name], name in of_meta) for name in names]
    schedulers.sort(key=lambda each: (-each.shards, each.identity))
    return tuple(schedulers), without_leader, len(tags) - read
