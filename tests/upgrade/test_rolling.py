"""A rolling upgrade under load, and the way back: no request fails, and every job runs once."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.kill.mixed import Mixed
from tests.support.deployment import unavailable
from tests.support.invariants import await_invariants, lost
from tests.support.load import Load, running_load
from tests.support.nodes import NOTHING, Environment
from tests.upgrade.installation import Installation, installed
from tests.upgrade.previous_version import PreviousVersion

ENV = {"OJS_SCHEDULER_LEASE": "2s", "OJS_SHUTDOWN_DELAY": "0s"}
"""The proxy no longer sends requests to a node that stops, so it need not wait."""
JOBS = 20
"""How many jobs pass between two changes."""
LONG_JOBS = 300


async def test_versions_replace_each_other_under_load(
    previous: PreviousVersion, tmp_path: Path
) -> None:
    await _upgrade_and_roll_back(previous, tmp_path, rounds=1, jobs=JOBS)


@pytest.mark.soak
async def test_versions_replace_each_other_again_and_again(
    previous: PreviousVersion, tmp_path: Path
) -> None:
    await _upgrade_and_roll_back(previous, tmp_path, rounds=5, jobs=LONG_JOBS)


async def _upgrade_and_roll_back(
    previous: PreviousVersion, directory: Path, *, rounds: int, jobs: int
) -> None:
    if missing := unavailable("valkey-cluster"):
        pytest.skip(missing)
    old = previous.environment()
    with installed(directory, old, ENV) as running:
        try:
            async with running_load(running.url) as load, trio.open_nursery() as nursery:
                mixed = Mixed(load)
                await mixed.schedule()
                nursery.start_soon(mixed.produce)
                for _ in range(rounds):
                    await load.progress(jobs)
                    await _replace_all(running, load, NOTHING, jobs)
                    await _replace_all(running, load, old, jobs)
                await mixed.fired_again()
                await mixed.unschedule()
                mixed.stop()
                load.stop_producing()
                ended = await mixed.ended()
                await mixed.jobs_ended()
                await load.drain()
        except BaseException:
            print(running.logs())
            raise
        assert load.ledger.retried == []
        assert load.ledger.violations == []
        assert mixed.repeated_occurrences == {}
        assert set(ended) == {"completed"}, ended
        report = await_invariants(running.backend)
        assert lost(report, load.ledger.acknowledged | mixed.jobs) == set()
        assert {report.states[id_] for id_ in load.ledger.completed} == {"completed"}


async def _replace_all(running: Installation, load: Load, version: Environment, jobs: int) -> None:
    """Replace all processes. In between, all nodes have the other version than all schedulers."""
    await running.replace_schedulers(version)
    await load.progress(jobs)
    await running.replace_nodes(version)
    await load.progress(jobs)
