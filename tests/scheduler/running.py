"""Scheduler processes of a test, and the test's own reads of jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import META
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs.read_jobs import get
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store
from tests.support.patience import LONG_S

POLL_S = 0.01
LEASES = 65
"""Of 64 shards and the meta tag."""


@dataclass(eq=False, slots=True)
class SchedulerProcess:
    """One process of tests/scheduler/process.py.

    :ivar line: what it printed last, '' before that and when it was killed.
    :ivar at: when the line came, on trio's clock.
    """

    process: trio.Process
    line: str = ""
    at: float = 0.0
    history: list[str] = field(default_factory=list)

    @property
    def leads(self) -> bool:
        """Return whether it leads all shards."""
        return self.line.startswith("leading")

    @property
    def held(self) -> dict[int, int]:
        """The shards that it leads, with its fencing tokens."""
        tokens = json.loads(self.line.partition(" ")[2] or "{}")
        return {int(shard): token for shard, token in tokens.items()}

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.line = ""

    async def read(self) -> None:
        """Follow its output until it ends."""
        assert self.process.stdout is not None
        rest = b""
        async for piece in self.process.stdout:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self.line, self.at = line.decode(), trio.current_time()
                self.history.append(self.line)


@asynccontextmanager
async def schedulers(
    url: str, count: int, **settings: int | str
) -> AsyncIterator[list[SchedulerProcess]]:
    """Run `count` schedulers of one group; those still alive are killed in the end.

    Settings are SchedulerSettings' fields; with the prefix `store_`, StoreSettings'.
    """
    pairs = [f"{name.replace('store_', 'store.', 1)}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "tests.scheduler.process", url, *pairs]
    running: list[SchedulerProcess] = []
    async with trio.open_nursery() as nursery:
        try:
            for _ in range(count):
                start = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
                process: trio.Process = await nursery.start(start)
                one = SchedulerProcess(process)
                running.append(one)
                nursery.start_soon(one.read)
            yield running
        finally:
            # A cancelled `run_process` warns if a process needs more than 5 s for its end.
            for one in running:
                one.process.kill()


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], *, within_s: float = 60.0, what: str = ""
) -> float:
    """Poll until the condition holds; return when it did, on trio's clock."""
    with trio.move_on_after(within_s):
        while True:
            result = condition()
            if result if isinstance(result, bool) else await result:
                return trio.current_time()
            await trio.sleep(POLL_S)
    raise AssertionError(f"not reached in {within_s} s: {what}")


async def leader_of(running: list[SchedulerProcess], *, within_s: float = 60.0) -> SchedulerProcess:
    """Wait until every shard is led, and return who leads cron."""
    await eventually(
        lambda: sum(len(one.held) for one in running) == LEASES,
        within_s=within_s,
        what="all shards are led",
    )
    return next(one for one in running if META in one.held)


async def shared(running: list[SchedulerProcess], *, within_s: float = 60.0) -> None:
    """Wait until all shards are led, each by the process that is preferred for it.

    That is number (shard modulo how many there are), so each leads as many as any other, but for
    one.
    """

    def balanced() -> bool:
        shares = [{shard % LEASES % len(running) for shard in one.held} for one in running]
        led = sum(len(one.held) for one in running)
        return led == LEASES and all(len(share) == 1 for share in shares)

    await eventually(balanced, within_s=within_s, what="the shards are shared")


@asynccontextmanager
async def store_at(
    url: str, settings: StoreSettings | None = None, *, call_timeout_s: float = LONG_S
) -> AsyncIterator[Store]:
    """Open the store for the test's own use."""
    times = {"reply_timeout_s": call_timeout_s, "call_timeout_s": call_timeout_s}
    async with open_store(ClientSettings.from_url(url, **times), settings) as store:
        yield store


async def put(store: Store, count: int, queue: str = "q", **options: object) -> list[str]:
    """Enqueue ``count`` jobs with these options; return their ids."""
    pairs = "".join(f',"{name}":{_json(value)}' for name, value in options.items())
    new = [
        parse_job(
            f'{{"type":"test.job","args":[{i}],"options":{{"queue":"{queue}"{pairs}}}}}'.encode()
        )
        for i in range(count)
    ]
    return [job.id for job in await enqueue_many(store, new)]


def _json(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else f'"{value}"'


async def state_of(store: Store, job_id: str) -> State:
    """Read a job, which changes nothing."""
    return (await get(store, job_id)).state


async def all_in(store: Store, job_ids: list[str], state: State) -> bool:
    """Return whether all jobs are in this state."""
    for job_id in job_ids:
        if await state_of(store, job_id) is not state:
            return False
    return True


async def redis_ms(store: Store) -> int:
    """Time of some node, in ms; all nodes of a test run on one machine."""
    reply = await store.redis.call(0, "TIME")
    assert isinstance(reply, list)
    seconds, micros = (int(part) for part in reply if isinstance(part, bytes))
    return seconds * 1000 + micros // 1000
