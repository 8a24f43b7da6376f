"""How late do jobs become available when 10 000 of them are due at the same time?

    python -m loadtest.bench.due_latency [--jobs 10000] [--rounds 3] [--quick]

An embedded cluster of three masters runs with one scheduler process with default settings. No
worker fetches, because a fetch promotes due jobs itself. All jobs get the same ``scheduled_at``,
some seconds ahead. They are

* in one queue, which is one shard, so one master promotes them all;
* in one queue with two partitions, which are on two masters;
* in one queue with twelve partitions, of which the busiest master has four or five;
* in 64 queues.

Then the same number of jobs in one queue become due one after the other within 5 s.

Two measurements of the same run (for jobs that are due one after the other only the second):

- *seen*: an observer that shares no code with the server (redis-py, one connection per master)
  reads TIME and the sizes of the ``due`` sets in one pipeline every few ms. A job counts as
  available in the first observation without it in ``due``. The script that moves it is atomic, so
  the job is in its queue by then. The time includes the observer's own period, which is printed.
- *stamped*: ``enqueued_at - scheduled_at`` as stored in each job. The former is the time at which
  the script that moved the job began.

Both times of each difference come from the clock of one Redis node. On a busy machine the delay is
that of the machine, so the load average is printed too. The processor time of all masters per job
is what remains on idle cores. It includes the observer's commands and idle work.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis
import trio

from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.keys import Shard
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode, find_server
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.open import open_store

SHARDS = 64
SETUPS = ((1, 1), (1, 2), (1, 12), (64, 1))
"""Numbers of queues, and of partitions of each queue."""
BATCH = 500
LEAD_S = 2.0
"""Time between the end of enqueueing and the due time."""
SPREAD_MS = 5000
LATEST_S = 60.0
"""Longest wait after the last due time, in case the scheduler has ended."""
PERIOD_S = 0.004
"""Period of the observers: short enough to see a p99, long enough to add little load."""


@dataclass
class Observer:
    """Watches the shards of one master from its own thread."""

    node: EmbeddedNode
    shards: Sequence[Shard]
    samples: list[tuple[float, int]] = field(default_factory=list)
    """(Redis time in ms, jobs that are still in `due`)."""

    def run(self, until_ms: int) -> None:
        """Sample until no job is in ``due``, and at least until ``until_ms``."""
        with self.node.client() as client:
            while True:
                with client.pipeline(transaction=False) as pipeline:
                    pipeline.time()
                    for shard in self.shards:
                        pipeline.zcard(shard.due)
                    (seconds, micros), *waiting = pipeline.execute()
                now_ms = seconds * 1000 + micros / 1000
                self.samples.append((now_ms, sum(waiting)))
                if sum(waiting) == 0 and now_ms > until_ms:
                    return
                time.sleep(PERIOD_S)

    def lateness(self, due_ms: int) -> Iterator[float]:
        """Return per job of this master the ms after ``due_ms`` at which it was first seen
        available.
        """
        left = self.samples[0][1]
        for now_ms, waiting in self.samples:
            for _ in range(left - waiting):
                yield now_ms - due_ms
            left = waiting


@dataclass(frozen=True)
class Round:
    """The result of one round, in ms. Without observers, ``seen`` and ``period`` are unknown."""

    stamped: list[float]
    cpu_us: float
    """Processor time of the masters per job, in microseconds."""
    seen: list[float] | None = None
    period: float = 0.0


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    binary = find_server(options.server)
    print(
        f"{binary.kind} {binary.version}, 3 masters, {options.jobs} jobs due at once, "
        f"or within {SPREAD_MS / 1000:g} s; lateness in ms:"
    )
    print(
        f"{'queues':>6} {'partitions':>10} {'round':>5} | {'seen p50':>8} {'p99':>8} {'max':>8} | "
        f"{'stamped p50':>11} {'p99':>8} {'max':>8} | "
        f"{'period':>6} {'cpu/job':>8} {'load':>5}"
    )
    with tempfile.TemporaryDirectory() as folder:
        embedded = Embedded(Path(folder), binary=binary, append_only=True)
        with embedded, scheduler_process(embedded.url):
            for queues, partitions in SETUPS:
                for number in range(options.rounds):
                    result = trio.run(one_round, embedded, options.jobs, queues, partitions, number)
                    print_row(str(queues), partitions, number + 1, result)
            for number in range(options.rounds):
                result = trio.run(spread_round, embedded, options.jobs, number)
                print_row("spread", 1, number + 1, result)


@contextmanager
def scheduler_process(url: str) -> Iterator[None]:
    """Run a scheduler process and wait until it leads."""
    command = [sys.executable, "-m", "tests.scheduler.process", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            while not process.stdout.readline().startswith("leading"):
                if process.poll() is not None:
                    raise SystemExit("the scheduler ended at its start")
            yield
        finally:
            process.terminate()


async def one_round(
    embedded: Embedded, jobs: int, queues: int, partitions: int, number: int
) -> Round:
    """Enqueue, watch, and read the jobs."""
    async with open_store(ClientSettings.from_url(embedded.url), shards=SHARDS) as store:
        names = [f"late-{queues}-{partitions}-{number}-{i}" for i in range(queues)]
        for name in names:
            await _set_partitions(store, name, partitions)
        due_ms = await _redis_ms(store) + int(1000 * (LEAD_S + jobs / 2000))
        due = await _enqueue(store, names, jobs, due_ms)
        await _shortly_before(store, due_ms)
        shards = {shard for name in names for shard in store.keys.partitions(name, partitions)}
        observers = _observers(embedded, shards)
        cpu = _cpu_us(embedded)
        threads = [threading.Thread(target=o.run, args=(due_ms,)) for o in observers]
        for thread in threads:
            thread.start()
        for thread in threads:
            await trio.to_thread.run_sync(thread.join)
        cpu = _cpu_us(embedded) - cpu
        seen = [late for o in observers for late in o.lateness(due_ms)]
        if len(seen) != jobs:
            raise SystemExit(f"saw {len(seen)} jobs of {jobs}")
        stamped = sorted(await _stamped(store, due))
        return Round(stamped, cpu / jobs, sorted(seen), _period(observers))


async def spread_round(embedded: Embedded, jobs: int, number: int) -> Round:
    """Run a round with jobs of one queue that are due one after the other."""
    async with open_store(ClientSettings.from_url(embedded.url), shards=SHARDS) as store:
        due_ms = await _redis_ms(store) + int(1000 * (LEAD_S + jobs / 2000))
        due = await _enqueue(store, [f"spread-{number}"], jobs, due_ms, SPREAD_MS)
        await _shortly_before(store, due_ms)
        cpu = _cpu_us(embedded)
        await trio.sleep((SPREAD_MS + 500) / 1000)
        shard = store.keys.shard_of_queue(f"spread-{number}")
        with trio.fail_after(LATEST_S):
            while await store.redis.call(shard.slot, "ZCARD", shard.due):  # noqa: ASYNC110 - in Redis
                await trio.sleep(0.01)
        cpu = _cpu_us(embedded) - cpu
        return Round(sorted(await _stamped(store, due)), cpu / jobs)


async def _set_partitions(store: Store, name: str, partitions: int) -> None:
    """Give a new queue its partitions at once; the API would wait until all workers know them."""
    if partitions > 1:
        layout = PartitionLayout.of_count(partitions)
        await store.partitions.update(store, name, lambda _old, _now_ms: layout)


async def _shortly_before(store: Store, due_ms: int) -> None:
    left_ms = due_ms - await _redis_ms(store)
    if left_ms < 500:
        raise SystemExit("enqueueing took too long; choose fewer jobs")
    await trio.sleep((left_ms - 500) / 1000)


async def _redis_ms(store: Store) -> int:
    reply = await store.redis.call(0, "TIME")
    assert isinstance(reply, list)
    seconds, micros = (int(part) for part in reply if isinstance(part, bytes))
    return seconds * 1000 + micros // 1000


async def _enqueue(
    store: Store, names: Sequence[str], jobs: int, due_ms: int, spread_ms: int = 0
) -> dict[str, int]:
    """Enqueue the jobs; return the due time of each id."""
    moments = [due_ms + i * spread_ms // jobs for i in range(jobs)]
    new = [
        parse_job(
            f'{{"type":"bench.due","args":[{i}],"options":{{"queue":"{names[i % len(names)]}",'
            f'"scheduled_at":"{_timestamp(moment)}"}}}}'.encode()
        )
        for i, moment in enumerate(moments)
    ]
    ids: list[str] = []
    for start in range(0, jobs, BATCH):
        ids += [job.id for job in await enqueue_many(store, new[start : start + BATCH])]
    return dict(zip(ids, moments, strict=True))


def _timestamp(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03}Z"


def _cpu_us(embedded: Embedded) -> float:
    total = 0.0
    for node in embedded.masters():
        with node.client() as client:
            used: dict[str, float] = client.info("cpu")
        total += used["used_cpu_user"] + used["used_cpu_sys"]
    return total * 1e6


def _observers(embedded: Embedded, shards: Iterable[Shard]) -> list[Observer]:
    found: dict[int, Observer] = {}
    with redis.RedisCluster(host="127.0.0.1", port=embedded.nodes[0].port) as client:
        by_port = {node.port: node for node in embedded.nodes}
        for shard in shards:
            port = client.get_node_from_key(shard.due.decode()).port
            observer = found.setdefault(port, Observer(by_port[port], []))
            observer.shards = [*observer.shards, shard]
    return list(found.values())


async def _stamped(store: Store, due: Mapping[str, int]) -> list[float]:
    late: list[float] = []
    for job_id, due_ms in due.items():
        shard = store.keys.shard_of_id(job_id)
        reply = await store.redis.call(shard.slot, "HGET", shard.job(job_id), f.ENQUEUED)
        assert isinstance(reply, bytes), "a job was never promoted"
        late.append(int(reply) - due_ms)
    return late


def _period(observers: Sequence[Observer]) -> float:
    gaps = sorted(
        b[0] - a[0] for o in observers for a, b in zip(o.samples, o.samples[1:], strict=False)
    )
    return gaps[len(gaps) // 2]


def print_row(queues: str, partitions: int, number: int, result: Round) -> None:
    """Print one round."""
    seen, period = f"{'-':>8} {'-':>8} {'-':>8}", "-"
    if result.seen is not None:
        period = f"{result.period:.1f}"
        seen = " ".join(f"{_quantile(result.seen, q):>8.1f}" for q in (0.5, 0.99, 1.0))
    stamped = [_quantile(result.stamped, q) for q in (0.5, 0.99, 1.0)]
    print(
        f"{queues:>6} {partitions:>10} {number:>5} | {seen} | "
        f"{stamped[0]:>11.0f} {stamped[1]:>8.0f} {stamped[2]:>8.0f} | "
        f"{period:>6} {result.cpu_us:>5.1f} us {os.getloadavg()[0]:>5.1f}",
        flush=True,
    )


def _quantile(ordered: Sequence[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


if __name__ == "__main__":
    main()
