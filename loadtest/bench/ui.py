"""How long each page of the dashboard takes, and what viewers cost, on a server with many jobs.

    python -m loadtest.bench.ui [--jobs 1000000] [--queues 10000] [--rounds 40] [--quick] [--prefer]

A cluster of three masters is filled with jobs over many queues, a hundredth of the jobs as dead
letters, and a thousandth as many workers, with as many worker pools and tenants with limits as
there may be. One API process serves the dashboard. Each round requests every page once. Between two
rounds all shared replies expire, so each round computes them again, but the sums over more than
2000 queues, which are read in the background every few seconds. The table has the times of the
responses in milliseconds, and the mean processor time of the API process and of Redis, which other
programs on the machine change less. Then viewers refresh the overview every five seconds, as open
pages do. The last lines have the processor time as a share of one core, with the viewers and
without them, that of one refresh, and the longest command in the SLOWLOG, which includes the time
for which other programs have interrupted it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from loadtest.bench._jobs import CHUNK, fill, new_job
from loadtest.bench._processes import children_of, cpu_s, free_port, prefer, running
from loadtest.bench._table import print_setting, print_table, quantile
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.pools.pool import MAX_POOL_QUEUES, new_pool
from ojs_cluster.core.tenants.settings import TenantLimits, TenantSettings
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded, find_server
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs.nack import nack
from ojs_cluster.store.features.tenants.changes import change
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground.process_state.pools import MAX_POOLS, set_pool
from ojs_cluster.store.ground.process_state.tenants import MAX_TENANTS
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store

VIEWERS = 50
REFRESH_S = 5.0
REFRESHES = 500
EXPIRED_S = 2.5
"""Time in seconds after which no shared reply of an earlier round is used."""
DEAD = b',"retry":{"max_attempts":1,"on_exhaustion":"dead_letter"}'
KINDS = ("TimeoutError", "ConnectionError", "ValueError", "KeyError", "CardDeclined")


def pages(job_id: str) -> dict[str, str]:
    """Return the addresses of the pages by their names."""
    return {
        "overview": "",
        "queues": "queues",
        "queues, second page": "queues?page=2",
        "queue": "queues/queue-1",
        "jobs, available": "jobs",
        "jobs, discarded": "jobs?state=discarded",
        "jobs, search that finds": "jobs?query=type:bench.*",
        "jobs, search for nothing": "jobs?query=type:none",
        "job": f"jobs/{job_id}",
        "errors": "errors",
        "dead letters": "dead",
        "workers": "workers",
        "worker": "workers/worker-1",
        "types": "types",
        "types, three days": "types?range=72h",
        "worker pools": "pools",
        "tenants": "tenants",
        "cron": "cron",
        "workflows": "workflows",
        "bulk operations": "bulk",
        "cluster": "cluster",
    }


async def prepare(url: str, jobs: int, queues: int) -> str:
    """Fill the server; return the id of a job."""
    settings = StoreSettings(dead_letter_max=10_000_000)
    async with open_store(ClientSettings.from_url(url), settings) as store:
        names = [f"queue-{number}" for number in range(queues)]
        for start in range(0, queues, CHUNK):
            await enqueue_many(store, [new_job(name) for name in names[start : start + CHUNK]])
        # A tenth of the queues has nearly all jobs, as it is in practice.
        busy = names[: max(1, queues // 10)]
        for name in busy:
            await fill(store, name, (jobs - queues) // len(busy))
        await _dead_letters(store, jobs // 100)
        for number in range(jobs // 1000):
            beat = Heartbeat(worker_id=f"worker-{number}", job_ids=(), state="running")
            await heartbeat(store, beat)
        await _pools_and_tenants(store, names)
        (job,) = await enqueue_many(store, [new_job(names[0])])
        return job.id


async def _pools_and_tenants(store: Store, queues: Sequence[str]) -> None:
    """Create the largest number of pools, each with the largest number of queues, and tenants."""
    for number in range(MAX_POOLS):
        pool = new_pool(f"pool-{number}", "weighted", queues[:MAX_POOL_QUEUES], {})
        await set_pool(store, pool, lambda _old: None)
    for number in range(MAX_TENANTS):
        tenant = f"tenant-{number}"
        settings = TenantSettings(tenant_id=tenant, limits=TenantLimits(max_queue_depth=1000))
        await change(store, tenant, lambda _old: settings)  # noqa: B023 - it is called at once


async def _dead_letters(store: Store, count: int) -> None:
    await fill(store, "failing", count, more=DEAD)
    failed = 0
    while failed < count:
        taken = await fetch(store, ["failing"], count=500, worker_id="worker-0")
        assert taken, "the queue has fewer jobs than were enqueued"
        for job in taken:
            error = b'{"type":"%b","message":"no answer"}' % KINDS[failed % len(KINDS)].encode()
            failure = parse_failure(error)
            await nack(store, job.id, worker_id="worker-0", lease_id=job.lease_id, failure=failure)
            failed += 1


def request(connection: http.client.HTTPConnection, path: str) -> float:
    """Request a page; return how long the response took, in milliseconds."""
    began = time.monotonic()
    _read(connection, path, {})
    return (time.monotonic() - began) * 1000


def refresh(connection: http.client.HTTPConnection, etag: str) -> str:
    """Refresh the overview as an open page does; return the ETag for the next refresh."""
    known = {"If-None-Match": etag} if etag else {}
    return _read(connection, "", {"HX-Request": "true", **known})


def _read(connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]) -> str:
    connection.request("GET", f"/ui/{path}", headers=headers)
    response = connection.getresponse()
    body = response.read()
    if response.status not in (200, 304):
        raise SystemExit(f"/ui/{path}: {response.status} {body[:500]!r}")
    return response.getheader("ETag", "")


def measure_pages(
    connection: http.client.HTTPConnection,
    job_id: str,
    rounds: int,
    api: Sequence[int],
    redis_pids: Sequence[int],
) -> None:
    """Print the times of all pages."""
    times: dict[str, list[float]] = {name: [] for name in pages(job_id)}
    used: dict[str, list[float]] = {name: [0.0, 0.0] for name in times}
    for number in range(rounds + 1):
        time.sleep(EXPIRED_S)
        for name, path in pages(job_id).items():
            before = cpu_s(api), cpu_s(redis_pids)
            took_ms = request(connection, path)
            if number:  # the first round is to warm up
                times[name].append(took_ms)
                used[name][0] += cpu_s(api) - before[0]
                used[name][1] += cpu_s(redis_pids) - before[1]
    rows = [
        [
            name,
            f"{statistics.median(found):.1f}",
            f"{quantile(found, 0.95):.1f}",
            *(f"{seconds / rounds * 1000:.1f}" for seconds in used[name]),
        ]
        for name, found in times.items()
    ]
    print_table(["page", "p50, ms", "p95, ms", "CPU of API, ms", "CPU of Redis, ms"], rows)


def measure_viewers(
    connection: http.client.HTTPConnection,
    api: Sequence[int],
    redis_pids: Sequence[int],
    seconds: float,
) -> None:
    """Print what viewers cost that refresh the overview."""
    etags = [""] * VIEWERS
    for _ in range(3):
        refresh(connection, "")
    before, began = (cpu_s(api), cpu_s(redis_pids)), time.monotonic()
    requests = 0
    while (now := time.monotonic()) < began + seconds:
        due = began + requests * REFRESH_S / VIEWERS
        time.sleep(max(0.0, due - now))
        viewer = requests % VIEWERS
        etags[viewer] = refresh(connection, etags[viewer])
        requests += 1
    took = time.monotonic() - began
    shares = (cpu_s(api) - before[0]) / took, (cpu_s(redis_pids) - before[1]) / took
    print(f"\n{VIEWERS} viewers, {requests / took:.1f} refreshes of the overview per second:")
    print(f"API process {shares[0]:.2%} of a core, Redis {shares[1]:.2%} of a core")
    before_s = cpu_s(api)
    for viewer in range(REFRESHES):
        refresh(connection, etags[viewer % VIEWERS])
    used_s = (cpu_s(api) - before_s) / REFRESHES
    print(f"a refresh, requests one after the other: {used_s * 1e6:.0f} µs of the API process")
    time.sleep(REFRESH_S)  # the last reads of the viewers end
    before, began = (cpu_s(api), cpu_s(redis_pids)), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    shares = (cpu_s(api) - before[0]) / took, (cpu_s(redis_pids) - before[1]) / took
    print(f"without viewers {shares[0]:.2%} and {shares[1]:.2%} of a core")


def longest_ms(servers: Embedded) -> float:
    """Return the longest duration in the SLOWLOG of all servers, in milliseconds."""
    found: list[float] = [0.0]
    for node in servers.nodes:
        with node.client() as client:
            found += [entry["duration"] / 1000 for entry in client.slowlog_get(128)]
    return max(found)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--queues", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30, help="of the viewers")
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    parser.add_argument(
        "--prefer", action="store_true", help="give the measured processes most of the machine"
    )
    parser.add_argument("--quick", action="store_true", help="10 000 jobs, fewer rounds")
    options = parser.parse_args()
    if options.quick:
        options.jobs, options.queues, options.rounds, options.seconds = 10_000, 100, 3, 5.0
    binary = find_server(options.server)
    sizes = (
        f"{options.jobs:,} jobs, {options.queues:,} queues, {options.jobs // 100:,} dead letters"
    )
    print_setting(binary, f"{sizes}, {options.jobs // 1000:,} workers; {options.rounds} rounds")
    with (
        tempfile.TemporaryDirectory() as folder,
        Embedded(Path(folder), masters=3, binary=binary, append_only=False) as cluster,
    ):
        job_id = trio.run(prepare, cluster.url, options.jobs, options.queues)
        for node in cluster.nodes:
            with node.client() as client:
                client.config_set("slowlog-log-slower-than", 1000)
                client.slowlog_reset()
        port = free_port()
        env = {"REDIS_URL": cluster.url, "OJS_PORT": str(port), "OJS_WORKERS": "1"}
        env |= {"OJS_UI": "full", "OJS_ALLOW_INSECURE_NO_AUTH": "true", "OJS_HOST": "127.0.0.1"}
        with running(["-m", "ojs_cluster.cli", "serve"], port, {**os.environ, **env}) as pid:
            api, servers = [pid, *children_of(pid)], [node.pid for node in cluster.nodes]
            if options.prefer:
                prefer([os.getpid(), *api, *servers])
            browser = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            with contextlib.closing(browser):
                measure_pages(browser, job_id, options.rounds, api, servers)
                measure_viewers(browser, api, servers, options.seconds)
            print(f"longest command: {longest_ms(cluster):.1f} ms")


if __name__ == "__main__":
    main()
