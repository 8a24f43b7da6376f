"""Costs of Redis for a request in microseconds: reading, commands, scripts, messages.

Batches are exact: the server is stopped, commands are written to its connections, and the server
continues. So it reads all of them in one turn of its event loop, whatever else runs on the machine.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from os import kill

import hiredis
import redis

from loadtest.bench._jobs import at_once, new_job
from loadtest.bench._processes import cpu_s
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.node import EmbeddedNode
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs.ack import ack
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.open import open_store

GET = hiredis.pack_command(("GET", "x"))  # type: ignore[arg-type]
CALLERS = 16
VERBS = ("enqueue", "fetch", "ack", "fetch_empty")


def connect(node: EmbeddedNode, count: int) -> list[socket.socket]:
    """Open plain connections to a server."""
    sockets = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(count)]
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sockets


@contextlib.contextmanager
def halted(pid: int) -> Iterator[None]:
    """Stop a process (SIGSTOP) while the block runs."""
    kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        kill(pid, signal.SIGCONT)


def burst_us(
    node: EmbeddedNode, connections: Sequence[socket.socket], commands: int, turns: int
) -> float:
    """Return the median cost of a turn in which every connection has this many GET commands."""
    assert node.pid is not None
    payload, answer = GET * commands, len(b"$-1\r\n") * commands
    costs = []
    for _ in range(turns):
        with halted(node.pid):
            before = cpu_s([node.pid])
            for each in connections:
                each.sendall(payload)
        for each in connections:
            _read(each, answer)
        time.sleep(0.001)  # it goes to sleep first: that belongs to the turn
        costs.append((cpu_s([node.pid]) - before) * 1e6)
    return statistics.median(costs)


def _read(connection: socket.socket, size: int) -> None:
    while size > 0:
        size -= len(connection.recv(min(size, 65_536)))


@dataclass(frozen=True, slots=True)
class TurnCosts:
    """Costs in us: of a turn, and of reading a connection in it."""

    turn: float
    read: float


def turn_costs(node: EmbeddedNode, turns: int) -> TurnCosts:
    """Measure a server whose code and data are in the caches of the processor."""
    connections = connect(node, 32)
    try:
        single = burst_us(node, connections[:1], 1, turns)
        wide = burst_us(node, connections, 1, turns)
        deep = burst_us(node, connections[:1], 256, turns)
    finally:
        for each in connections:
            each.close()
    command = (deep - single) / 255
    connection = (wide - single) / 31 - command
    alone = single_us(node, 20 * turns)
    return TurnCosts(alone - connection - command, connection)


async def script_costs(embedded: Embedded, jobs: int, costs: TurnCosts) -> dict[str, float]:
    """Return the cost of each call in the life of a plain job: command, script and reply.

    The turns and reads in which the calls arrive are subtracted by ``costs``. What is left has a
    part of the wakes, because some 10 calls share a turn.
    """
    node = embedded.nodes[0]
    found: dict[str, float] = {}
    async with open_store(ClientSettings.from_url(embedded.url)) as store:
        for _ in range(2):  # the first round warms up
            found = await _lifecycle(store, node, jobs, costs)
    return found


async def _lifecycle(
    store: Store, node: EmbeddedNode, jobs: int, costs: TurnCosts
) -> dict[str, float]:
    held: list[JobRecord] = []
    queues = [f"sim-{number}" for number in range(CALLERS)]
    turn = 0

    def queue() -> str:
        nonlocal turn
        turn += 1
        return queues[turn % CALLERS]

    async def put_one() -> None:
        await enqueue(store, new_job(queue(), 100))

    async def take_one() -> None:
        held.extend(await fetch(store, [queue()], count=1, worker_id="sim"))

    async def ack_one() -> None:
        job = held.pop()
        await ack(store, job.id, worker_id="sim", lease_id=job.lease_id, result=None)

    calls = (put_one, take_one, ack_one, take_one)
    return {
        verb: await _inside(node, jobs, call, costs)
        for verb, call in zip(VERBS, calls, strict=True)
    }


async def _inside(
    node: EmbeddedNode, jobs: int, call: Callable[[], Awaitable[object]], costs: TurnCosts
) -> float:
    """Return the cost of a call without turns and reads, by the server's counters."""
    assert node.pid is not None
    before, cycles, reads = cpu_s([node.pid]), *_counted(node)
    await at_once(CALLERS, jobs // CALLERS, call)
    used = (cpu_s([node.pid]) - before) * 1e6
    more_cycles, more_reads = _counted(node)
    used -= (more_cycles - cycles) * costs.turn + (more_reads - reads) * costs.read
    return used / jobs


def _counted(node: EmbeddedNode) -> tuple[int, int]:
    """Return the turns of the server's event loop, and its reads from connections."""
    with redis.Redis(port=node.port) as client:
        stats: dict[str, int] = client.info("stats")
    return stats["eventloop_cycles"], stats["total_reads_processed"]


def single_us(node: EmbeddedNode, commands: int) -> float:
    """Return the cost of a command that arrives alone, with its turn."""
    assert node.pid is not None
    (connection,) = connect(node, 1)
    with connection:
        before = cpu_s([node.pid])
        for _ in range(commands):
            connection.sendall(GET)
            connection.recv(4096)
        return (cpu_s([node.pid]) - before) / commands * 1e6


def message_us(node: EmbeddedNode, subscribers: int, messages: int) -> float:
    """Return the cost of a sharded message with this many subscribers, each a connection."""
    assert node.pid is not None
    connections = connect(node, subscribers)
    publisher = connect(node, 1)[0]
    try:
        subscribe = hiredis.pack_command(("SSUBSCRIBE", "wake"))  # type: ignore[arg-type]
        for each in connections:
            each.sendall(subscribe)
            each.recv(4096)
        publish = hiredis.pack_command(("SPUBLISH", "wake", "queue"))  # type: ignore[arg-type]
        push = hiredis.pack_command(("smessage", "wake", "queue"))  # type: ignore[arg-type]
        costs = []
        for _ in range(messages):
            before = cpu_s([node.pid])
            publisher.sendall(publish)
            publisher.recv(4096)
            for each in connections:
                _read(each, len(push))
            costs.append((cpu_s([node.pid]) - before) * 1e6)
        return statistics.median(costs)
    finally:
        for each in (*connections, publisher):
            each.close()
