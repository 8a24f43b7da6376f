"""One scheduler as a process of its own, for tests and benchmarks that kill it.

Usage: python -m tests.scheduler.process REDIS_URL [FIELD=VALUE ...]

The fields are SchedulerSettings', `store.` before a name makes it StoreSettings'. With
`dies_after=NUMBER` the process kills itself when it has changed so many jobs for bulk operations.
After SIGUSR1 its event loop is busy and never answers again.
Prints a line at each change, flushed, so that a test can wait for it: `leading`, `sharing` or
`following`, when it leads all shards, some or none, and its fencing tokens by shard as JSON.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import sys
from typing import Any
from unittest.mock import patch

import trio

from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.store.features.bulk import execution
from ojs_cluster.store.features.bulk.apply import apply
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store
from ojs_scheduler.main import run_scheduler
from ojs_scheduler.settings import SchedulerSettings
from ojs_scheduler.stats import Stats

_DIES_AFTER = "dies_after="


async def _report(stats: Stats) -> None:
    shown = ""
    while True:
        election = stats.election
        word = "leading" if len(election.led_shards) == election.shards else "sharing"
        now = f"{word if election.led_shards else 'following'} {json.dumps(election.led_shards)}"
        if now != shown:
            shown = now
            print(now, flush=True)
        await trio.sleep(0.01)


async def _main(url: str, settings: SchedulerSettings, store_settings: StoreSettings) -> None:
    stats = Stats()
    async with (
        open_store(ClientSettings.from_url(url), store_settings) as store,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_report, stats)
        nursery.start_soon(_stop_on_sigterm, nursery.cancel_scope)
        nursery.start_soon(_block_on_sigusr1)
        await run_scheduler(store, settings, stats=stats)


async def _stop_on_sigterm(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


async def _block_on_sigusr1() -> None:
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async for _ in signals:
            print("blocked", flush=True)
            while True:
                pass


def _die_after(changes: int) -> None:
    numbers = itertools.count(1)

    async def change_and_die(*args: Any, **options: Any) -> Any:
        error = await apply(*args, **options)
        if next(numbers) == changes:
            os.kill(os.getpid(), signal.SIGKILL)
        return error

    patch.object(execution, "apply", change_and_die).start()


def _values(pairs: list[str], prefix: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name.startswith("store.") == bool(prefix):
            values[name.removeprefix(prefix)] = int(text) if text.isdigit() else text
    return values


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s %(levelname)s")
    rest = [pair for pair in sys.argv[2:] if not pair.startswith(_DIES_AFTER)]
    for pair in sys.argv[2:]:
        if pair.startswith(_DIES_AFTER):
            _die_after(int(pair.removeprefix(_DIES_AFTER)))
    trio.run(
        _main,
        sys.argv[1],
        SchedulerSettings(**_values(rest, "")),
        StoreSettings(**_values(rest, "store.")),
    )
