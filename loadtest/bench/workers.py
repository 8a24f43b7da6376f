"""Throughput of one worker process of ``ojs_client`` with handlers that do nothing.

    python -m loadtest.bench.workers [--jobs 4000] [--rounds 5] [--quick] [--before FOLDER]
        [--only 50]

One API process runs over one standalone server. In each round the jobs are enqueued, then a worker
process with one of the concurrencies runs them and ends. The clock starts with its first handler
and stops when the server has all acks, so starting Python does not count. Each job is acknowledged
after its handler. The rows ``enqueue`` are those of a process whose tasks enqueue one job after the
other. ``--before`` names the folder of another version, whose client runs in the same rounds.
``loadtest.peers`` compares with other libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table
from loadtest.bench._target import Target, start_api
from ojs_cluster.server.embedded.servers import Embedded, find_server

CONCURRENCIES = (1, 10, 50, 100)
PREFETCHES = (0, 4, 20)
LOOPS = ("asyncio", "trio")
_BATCH = 500


@dataclass
class Setting:
    """A worker process and its measurements, one value per round."""

    loop: str
    concurrency: int
    prefetch: int | None = None
    kind: str = "work"
    source: str = ""
    """The folder of the version whose client runs; empty for this one."""
    rates: list[float] = field(default_factory=list)
    worker_us: list[float] = field(default_factory=list)
    api_us: list[float] = field(default_factory=list)
    redis_us: list[float] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Its name in the table."""
        prefetch = "" if self.prefetch is None else f", prefetch {self.prefetch}"
        kind = ", enqueue" if self.kind == "enqueue" else ""
        before = ", before" if self.source else ""
        return f"{self.loop}, {self.concurrency}{prefetch}{kind}{before}"

    def forget(self) -> None:
        """Discard the measurements of the warm-up."""
        for values in (self.rates, self.worker_us, self.api_us, self.redis_us):
            values.clear()

    def row(self) -> list[str]:
        """Return its row of the table."""
        costs = (self.worker_us, self.api_us, self.redis_us)
        total = statistics.median(map(sum, zip(*costs, strict=True)))
        return [
            self.title,
            f"{statistics.median(self.rates):.0f}",
            f"{min(self.rates):.0f} to {max(self.rates):.0f}",
            *(f"{statistics.median(each):.0f}" for each in costs),
            f"{total:.0f}",
        ]


def enqueue(url: str, queue: str, jobs: int) -> None:
    """Enqueue the jobs in batches."""
    job = {"type": "bench.noop", "args": [], "options": {"queue": queue}}
    for done in range(0, jobs, _BATCH):
        body = json.dumps({"jobs": [job] * min(_BATCH, jobs - done)}).encode()
        request = urllib.request.Request(  # noqa: S310 - the server that this benchmark starts
            f"{url}/ojs/v1/jobs/batch", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - as above
            reply.read()


def measure(target: Target, setting: Setting, jobs: int) -> None:
    """Run all jobs of a round with one process."""
    url, queue = f"http://{target.host}:{target.port}", f"bench-{setting.kind}"
    if setting.kind == "work":
        enqueue(url, queue, jobs)
    prefetch = "auto" if setting.prefetch is None else str(setting.prefetch)
    module = "_noop_worker" if setting.kind == "work" else "_producer"
    command = [sys.executable, "-m", f"loadtest.bench.{module}", url, queue, str(jobs)]
    api, redis = cpu_s(target.api_pids), cpu_s(target.redis_pids)
    library = Path(setting.source or ".", "clients/python/src").resolve()
    done = subprocess.run(
        [*command, str(setting.concurrency), prefetch, setting.loop],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(library)},
    )
    found = json.loads(done.stdout)
    setting.rates.append(jobs / found["seconds"])
    setting.worker_us.append(found["cpu_s"] / jobs * 1e6)
    setting.api_us.append((cpu_s(target.api_pids) - api) / jobs * 1e6)
    setting.redis_us.append((cpu_s(target.redis_pids) - redis) / jobs * 1e6)


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=4000, help="per round, at concurrency 100")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer jobs and rounds")
    parser.add_argument("--before", help="the folder of a version to compare with")
    parser.add_argument("--only", type=int, help="only asyncio with this concurrency")
    options = parser.parse_args()
    if options.quick:
        options.jobs, options.rounds = 1000, 2
    binary = find_server(options.server)
    settings = [Setting(loop, count) for loop in LOOPS for count in CONCURRENCIES]
    settings += [Setting("asyncio", 1, prefetch) for prefetch in PREFETCHES]
    settings += [Setting("asyncio", count, kind="enqueue") for count in CONCURRENCIES]
    if options.only:
        chosen = ("asyncio", options.only)
        settings = [each for each in settings if (each.loop, each.concurrency) == chosen]
    if options.before:
        settings = [
            replace(each, source=source, rates=[], worker_us=[], api_us=[], redis_us=[])
            for each in settings
            for source in ("", options.before)
        ]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        embedded = stack.enter_context(
            Embedded(Path(folder), binary=binary, masters=1, cluster=False, append_only=False)
        )
        target = start_api(stack, embedded, "standalone")
        for number in range(options.rounds + 1):
            for setting in settings[:: 1 if number % 2 else -1]:
                jobs = options.jobs if setting.concurrency > 1 else options.jobs // 4
                measure(target, setting, jobs)
                if number == 0:
                    setting.forget()
    print_setting(binary, f"{options.jobs} jobs a round, medians of {options.rounds} rounds")
    heads = ["loop, concurrency", "jobs/s", "from, to", "worker, us/job", "API", "Redis", "sum"]
    print_table(heads, [setting.row() for setting in settings])


if __name__ == "__main__":
    main()
