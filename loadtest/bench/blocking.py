"""For how long the longest run of each script blocks its node.

    python -m loadtest.bench.blocking [--server redis-server]

Redis serves no other client while a script runs. No script may run for more than 10 ms on data that
the default settings allow. All scripts run on jobs of the largest size and on the largest inputs,
the same for which ``tests/store/scripts/test_largest_jobs.py`` bounds the commands and bytes.

Times are the processor time of the server's main thread from one command to the next, so other load
on the machine has little effect. They include reading the command and writing the reply, minus the
time of an empty command.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import redis
import trio

from loadtest.bench._table import print_setting, print_table
from ojs_cluster.redis.client import Client
from ojs_cluster.server.embedded.servers import Embedded, find_server
from ojs_cluster.store.ground.scripts import load_scripts
from ojs_cluster.store.open import open_store
from tests.store.largest_inputs import INPUTS
from tests.store.scripts.test_one_tag import one_life_of_everything
from tests.support.largest import LargestJobs
from tests.support.patience import be_patient, patient_client

BOUND_MS = 10.0


class Stopwatch:
    """Measures the processor time of one server's scripts, one at a time."""

    def __init__(self, db: redis.Redis) -> None:
        self._db = db
        empty = sorted(self._elapsed_ms(self._now_ms()) for _ in range(50))
        self._empty_ms = empty[len(empty) // 2]
        self.longest: defaultdict[str, float] = defaultdict(float)
        """Per script, the longest run in milliseconds."""
        self.runs: Counter[str] = Counter()

    async def take(self, run: Callable[[], Awaitable[Any]], name: str) -> Any:
        """Run a script and record its time."""
        began_ms = self._now_ms()
        try:
            return await run()
        finally:
            took_ms = max(0.0, self._elapsed_ms(began_ms) - self._empty_ms)
            self.longest[name] = max(self.longest[name], took_ms)
            self.runs[name] += 1

    def _now_ms(self) -> float:
        cpu = cast(dict[str, float], self._db.info("cpu"))
        return 1000 * (cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"])

    def _elapsed_ms(self, since_ms: float) -> float:
        return self._now_ms() - since_ms


async def measure(url: str, server: Embedded) -> Stopwatch:
    """Run every script on its largest inputs.

    Raises:
        AssertionError: a script did not run.
    """
    db = redis.Redis.from_url(url)
    stopwatch = Stopwatch(db)
    settings = patient_client(server)
    for script in load_scripts().values():
        db.script_load(script.source)  # to compile it is no part of its first run
    for inputs in (one_life_of_everything, *INPUTS):
        db.flushall()
        async with open_store(settings) as store:
            grows = inputs is one_life_of_everything
            client = LargestJobs(store.redis, db, grows=grows, around=stopwatch.take)
            await inputs(replace(store, redis=cast(Client, client)), db)
    assert stopwatch.runs.keys() == set(load_scripts())
    return stopwatch


def run(server: Embedded) -> None:
    """Run everything and print the table."""
    with pytest.MonkeyPatch.context() as patch:
        be_patient(patch)
        stopwatch = trio.run(measure, server.url, server)
    rows = [
        [name, str(stopwatch.runs[name]), f"{ms:.2f}", f"{ms / BOUND_MS:.2f}"]
        for name, ms in sorted(stopwatch.longest.items(), key=lambda item: -item[1])
    ]
    print_table(["script", "runs", "longest, ms", f"of {BOUND_MS:.0f} ms"], rows)


def main() -> None:
    """Parse the command line and run on one embedded server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    options = parser.parse_args()
    binary = find_server(options.server)
    print_setting(binary, "the longest run of each script on the largest inputs")
    with (
        tempfile.TemporaryDirectory() as folder,
        Embedded(
            Path(folder) / "s", masters=1, cluster=False, binary=binary, append_only=False
        ) as server,
    ):
        run(server)


if __name__ == "__main__":
    main()
