"""The cost of a job's options: client ids, unique jobs, expiry, limits, and tenants.

    python -m loadtest.bench.options [--kinds plain unique ...] [--rounds 5] [--jobs 500] [--quick]

One API process runs over a cluster of three masters. A round goes through the kinds of jobs in
turn; for each it enqueues, fetches and acks ``--jobs`` jobs one by one. The tables have the
processor time of the API and of all masters per job, as a multiple of a plain job in the same run:

- *plain*: no options;
- *client id*: the client has chosen the id;
- *unique*: unique by its args, which no other job has;
- *expires*: expires in an hour;
- *rate key*, *concurrency key*: one of eight rate limit keys, none of which is exhausted;
- *tenant*: one of eight tenants;
- *mixed*: plain jobs behind one job with a rate limit key in the same queue;
- *... by ten*: ten jobs in each request, as a multiple of plain ones by ten; *one key* is a
  concurrency limit that all jobs share.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any

import trio

from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table, ratio
from loadtest.bench._target import Target, start
from loadtest.bench.many_queues import Connection, connect
from ojs_cluster.server.embedded.servers import find_server

KINDS = (
    *("plain", "client id", "unique", "expires"),
    *("rate key", "concurrency key", "tenant", "mixed"),
    *("plain by ten", "one key by ten", "concurrency key by ten", "rate key by ten"),
)
_BATCH = 10
VERBS = ("enqueue", "fetch", "ack")
_HOUR_S = 3600
Costs = dict[tuple[str, str, str], list[float]]
"""Microseconds for each round, by kind, verb and process ("API" or "Redis")."""


def uuid7() -> str:
    """Return a new UUIDv7."""
    text = f"{time.time_ns() // 1_000_000:012x}7{uuid.uuid4().hex[13:]}"
    return str(uuid.UUID(text))


def job_of(kind: str, number: int) -> dict[str, Any]:
    """Return the body of an enqueue."""
    args, options = ["x" * 100], dict[str, Any](queue=f"options-{kind.replace(' ', '-')}")
    kind = kind.removesuffix(" by ten")
    job: dict[str, Any] = {"type": "bench.options", "args": args, "options": options}
    if kind == "client id":
        job["id"] = uuid7()
    elif kind == "unique":
        job["args"] = [str(uuid.uuid4())]
        options["unique"] = {"keys": ["args"]}
    elif kind == "expires":
        at = time.gmtime(time.time() + _HOUR_S)
        options["expires_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", at)
    elif kind == "rate key" or (kind == "mixed" and number == 0):
        rate = {"limit": 1_000_000, "period": "PT1S"}
        options["rate_limit"] = {"key": f"rate-{number % 8}", "rate": rate}
    elif kind == "one key":
        options["rate_limit"] = {"key": "one", "concurrency": 1_000_000}
    elif kind == "concurrency key":
        options["rate_limit"] = {"key": f"concurrency-{number % 8}", "concurrency": 1_000_000}
    elif kind == "tenant":
        job["meta"] = {"tenant_id": f"tenant-{number % 8}"}
    return job


async def lifecycle(
    target: Target, connection: Connection, kind: str, jobs: int, costs: Costs
) -> None:
    """Enqueue, fetch and ack jobs of one kind, and note the cost of each verb."""
    size = _BATCH if kind.endswith(" by ten") else 1
    queue = job_of(kind, 0)["options"]["queue"]
    body = {"queues": [queue], "count": size, "worker_id": "options"}
    fetched: list[dict[str, Any]] = []

    async def send(path: str, requests: list[dict[str, Any]], member: str) -> None:
        for at in range(0, len(requests), size):
            if size == 1:
                answer = await connection.send(path, requests[at])
            else:
                answer = await connection.send(f"{path}/batch", {member: requests[at:][:size]})
            if "error" in answer:
                raise SystemExit(f"{kind}: {answer['error']['message']}")

    async def enqueue() -> None:
        await send("/ojs/v1/jobs", [job_of(kind, number) for number in range(jobs)], "jobs")

    async def fetch() -> None:
        while len(fetched) < jobs:
            fetched.extend((await connection.send("/ojs/v1/workers/fetch", body)).get("jobs", []))

    async def ack() -> None:
        ended = [{"job_id": job["id"], "lease_id": job["lease_id"]} for job in fetched]
        await send("/ojs/v1/workers/ack", ended, "acks")

    for verb, act in zip(VERBS, (enqueue, fetch, ack), strict=True):
        api, redis = cpu_s(target.api_pids), cpu_s(target.redis_pids)
        await act()
        costs[kind, verb, "API"].append((cpu_s(target.api_pids) - api) / jobs * 1e6)
        costs[kind, verb, "Redis"].append((cpu_s(target.redis_pids) - redis) / jobs * 1e6)


async def run(target: Target, options: argparse.Namespace) -> None:
    """Measure and print all rows."""
    costs: Costs = defaultdict(list)
    async with connect(target) as connection:
        for number in range(options.rounds + 1):
            for kind in options.kinds:
                await lifecycle(target, connection, kind, options.jobs, costs)
            if number == 0:  # that was to warm up
                costs.clear()
    if Connection.errors:
        raise SystemExit(f"{Connection.errors} responses were errors")

    def job(kind: str, process: str) -> list[float]:
        return [sum(of) for of in zip(*(costs[kind, verb, process] for verb in VERBS), strict=True)]

    def base_of(kind: str) -> str:
        plain = "plain by ten" if kind.endswith(" by ten") else "plain"
        return plain if plain in options.kinds else options.kinds[0]

    for process in ("Redis", "API"):
        rows = [
            [
                kind,
                f"{statistics.median(job(kind, process)):.0f}",
                ratio(job(kind, process), job(base_of(kind), process)),
                *(
                    ratio(costs[kind, verb, process], costs[base_of(kind), verb, process])
                    for verb in VERBS
                ),
            ]
            for kind in options.kinds
        ]
        print_table([process, "us per job", "to plain", *VERBS], rows)
        print()


def main() -> None:
    """Parse the command line and run on an embedded cluster of three masters."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=500, help="jobs of each kind in a round")
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.jobs = 2, 200
    binary = find_server(options.server)
    print_setting(binary, f"medians of {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        trio.run(run, start(stack, Path(folder), binary, "cluster", masters=3), options)


if __name__ == "__main__":
    main()
