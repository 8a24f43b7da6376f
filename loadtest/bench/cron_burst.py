"""How late is the last of many cron jobs that are due at the same moment?

    python -m loadtest.bench.cron_burst [--jobs 10000] [--quick]

An embedded cluster of three masters. All cron jobs have one schedule, which is due at the begin of
a minute. One process fires them as the loop of the scheduler does. Printed are the time from that
moment until the last job is stored, and the processor time of the process and of all masters per
occurrence: in µs, and as ratios to the same jobs, enqueued one by one by the same process. The last
rows divide the time of an occurrence by the steps of the loop, which follow each other.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Awaitable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from loadtest.bench._processes import cpu_s
from ojs_cluster.core.cron.cron_job import parse_cron
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded, find_server
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.features.cron.cron import register
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import fire_due
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.open import open_store
from ojs_scheduler.settings import SchedulerSettings

QUEUES = 32
MARGIN_S = 5
STEPS = {
    "due": "read",
    "claim_each": "claim",
    "enqueue_each": "enqueue",
    "record_delivered": "record",
}
"""The steps that use Redis, by the methods of ``CronStore``."""


class MeasuredSteps:
    """A ``CronStore`` that notes the processor time of its methods.

    Attributes:
        used: processor time of this process and of the masters, in seconds, by step.
    """

    def __init__(self, cron_store: RedisCronStore, masters: list[int]) -> None:
        self._cron_store = cron_store
        self._masters = masters
        self.used = {step: [0.0, 0.0] for step in STEPS.values()}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._cron_store, name)
        if name not in STEPS:
            return method

        async def measured(*args: Any) -> Any:
            return await self._note(STEPS[name], method(*args))

        return measured

    async def _note(self, step: str, call: Awaitable[Any]) -> Any:
        before = cpu_s([os.getpid()]), cpu_s(self._masters)
        result = await call
        now = cpu_s([os.getpid()]), cpu_s(self._masters)
        for at in (0, 1):
            self.used[step][at] += now[at] - before[at]
        return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    parser.add_argument("--quick", action="store_true", help="500 cron jobs")
    options = parser.parse_args()
    number = 500 if options.quick else options.jobs
    binary = find_server(options.server)
    print(f"{binary.kind} {binary.version}, 3 masters, {number} cron jobs due at one moment")
    with TemporaryDirectory() as folder, Embedded(Path(folder), binary=binary) as embedded:
        trio.run(measure, embedded, number)


async def measure(embedded: Embedded, number: int) -> None:
    """Register, wait for the moment, fire; then enqueue the same jobs one by one."""
    masters = [node.pid for node in embedded.nodes if node.pid is not None]
    async with open_store(ClientSettings.from_url(embedded.url)) as store:
        due_s = await register_all(store, number)
        await trio.sleep(due_s - store.clock.now_s())
        before, began = (cpu_s([os.getpid()]), cpu_s(masters)), time.perf_counter()
        batch = SchedulerSettings().cron_batch
        cron_store: Any = MeasuredSteps(RedisCronStore(store), masters)
        done = 0
        while done < number:
            done += (await fire_due(cron_store, batch)).done
        late_s = time.perf_counter() - began
        fired = _per_job(before, masters, number)

        jobs = [
            parse_job(b'{"type":"plain","args":[],"options":{"queue":"plain-%d"}}' % (n % QUEUES))
            for n in range(number)
        ]
        before = cpu_s([os.getpid()]), cpu_s(masters)
        for start in range(0, number, batch):

            async def one(index: int) -> None:
                await enqueue(store, jobs[index])

            await run_concurrently(range(start, min(start + batch, number)), one)
        plain = _per_job(before, masters, number)
    print(f"the last one is {late_s:.2f} s late")
    print(f"{'µs per job':12} {'process':>8} {'masters':>8}")
    for name, row in (("fired", fired), ("enqueued", plain)):
        print(f"{name:12} {row[0]:8.0f} {row[1]:8.0f}")
    print(f"{'ratio':12} {fired[0] / plain[0]:8.1f} {fired[1] / plain[1]:8.1f}")
    steps = {step: [used * 1e6 / number for used in of] for step, of in cron_store.used.items()}
    steps["decide"] = [fired[at] - sum(of[at] for of in steps.values()) for at in (0, 1)]
    for step, of in steps.items():
        print(f"{step:12} {of[0]:8.0f} {of[1]:8.0f}")


async def register_all(store: Store, number: int) -> float:
    """Register the cron jobs; return the Unix time in seconds at which all are due."""
    estimate_s = MARGIN_S + number / 500
    minute = int(store.clock.now_s() + estimate_s) // 60 + 1
    expression = f"{minute % 60} * * * *"

    async def one(index: int) -> None:
        body = (
            f'{{"name":"burst-{index}","expression":"{expression}","type":"burst","args":[],'
            f'"options":{{"queue":"burst-{index % QUEUES}"}}}}'
        )
        await register(store, parse_cron(body.encode()))

    for start in range(0, number, 64):
        await run_concurrently(range(start, min(start + 64, number)), one)
    if store.clock.now_s() > minute * 60:
        raise SystemExit("the registration took too long: use fewer cron jobs")
    return minute * 60.0


def _per_job(before: tuple[float, float], masters: list[int], number: int) -> tuple[float, float]:
    """Return the processor time of this process and of the masters since then, in µs per job."""
    now = cpu_s([os.getpid()]), cpu_s(masters)
    return (now[0] - before[0]) * 1e6 / number, (now[1] - before[1]) * 1e6 / number


if __name__ == "__main__":
    main()
