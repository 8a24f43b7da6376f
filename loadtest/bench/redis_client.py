"""CPU time per Redis command: our client, coredis, and redis-py in trio worker threads.

    python -m loadtest.bench.redis_client                 # starts a cluster of three masters
    python -m loadtest.bench.redis_client --url redis://127.0.0.1:7001,127.0.0.1:7002

All three send the same SET and GET commands from the same number of concurrent callers in one
process, in short rounds with rotating order, so that other load on the machine affects all alike.
The measure is the CPU time of this process (all threads, no servers), as the median of the rounds.
The absolute numbers depend on the machine; the ratios do not. The last line tells whether our
client reaches its goal relative to coredis.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis
import trio
from redis.cluster import ClusterNode
from redis.crc import key_slot

from loadtest.bench._table import print_setting, print_table
from ojs_cluster.redis import ClientSettings, open_client
from ojs_cluster.server.embedded.servers import Embedded, find_server

# One unit of work of a caller: a SET and a GET of this key.
Pair = Callable[[bytes], Awaitable[object]]
VALUE = b"v" * 200
KEYS_PER_CALLER = 16
GOAL = 1 / 8
"""Largest share of coredis's CPU time that our client may take."""


@asynccontextmanager
async def ours(settings: ClientSettings, callers: int) -> AsyncIterator[Pair]:
    """Run our client, which computes the slot of each command."""
    async with open_client(settings) as client:

        async def pair(key: bytes) -> None:
            slot = key_slot(key)
            await client.call(slot, b"SET", key, VALUE)
            await client.call(slot, b"GET", key)

        yield pair


@asynccontextmanager
async def with_coredis(settings: ClientSettings, callers: int) -> AsyncIterator[Pair]:
    """Run coredis on its trio backend, without version checks, with a connection per caller."""
    import coredis  # a part of the extra that nothing else here needs

    host, port = settings.nodes[0]
    client: coredis.RedisCluster[bytes] = coredis.RedisCluster(
        host, port, max_connections=callers, verify_version=False
    )
    async with client:

        async def pair(key: bytes) -> None:
            await client.set(key, VALUE)
            await client.get(key)

        yield pair


@asynccontextmanager
async def with_threads(settings: ClientSettings, callers: int) -> AsyncIterator[Pair]:
    """Run redis-py, every command in a trio worker thread, with a thread per caller."""
    nodes = [ClusterNode(*node) for node in settings.nodes]  # type: ignore[no-untyped-call]
    client = redis.RedisCluster(startup_nodes=nodes, max_connections=callers)
    limiter = trio.CapacityLimiter(callers)

    async def pair(key: bytes) -> None:
        await trio.to_thread.run_sync(client.set, key, VALUE, limiter=limiter)
        await trio.to_thread.run_sync(client.get, key, limiter=limiter)

    try:
        yield pair
    finally:
        client.close()


@dataclass
class Contender:
    """A client and its measurements: microseconds of CPU time, commands per second."""

    name: str
    open: Callable[[ClientSettings, int], AbstractAsyncContextManager[Pair]]
    share: float  # of the commands per round: the slow ones get fewer, rounds stay short
    cpu_us: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


async def one_round(pair: Pair, contender: Contender, callers: int, commands: int) -> None:
    """Run about ``commands`` commands in ``callers`` tasks and record their cost."""
    rounds = max(1, int(commands * contender.share) // (2 * callers))

    async def caller(number: int) -> None:
        keys = [b"bench:%d:%d" % (number, i) for i in range(KEYS_PER_CALLER)]
        for i in range(rounds):
            await pair(keys[i % KEYS_PER_CALLER])

    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for number in range(callers):
            nursery.start_soon(caller, number)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    done = rounds * callers * 2
    contender.cpu_us.append(cpu / done * 1e6)
    contender.rate.append(done / wall)


async def measure(url: str, *, callers: int, commands: int, rounds: int) -> list[Contender]:
    """Alternate between the contenders; each has an open client during its round."""
    settings = ClientSettings.from_url(url)
    contenders = [
        Contender("ojs_cluster.redis", ours, 1.0),
        Contender("coredis", with_coredis, 0.2),
        Contender("redis-py in threads", with_threads, 0.05),
    ]
    for number in range(rounds + 1):
        for turn in range(len(contenders)):
            contender = contenders[(number + turn) % len(contenders)]
            async with contender.open(settings, callers) as pair:
                for key in range(KEYS_PER_CALLER):  # connections and caches warm
                    await pair(b"bench:0:%d" % key)
                await one_round(pair, contender, callers, commands)
        if number == 0:
            for contender in contenders:  # the first round only warms up
                contender.cpu_us.clear()
                contender.rate.clear()
    return contenders


def report(contenders: list[Contender]) -> None:
    """Print medians, every contender relative to ours, and whether the goal was reached."""
    base = statistics.median(contenders[0].cpu_us)
    rows = []
    for contender in contenders:
        cpu = statistics.median(contender.cpu_us)
        spread = f"{min(contender.cpu_us):.1f} to {max(contender.cpu_us):.1f}"
        rate = f"{statistics.median(contender.rate):,.0f}"
        rows.append((contender.name, f"{cpu:.1f}", spread, f"{cpu / base:.1f}", rate))
    print_table(("client", "us per command", "of rounds", "times ours", "commands/s"), rows)
    print(f"\n{verdict(base, statistics.median(contenders[1].cpu_us))}", flush=True)


def verdict(ours_us: float, coredis_us: float) -> str:
    """Return whether our client reaches the goal."""
    word = "reached" if ours_us <= GOAL * coredis_us else "not reached"
    return f"at most {GOAL:.3f} of coredis: {ours_us / coredis_us:.3f}, {word}"


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", help="an existing cluster; default: start three masters")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--commands", type=int, default=60_000, help="per round, for ours")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    options = parser.parse_args()
    if options.quick:
        options.commands, options.rounds = 20_000, 3

    def run(url: str) -> None:
        contenders = trio.run(
            lambda: measure(
                url, callers=options.callers, commands=options.commands, rounds=options.rounds
            )
        )
        report(contenders)

    if options.url:
        run(options.url)
        return
    binary = find_server()
    how = f"{options.callers} callers, SET and GET of {len(VALUE)} bytes, CPU of the client"
    print_setting(binary, how)
    with (
        tempfile.TemporaryDirectory() as directory,
        Embedded(Path(directory), binary=binary, append_only=False) as servers,
    ):
        run(servers.url)


if __name__ == "__main__":
    main()
