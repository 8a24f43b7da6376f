"""One server with demo data for all tests of a process that only read it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.statistics.records import GROWING, MINUTES, STATES
from ojs_cluster.ui.settings import UiSettings
from tests.support.servers import own_server
from tests.ui.dashboard import Running, dashboard
from tests.ui.demo import Demo

FULL = UiSettings(mode="full")


@pytest.fixture(scope="session")
def ui_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """Run a server of its own, whose data no other test deletes."""
    with own_server(tmp_path_factory.mktemp("ui"), cluster=False) as redis:
        yield redis


@pytest.fixture(scope="session")
def running(ui_redis: Embedded) -> Iterator[Running]:
    """Serve the dashboard with all actions."""
    with dashboard(ui_redis, FULL) as found:
        yield found


@pytest.fixture(scope="session")
def demo(running: Running) -> Demo:
    """Fill the server with demo data and an hour of statistics."""
    with running.api() as client:
        filled = Demo(client).fill()
    running.run(lambda: write_history(running))
    return filled


@pytest.fixture
def admin(running: Running, demo: Demo) -> Iterator[httpx.Client]:
    """Log in with all scopes."""
    with running.browser() as client:
        yield client


async def write_history(running: Running) -> None:
    """Write the statistics of an hour, as a scheduler would have."""
    store = running.app.store
    meta, now = store.keys.meta, int(time.time()) // 60
    for age in range(61):
        minute = now - age
        grown = [(60 - age) * (number % 7 + 1) for number in range(GROWING)]
        depths = [(age * 7) % 40 + number for number in range(len(STATES))]
        record = ",".join(map(str, [minute, *grown, *depths]))
        await store.redis.call(meta.slot, "HSET", meta.history_minutes, minute % MINUTES, record)
