"""Costs of the API process in microseconds: reading and sending, messages, a topology.

The counters of the servers tell in how many pieces commands arrived. So the cost of a piece and
that of a command can be separated, however the machine batches them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import redis
import trio

from loadtest.bench._jobs import at_once
from ojs_cluster.keys import Keyspace
from ojs_cluster.redis import ClientSettings, open_client
from ojs_cluster.redis.client import Client
from ojs_cluster.redis.settings import Address
from ojs_cluster.redis.topology import parse_cluster_slots
from ojs_cluster.server.embedded.node import EmbeddedNode
from ojs_cluster.server.embedded.servers import Embedded

_STRIDE = 27
"""Coprime to the number of shards, so that consecutive callers use different masters."""


def reads(nodes: Sequence[EmbeddedNode]) -> int:
    """Return how often these servers have read from a connection."""
    total = 0
    for node in nodes:
        with redis.Redis(port=node.port) as client:
            stats: dict[str, int] = client.info("stats")
        total += stats["total_reads_processed"]
    return total


async def command_us(embedded: Embedded, callers: int, commands: int) -> tuple[float, float]:
    """Return this process's cost of a command, and pieces per command, with all shards in turn."""
    keys = Keyspace(64)
    slots = [shard.slot for shard in keys]
    turn = 0

    async def one(client: Client) -> None:
        nonlocal turn
        turn += 1
        shard = turn * _STRIDE % len(slots)
        await client.call(slots[shard], b"GET", keys.shard(shard).wal_probe)

    async with open_client(ClientSettings.from_url(embedded.url)) as client:
        await at_once(callers, 50, partial(one, client))
        nodes = embedded.masters()
        pieces, cpu = reads(nodes), time.process_time()
        await at_once(callers, commands // callers, partial(one, client))
        cpu = time.process_time() - cpu
        return cpu / commands * 1e6, (reads(nodes) - pieces - len(nodes)) / commands


def piece_us(few: tuple[float, float], many: tuple[float, float]) -> float:
    """Return the cost of sending a piece and reading its reply, from two runs with other pieces."""
    return (many[0] - few[0]) / (many[1] - few[1])


async def message_us(embedded: Embedded, messages: int) -> float:
    """Return this process's cost of a single message, compared with a run without a subscriber."""
    shard = Keyspace(64).shard(0)
    heard = trio.Event()

    async with open_client(ClientSettings.from_url(embedded.url)) as client:
        await client.subscribe(shard.wake_channel, shard.slot, lambda _: heard.set(), lambda: None)

        async def publish(channel: bytes) -> float:
            nonlocal heard
            before = time.thread_time()
            for _ in range(messages):
                heard = trio.Event()
                await client.call(shard.slot, b"SPUBLISH", channel, b"queue")
                if channel == shard.wake_channel:
                    await heard.wait()
            return (time.thread_time() - before) / messages * 1e6

        await publish(shard.wake_channel)
        return await publish(shard.wake_channel) - await publish(shard.schedule_channel)


def topology_us(masters: int) -> float:
    """Return the cost per master of reading CLUSTER SLOTS of this many masters."""
    size = 16384 // masters
    reply: list[object] = [
        [
            number * size,
            number * size + size - 1,
            [b"10.0.0.1", 7000 + number, b"%040d" % number, []],
            [b"10.0.1.1", 7000 + number, b"%040d" % (number + masters), []],
        ]
        for number in range(masters)
    ]
    began = time.thread_time()
    for _ in range(5):
        topology = parse_cluster_slots(reply, Address("10.0.0.1", 7000))
        assert len(topology.masters) == masters
    return (time.thread_time() - began) / 5 / masters * 1e6
