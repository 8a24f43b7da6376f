"""One server with demo data for all tests of a process that only read it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.statistics.records import GROWING, MINUTES, TOTALS
from ojs_cluster.store.features.statistics.type_hours import KEPT_HOURS
from ojs_cluster.store.ground.process_state.job_counts import TIMES, WIDTH
from ojs_cluster.ui.settings import UiSettings
from tests.support.patience import be_patient
from tests.support.servers import own_server
from tests.ui.dashboard import Running, dashboard
from tests.ui.demo import Demo

FULL = UiSettings(mode="full")
_SHARES = {"enqueued": 62, "acked": 58, "failed": 9, "discarded_total": 3}
_SHARES |= {"w2": 30, "w3": 20, "w4": 6, "w5": 5, "r3": 34, "r4": 18, "r5": 6}
"""How many jobs of the demo are counted per minute."""
_SHARES_OF_WAVE = {"enqueued": 18, "acked": 16, "failed": 5, "discarded_total": 2}
_SHARES_OF_WAVE |= {"w2": -8, "w4": 4, "w5": 3, "r3": -6, "r5": 4}
"""How much these numbers go up and down."""
_DEPTHS = ((14, 1), (0, 0), (9, 4), (12, 6), (30, 16))
"""The level and the change of the numbers of jobs, in the order of ``STATES``."""


@pytest.fixture(scope="package")
def ui_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Run a server of its own, whose data no other test deletes."""
    with own_server(tmp_path_factory.mktemp("ui"), cluster=False) as redis:
        yield redis


@pytest.fixture(autouse=True, scope="module")
def patience() -> Iterator[None]:
    """Nothing is given up or put off because the machine is slow."""
    with pytest.MonkeyPatch.context() as patch:
        be_patient(patch)
        yield


@pytest.fixture(scope="package")
def running(ui_redis: Embedded) -> Iterator[Running]:
    """Serve the dashboard with all actions, in a thread.

    It ends before tests of other rooms: only one event loop of a process may drive coroutines.
    """
    with dashboard(ui_redis, FULL) as found:
        yield found


@pytest.fixture(scope="package")
def demo(running: Running) -> Demo:
    """Fill the server with demo data and an hour of statistics."""
    with pytest.MonkeyPatch.context() as patch, running.api() as client:
        be_patient(patch)
        filled = Demo(client).fill()
        running.run(lambda: write_history(running))
    return filled


@pytest.fixture
def admin(running: Running, demo: Demo) -> Iterator[httpx.Client]:
    """Log in with all scopes."""
    with running.browser() as client:
        yield client


async def write_history(running: Running) -> None:
    """Write the statistics of an hour, and two hours of a type, as a scheduler would have.

    The queues are two hours old then. A later call replaces them by those of the present hour.
    """
    store = running.app.store
    meta, now = store.keys.meta, int(time.time()) // 60
    grown = [0] * GROWING
    for minute in range(now - 60, now + 1):
        wave = math.sin(minute / 7) + 0.4 * math.sin(minute / 2)
        for number, name in enumerate((*TOTALS, *TIMES)):
            share = _SHARES.get(name, 0) + _SHARES_OF_WAVE.get(name, 0) * wave
            grown[number] += round(share)
        depths = [round(level + height * wave) for level, height in _DEPTHS]
        record = ",".join(map(str, [minute, *grown, *depths]))
        await store.redis.call(meta.slot, "HSET", meta.history_minutes, minute % MINUTES, record)
    names: Any = await store.redis.call(meta.slot, "ZRANGE", meta.queues, 0, -1)
    for name in names:
        queue, created = name.decode(), (now - 120) * 60_000
        of_queue = store.keys.shard_of_queue(queue)
        key = of_queue.queue_counters(queue)
        await store.redis.call(of_queue.slot, "HSET", key, "created", created)
    shard = store.keys.shard_of_queue("email.send")
    await store.redis.call(shard.slot, "DEL", shard.type_hour_history("email.send"))
    for hour in (now // 60 - 30, now // 60 - 5):
        record = ",".join(map(str, [hour, *range(1, WIDTH + 1)]))
        await store.redis.call(
            shard.slot, "HSET", shard.type_hour_history("email.send"), hour % KEPT_HOURS, record
        )
        await store.redis.call(shard.slot, "ZADD", shard.type_hours, hour, "email.send")
