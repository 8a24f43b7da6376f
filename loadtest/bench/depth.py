"""The cost of a long queue, of many queues, and of many scheduled, active or dead jobs.

    python -m loadtest.bench.depth [--deep 1000000] [--rounds 9] [--quick]

Each case has its own standalone server, filled first: with jobs in the measured queue, with other
queues, or with jobs of the same queue in another state. The rounds go through all cases in turn:
enqueue, fetch, ack and cancel of single jobs by 16 concurrent callers, and the statistics of the
queue. The table has Redis's processor time per call, from /proc: for the first case (1000 available
jobs) in microseconds, for all others as a ratio to it.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from loadtest.bench._jobs import at_once, fill, new_job
from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table, ratio
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded, ServerBinary, find_server
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs.ack import ack
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.nack import nack
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store

QUEUE = "probe"
SHALLOW = 1000
CALLERS = 16
VERBS = ("enqueue", "fetch", "ack", "cancel", "stats")
DEAD = b',"retry":{"max_attempts":1,"on_exhaustion":"dead_letter"}'
FAR = b',"scheduled_at":"2099-01-01T00:00:00Z"'


@dataclass
class Case:
    """How a server is filled before the measurement, and us per call by verb and round."""

    name: str
    prepare: Callable[[Store], Awaitable[None]]
    us: dict[str, list[float]] = field(default_factory=lambda: {verb: [] for verb in VERBS})


async def queued(store: Store, count: int) -> None:
    """Fill the queue with this many available jobs."""
    await fill(store, QUEUE, count)


async def queues(store: Store, count: int) -> None:
    """Create this many other queues with one job each."""
    for start in range(0, count, 500):
        await enqueue_many(store, [new_job(f"other-{i}") for i in range(start, start + 500)])
    await fill(store, QUEUE, SHALLOW)


async def scheduled(store: Store, count: int) -> None:
    """Fill the queue with this many scheduled jobs that are not due soon."""
    await fill(store, QUEUE, count, more=FAR)
    await fill(store, QUEUE, SHALLOW)


async def active(store: Store, count: int) -> None:
    """Fill the queue with this many active jobs."""
    await fill(store, QUEUE, count)
    held = 0
    while held < count:
        held += len(await _take(store, min(500, count - held)))
    await fill(store, QUEUE, SHALLOW)


async def dead(store: Store, count: int) -> None:
    """Fill the queue with this many dead letters."""
    await fill(store, QUEUE, count, more=DEAD)
    failure = parse_failure(b'{"message":"no"}')
    for _ in range(count // 500):
        for job in await _take(store, 500):
            await nack(store, job.id, worker_id="bench", lease_id=job.lease_id, failure=failure)
    await fill(store, QUEUE, SHALLOW)


async def _take(store: Store, count: int) -> list[JobRecord]:
    return await fetch(
        store, [QUEUE], count=count, worker_id="bench", visibility_timeout_ms=86_400_000
    )


async def one_round(store: Store, pids: Sequence[int], case: Case, calls: int) -> None:
    """Run each verb this many times; the length of the queue is the same afterwards."""
    times = calls // CALLERS
    held: list[JobRecord] = []
    waiting: list[JobRecord] = []

    async def put_one() -> None:
        waiting.append(await enqueue(store, new_job(QUEUE)))

    async def take_one() -> None:
        held.extend(await _take(store, 1))

    async def ack_one() -> None:
        job = held.pop()
        await ack(store, job.id, worker_id="bench", lease_id=job.lease_id, result=None)

    async def cancel_one() -> None:
        await cancel(store, waiting.pop().id)

    async def measure(verb: str, call: Callable[[], Awaitable[object]]) -> None:
        before = cpu_s(pids)
        await at_once(CALLERS, times, call)
        case.us[verb].append((cpu_s(pids) - before) / (times * CALLERS) * 1e6)

    await measure("enqueue", put_one)
    await measure("fetch", take_one)
    await measure("ack", ack_one)
    # At the far end of the queue. A queue that is not longer than a round may have lost some.
    waiting.clear()
    waiting += await enqueue_many(store, [new_job(QUEUE)] * (times * CALLERS))
    await measure("cancel", cancel_one)
    await measure("stats", partial(get_stats, store, QUEUE))


async def run(servers: Sequence[Embedded], cases: Sequence[Case], rounds: int, calls: int) -> None:
    """Fill, measure and print all cases."""
    settings = StoreSettings(dead_letter_max=10_000_000)
    async with contextlib.AsyncExitStack() as stack:
        stores = []
        for server, case in zip(servers, cases, strict=True):
            opened = open_store(ClientSettings.from_url(server.url), settings)
            store = await stack.enter_async_context(opened)
            await case.prepare(store)
            stores.append(store)
        for number in range(rounds + 1):
            for server, case, store in zip(servers, cases, stores, strict=True):
                await one_round(store, [node.pid for node in server.nodes], case, calls)
                if number == 0:  # that was to warm up
                    case.us = {verb: [] for verb in VERBS}
    base = cases[0]
    rows = [[f"{base.name}, us", *(f"{statistics.median(base.us[v]):.1f}" for v in VERBS)]]
    rows += [[c.name, *(ratio(c.us[v], base.us[v]) for v in VERBS)] for c in cases[1:]]
    print_table(["", *VERBS], rows)


def all_cases(deep: int) -> list[Case]:
    """Return the cases, first the one that the others are compared with."""
    some = max(500, deep // 10)
    return [
        Case(f"{SHALLOW:,} queued", partial(queued, count=SHALLOW)),
        Case(f"{some:,} queued", partial(queued, count=some)),
        Case(f"{deep:,} queued", partial(queued, count=deep)),
        Case("1,000 other queues", partial(queues, count=1000)),
        Case("10,000 other queues", partial(queues, count=10_000)),
        Case(f"{some:,} scheduled", partial(scheduled, count=some)),
        Case(f"{some:,} active", partial(active, count=some)),
        Case(f"{some // 5:,} dead", partial(dead, count=some // 5)),
    ]


def _start(stack: contextlib.ExitStack, folder: Path, binary: ServerBinary) -> Embedded:
    return stack.enter_context(
        Embedded(folder, masters=1, cluster=False, binary=binary, append_only=False)
    )


def main() -> None:
    """Parse the command line and run on embedded standalone servers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--deep", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=480, help="of each verb in a round")
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    parser.add_argument("--quick", action="store_true", help="100 000 jobs at most, fewer rounds")
    options = parser.parse_args()
    if options.quick:
        options.deep, options.rounds = 100_000, 5
    binary = find_server(options.server)
    cases = all_cases(options.deep)
    print_setting(binary, f"medians of {options.rounds} rounds of {options.calls} calls")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = [_start(stack, Path(folder) / str(i), binary) for i in range(len(cases))]
        trio.run(run, servers, cases, options.rounds, options.calls)


if __name__ == "__main__":
    main()
