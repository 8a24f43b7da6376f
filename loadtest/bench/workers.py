"""Throughput of one worker process of ``ojs_client`` with handlers that do nothing.

    python -m loadtest.bench.workers [--jobs 4000] [--rounds 5] [--quick]

One API process runs over one standalone server. In each round the jobs are enqueued, then a worker
process with one of the concurrencies runs them and ends. The clock starts with its first handler
and stops when the server has all acks, so starting Python does not count. Each job is acknowledged
after its handler.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table
from loadtest.bench._target import Target, start
from ojs_cluster.server.embedded.servers import find_server

CONCURRENCIES = (1, 10, 100)
LOOPS = ("asyncio", "trio")
_BATCH = 500


@dataclass
class Setting:
    """A worker process and its measurements, one value per round."""

    loop: str
    concurrency: int
    rates: list[float] = field(default_factory=list)
    worker_us: list[float] = field(default_factory=list)
    api_us: list[float] = field(default_factory=list)

    def forget(self) -> None:
        """Discard the measurements of the warm-up."""
        for values in (self.rates, self.worker_us, self.api_us):
            values.clear()

    def row(self) -> list[str]:
        """Return its row of the table."""
        return [
            f"{self.loop}, {self.concurrency}",
            f"{statistics.median(self.rates):.0f}",
            f"{min(self.rates):.0f} to {max(self.rates):.0f}",
            f"{statistics.median(self.worker_us):.0f}",
            f"{statistics.median(self.api_us):.0f}",
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
    """Run all jobs of a round with one worker process."""
    url, queue = f"http://{target.host}:{target.port}", "bench-workers"
    enqueue(url, queue, jobs)
    command = [sys.executable, "-m", "loadtest.bench._noop_worker", url, queue, str(jobs)]
    api = cpu_s(target.api_pids)
    done = subprocess.run(
        [*command, str(setting.concurrency), setting.loop], stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout)
    setting.rates.append(jobs / found["seconds"])
    setting.worker_us.append(found["cpu_s"] / jobs * 1e6)
    setting.api_us.append((cpu_s(target.api_pids) - api) / jobs * 1e6)


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=4000, help="per round, at concurrency 100")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer jobs and rounds")
    options = parser.parse_args()
    if options.quick:
        options.jobs, options.rounds = 1000, 2
    binary = find_server(options.server)
    settings = [Setting(loop, count) for loop in LOOPS for count in CONCURRENCIES]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        target = start(stack, Path(folder), binary, "standalone")
        for number in range(options.rounds + 1):
            for setting in settings[:: 1 if number % 2 else -1]:
                jobs = options.jobs if setting.concurrency > 1 else options.jobs // 4
                measure(target, setting, jobs)
                if number == 0:
                    setting.forget()
    print_setting(binary, f"{options.jobs} jobs a round, medians of {options.rounds} rounds")
    heads = ["loop, concurrency", "jobs/s", "from, to", "worker, us/job", "API, us/job"]
    print_table(heads, [setting.row() for setting in settings])


if __name__ == "__main__":
    main()
