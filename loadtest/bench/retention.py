"""How fast does retention remove jobs with ids chosen by clients?

    python -m loadtest.bench.retention [--jobs 4000] [--delay-ms 1.2] [--rounds 3] [--quick]

Such a job has an alias in another shard, which is removed first. One standalone server is behind a
proxy that delays each direction. Each round removes jobs of four shards, one shard after the other
as the scheduler does, in two ways:

- *one by one*: the alias, then the job, for each job separately;
- *by shard*: as ``purge_due`` does: one script for all aliases of a shard, sixteen shards at a
  time, then one script per hundred jobs.

The ways alternate; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import redis
import trio

from loadtest.bench._processes import free_port, running
from loadtest.bench._table import print_setting, print_table, ratio
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.keys import Keyspace, Shard
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded, find_server
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.aliases import remove_expired_jobs
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs import ack as acks
from ojs_cluster.store.features.retention.retention import purge_due
from ojs_cluster.store.open import open_store

SHARDS = 64
BATCH = 200
"""Jobs that one step of the scheduler removes."""
QUEUES = 4
ONE_BY_ONE = 10
"""How many times fewer jobs are removed one by one, to limit the time of a round."""

Removal = Callable[[Store, Shard], Awaitable[int]]


async def one_by_one(store: Store, shard: Shard) -> int:
    """Remove all jobs of a shard one by one; return their number."""
    removed = 0
    while True:
        ids: Any = await store.redis.call(
            shard.slot, "ZRANGE", shard.finished, 0, BATCH - 1, idempotent=True
        )
        if not ids:
            return removed
        for job_id in ids:
            removed += (await remove_expired_jobs(store, shard, [job_id.decode()])).removed


async def by_shard(store: Store, shard: Shard) -> int:
    """Remove all jobs of a shard as the scheduler does; return their number."""
    removed = 0
    while True:
        tick = await purge_due(store, shard, BATCH)
        removed += tick.done
        if not tick.more:
            return removed


WAYS: dict[str, Removal] = {"one by one": one_by_one, "by shard": by_shard}


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--delay-ms", type=float, default=1.2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer jobs, one round")
    options = parser.parse_args()
    if options.quick:
        options.jobs, options.rounds = 2000, 1
    binary = find_server(options.server)
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        embedded = Embedded(Path(folder), binary=binary, cluster=False, append_only=False)
        with embedded:
            direct, port = embedded.nodes[0].port, free_port()
            module = ["-m", "loadtest.bench._slow_link"]
            with running([*module, str(port), str(direct), str(options.delay_ms)], port, {}):
                for _ in range(options.rounds):
                    for way, remove in WAYS.items():
                        jobs = options.jobs // (ONE_BY_ONE if way == "one by one" else 1)
                        rates[way].append(trio.run(_one_round, direct, port, remove, jobs))
    how = f"standalone, {options.delay_ms:g} ms each way, {options.jobs} jobs of {QUEUES} shards"
    print_setting(binary, how)
    rows = [
        [way, *(f"{rate:.0f}" for rate in found), ratio(found, rates["one by one"])]
        for way, found in rates.items()
    ]
    print_table(["jobs removed a second", *map(str, range(1, options.rounds + 1)), "ratio"], rows)


async def _one_round(direct: int, slow: int, remove: Removal, jobs: int) -> float:
    """Return the jobs removed per second."""
    queues = _queues()
    async with open_store(_settings(direct), shards=SHARDS) as store:
        for queue in queues:
            await _finish(store, queue, jobs // QUEUES)
        _let_time_pass(direct, store)
    async with open_store(_settings(slow), shards=SHARDS) as store:
        began, removed = time.perf_counter(), 0
        for queue in queues:
            removed += await remove(store, store.keys.shard_of_queue(queue))
        took_s = time.perf_counter() - began
    if removed != jobs // QUEUES * QUEUES:
        raise SystemExit(f"removed {removed} jobs of {jobs}")
    return removed / took_s


def _settings(port: int) -> ClientSettings:
    return ClientSettings.from_url(f"redis://127.0.0.1:{port}")


def _queues() -> Sequence[str]:
    keys = Keyspace(SHARDS)
    found: dict[Shard, str] = {}
    for number in range(1000):
        found.setdefault(keys.shard_of_queue(f"old{number}"), f"old{number}")
    return list(found.values())[:QUEUES]


async def _finish(store: Store, queue: str, jobs: int) -> None:
    """Complete jobs of a queue with ids that name all shards."""
    here = store.keys.shard_of_queue(queue).index
    elsewhere = [index for index in range(SHARDS) if index != here]
    for start in range(0, jobs, BATCH):
        new = [
            parse_job(
                f'{{"id":"019461a8-1a2b-7{elsewhere[number % len(elsewhere)]:03x}-8e4f-'
                f'{here:04x}{number:08x}","type":"bench.old","args":[],'
                f'"options":{{"queue":"{queue}"}}}}'.encode()
            )
            for number in range(start, min(start + BATCH, jobs))
        ]
        await enqueue_many(store, new)
        given = await fetch(store, [queue], count=len(new), worker_id="w")
        done = [acks.Ack(job.id, job.lease_id, None) for job in given]
        await acks.ack_many(store, done, worker_id="w")


def _let_time_pass(port: int, store: Store) -> None:
    with redis.Redis(port=port) as client:
        for shard in store.keys:
            client.delete(shard.alias_claims)
            for job_id in client.zrange(shard.finished, 0, -1):
                client.zadd(shard.finished, {job_id: 1})


if __name__ == "__main__":
    main()
