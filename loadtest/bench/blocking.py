"""How long the longest run of each script keeps its node from everybody else.

    python -m loadtest.bench.blocking [--server redis-server] [--quick]

Redis serves nobody else while a script runs, and no script is to run for more than 10 ms with jobs
of the largest size that the default settings allow. Jobs of 1 MiB, and batches as large as they may
be, go through everything that happens to many jobs at once. Times are the server's own (SLOWLOG),
so they include what the machine did meanwhile: run it on a machine at rest.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import redis
import trio

from loadtest.bench._table import print_setting, print_table
from ojs_cluster.core.envelope import NewJob, parse_job
from ojs_cluster.core.failure import parse_failure
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded import Embedded, find_server
from ojs_cluster.store import queues, retention
from ojs_cluster.store.ack import Ack, ack_many
from ojs_cluster.store.context import Store, open_store
from ojs_cluster.store.enqueue import enqueue, enqueue_many
from ojs_cluster.store.fetch import fetch
from ojs_cluster.store.heartbeat import Beat, heartbeat
from ojs_cluster.store.nack import Nack, nack_many
from ojs_cluster.store.record import JobRecord
from ojs_cluster.store.ticks import promote, reap

BOUND_MS = 10.0
QUEUE = "blocking"
_MIB = 1024 * 1024


def job(size: int, **options: Any) -> NewJob:
    """A job with about ``size`` bytes of args."""
    members = b"".join(b',"%b":"%b"' % (k.encode(), str(v).encode()) for k, v in options.items())
    body = b'{"type":"bench.block","args":["%b"],"options":{"queue":"%b"%b}}'
    return parse_job(body % (b"x" * size, QUEUE.encode(), members))


async def take(store: Store, count: int) -> list[JobRecord]:
    """Fetch that many jobs."""
    found: list[JobRecord] = []
    while len(found) < count:
        got = await fetch(store, [QUEUE], count=count - len(found), worker_id="w")
        if not got:
            break
        found += got
    return found


async def life(store: Store, db: Any, size: int, count: int, batch: int) -> None:
    """All that happens to many jobs at once."""
    shard = store.keys.shard_of_queue(QUEUE)

    async def fill(**options: Any) -> None:
        for start in range(0, count, batch):
            part = [job(size, **options) for _ in range(min(batch, count - start))]
            await (enqueue_many(store, part) if len(part) > 1 else enqueue(store, part[0]))

    await fill()
    taken = await take(store, count)
    await heartbeat(store, Beat("w", tuple(one.id for one in taken)))
    half = len(taken) // 2
    failure = parse_failure(None)
    await ack_many(store, [Ack(one.id, None, b"1") for one in taken[:half]], worker_id="w")
    await nack_many(
        store, [Nack(one.id, None, failure, False) for one in taken[half:]], worker_id="w"
    )
    for member in db.zrange(shard.due, 0, -1):
        db.zadd(shard.due, {member: 1})
    while (await promote(store, shard, 500)).done:
        pass
    taken = await take(store, count)
    for one in taken:
        db.zadd(shard.active, {one.id: 1})
    while (await reap(store, shard, 100)).done:
        pass
    await queues.purge(store, QUEUE)
    for member in db.zrange(shard.finished, 0, -1):
        db.zadd(shard.finished, {member: 1})
    while (await retention.purge_due(store, shard, 200)).done:
        pass


async def run(url: str, quick: bool) -> None:
    """Run everything and print the table."""
    db = redis.Redis.from_url(url)
    db.config_set("slowlog-log-slower-than", 0)
    db.config_set("slowlog-max-len", 100_000)
    settings = ClientSettings.from_url(url, reply_timeout_s=60, call_timeout_s=120)
    async with open_store(settings) as store:
        await life(store, db, 200, 10, 10)  # scripts are compiled
        db.slowlog_reset()
        await life(store, db, 200, 200 if quick else 1000, 1000)
        await life(store, db, _MIB - 4096, 20 if quick else 100, 1)
        names = {script.sha: name for name, script in store.scripts.items()}
        longest: defaultdict[str, float] = defaultdict(float)
        for entry in db.slowlog_get(100_000):
            words = entry["command"].split()
            name = names.get(words[1]) if words[0].upper() == b"EVALSHA" else None
            if name is not None:
                longest[name] = max(longest[name], entry["duration"] / 1000)
    rows = [
        [name, f"{ms:.2f}", f"{ms / BOUND_MS:.2f}"]
        for name, ms in sorted(longest.items(), key=lambda item: -item[1])
    ]
    print_table(["script", "longest run, ms", f"of {BOUND_MS:.0f} ms"], rows)


def main() -> None:
    """Parse the command line and run on one embedded server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    parser.add_argument("--quick", action="store_true", help="fewer jobs")
    options = parser.parse_args()
    binary = find_server(options.server)
    print_setting(binary, "the longest run of each script; jobs of 200 bytes and of 1 MiB")
    with (
        tempfile.TemporaryDirectory() as folder,
        Embedded(
            Path(folder) / "s", masters=1, cluster=False, binary=binary, append_only=False
        ) as server,
    ):
        trio.run(run, server.url, options.quick)


if __name__ == "__main__":
    main()
