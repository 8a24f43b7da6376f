"""What batches save: jobs per second with 100 jobs in a request, against one.

    python -m loadtest.bench.batch [--jobs 4000] [--rounds 5] [--quick]

One API process runs over one standalone server. In each round the same number of jobs is enqueued,
then all are fetched, then all acknowledged, one by one and by 100. This is done twice: by one
worker on one connection that waits for each response, and by enough connections to keep the server
busy (16 for single jobs, 4 for 100). The variants alternate. Requests are created before the clock
starts and responses parsed after it stops, so that the load generator counts little. Processor time
per job of the API process and of Redis is read from /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.bench._load import END, Script, check, drive
from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table, ratio
from loadtest.bench._target import Target, start
from ojs_cluster.server.embedded.servers import find_server

VERBS = ("enqueue", "fetch", "ack")
QUEUE = "bench-batch"
JOB = {"type": "bench.batch", "args": ["x" * 100], "options": {"queue": QUEUE}}
LONG_S = 600.0


@dataclass
class Way:
    """One or many jobs per request on some connections; results per verb, one value per round."""

    size: int
    connections: int
    rates: dict[str, list[float]] = field(default_factory=dict)
    api_us: dict[str, list[float]] = field(default_factory=dict)
    redis_us: dict[str, list[float]] = field(default_factory=dict)

    def forget(self) -> None:
        """Discard the measurements of the warm-up."""
        self.rates, self.api_us, self.redis_us = {}, {}, {}


def post(path: str, body: object) -> bytes:
    """Return a request as the SDKs send it."""
    raw = json.dumps(body).encode()
    key = os.environ.get("OJS_API_KEY")
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    return f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


def enqueue(size: int, times: int) -> Script:
    """Enqueue jobs."""
    request = post("/ojs/v1/jobs", JOB)
    if size > 1:
        request = post("/ojs/v1/jobs/batch", {"jobs": [JOB] * size})
    for _ in range(times):
        check(request, (yield request), b" 201 ")


def fetch(size: int, times: int, into: list[bytes]) -> Script:
    """Fetch jobs and keep the responses."""
    request = post(
        "/ojs/v1/workers/fetch", {"queues": [QUEUE], "count": size, "worker_id": "bench"}
    )
    for _ in range(times):
        response = yield request
        check(request, response, b" 200 ")
        into.append(response)


def leases(answers: list[bytes]) -> list[dict[str, str]]:
    """Return ids and leases of the fetched jobs."""
    return [
        {"job_id": job["id"], "lease_id": job["lease_id"]}
        for answer in answers
        for job in json.loads(answer[answer.index(END) + 4 :])["jobs"]
    ]


def acks(size: int, jobs: list[dict[str, str]]) -> list[bytes]:
    """Return the requests that acknowledge these jobs."""
    if size == 1:
        return [post("/ojs/v1/workers/ack", {**job, "worker_id": "bench"}) for job in jobs]
    return [
        post("/ojs/v1/workers/ack/batch", {"worker_id": "bench", "acks": jobs[at : at + size]})
        for at in range(0, len(jobs), size)
    ]


def send(requests: list[bytes]) -> Script:
    """Send the prepared requests."""
    for request in requests:
        check(request, (yield request), b" 200 ")


def one_round(target: Target, way: Way, jobs: int) -> None:
    """Run the whole lifecycle of the jobs, phase by phase."""
    times = jobs // (way.size * way.connections)
    total = times * way.size * way.connections
    answers: list[bytes] = []

    def phase(verb: str, make: Callable[[int], Script]) -> None:
        api, redis = cpu_s(target.api_pids), cpu_s(target.redis_pids)
        began = time.perf_counter()
        scripts = [make(number) for number in range(way.connections)]
        drive(target.host, target.port, scripts, LONG_S)
        spent = time.perf_counter() - began
        way.rates.setdefault(verb, []).append(total / spent)
        for store, before, pids in (
            (way.api_us, api, target.api_pids),
            (way.redis_us, redis, target.redis_pids),
        ):
            store.setdefault(verb, []).append((cpu_s(pids) - before) / total * 1e6)

    phase("enqueue", lambda _: enqueue(way.size, times))
    phase("fetch", lambda _: fetch(way.size, times, answers))
    held = leases(answers)
    if len(held) != total:
        raise SystemExit(f"fetched {len(held)} jobs of {total}")
    requests = [
        acks(way.size, held[number :: way.connections]) for number in range(way.connections)
    ]
    phase("ack", lambda number: send(requests[number]))


def rows(single: Way, many: Way) -> list[list[str]]:
    """Return a row per verb, and one for the whole lifecycle."""
    lines = [
        [
            verb,
            f"{statistics.median(single.rates[verb]):.0f}",
            f"{statistics.median(many.rates[verb]):.0f}",
            ratio(many.rates[verb], single.rates[verb]),
            ratio(single.api_us[verb], many.api_us[verb]),
            ratio(single.redis_us[verb], many.redis_us[verb]),
        ]
        for verb in VERBS
    ]
    whole = [
        [1 / sum(1 / way.rates[v][i] for v in VERBS) for i in range(len(way.rates["ack"]))]
        for way in (single, many)
    ]
    costs = [
        ratio(*([sum(c) for c in zip(*(of[v] for v in VERBS), strict=True)] for of in pair))
        for pair in ((single.api_us, many.api_us), (single.redis_us, many.redis_us))
    ]
    rates = [f"{statistics.median(values):.0f}" for values in whole]
    return [*lines, ["all three", *rates, ratio(whole[1], whole[0]), *costs]]


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=4000, help="per round; a multiple of 400")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer jobs and rounds")
    options = parser.parse_args()
    if options.quick:
        options.jobs, options.rounds = 2000, 3
    binary = find_server(options.server)
    pairs = [
        ("one worker", Way(1, 1), Way(100, 1)),
        ("the server full", Way(1, 16), Way(100, 4)),
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        target = start(stack, Path(folder), binary, "standalone")
        for number in range(options.rounds + 1):
            for _, *ways in pairs:
                for way in ways:
                    one_round(target, way, options.jobs)
                    if number == 0:
                        way.forget()
    print_setting(binary, f"{options.jobs} jobs a round, medians of {options.rounds} rounds")
    for name, single, many in pairs:
        heads = [
            name,
            "one by one, jobs/s",
            "by 100, jobs/s",
            "times",
            "API cost /",
            "Redis cost /",
        ]
        print_table(heads, rows(single, many))
        print()


if __name__ == "__main__":
    main()
