"""Kill (SIGKILL) API processes under load."""

from __future__ import annotations

import os
import random
import signal

import trio

from tests.support.deployment import Deployment
from tests.support.invariants import await_invariants, lost
from tests.support.load import Load, running_load
from tests.support.nodes import await_death
from tests.support.servers import wait_until

KILLS = 3


async def test_a_killed_api_process_loses_no_acknowledged_job_and_runs_none_twice(
    deployment: Deployment, kill_round: int
) -> None:
    async with running_load(deployment.url) as load:
        for _ in range(KILLS):
            await load.progress(40)
            await _kill_one(deployment, load)
        await load.progress(40)
        await load.drain()

    _assert_nothing_broke(deployment, load)
    _assert_all_processes_return(deployment)


async def test_a_killed_supervisor_loses_no_job(deployment: Deployment, kill_round: int) -> None:
    node = random.choice(deployment.nodes)
    async with running_load(deployment.url) as load:
        await load.progress(40)
        orphans = await trio.to_thread.run_sync(node.api_processes)
        await trio.to_thread.run_sync(node.process.kill)
        for orphan in orphans:
            await trio.to_thread.run_sync(await_death, orphan)
        await load.progress(40)
        await trio.to_thread.run_sync(node.start)
        await load.progress(40)
        await load.drain()

    _assert_nothing_broke(deployment, load)
    _assert_all_processes_return(deployment)


def _assert_nothing_broke(deployment: Deployment, load: Load) -> None:
    assert load.ledger.violations == []
    report = await_invariants(deployment.backend)
    assert lost(report, load.ledger.acknowledged) == set()
    assert {report.states[id_] for id_ in load.ledger.completed} == {"completed"}


async def _kill_one(deployment: Deployment, load: Load) -> None:
    node = random.choice(deployment.nodes)
    victims = await trio.to_thread.run_sync(node.api_processes)
    if victims:
        victim = random.choice(victims)
        os.kill(victim, signal.SIGKILL)
        await trio.to_thread.run_sync(await_death, victim)


def _assert_all_processes_return(deployment: Deployment) -> None:
    for node in deployment.nodes:
        wait_until(
            lambda node=node: len(node.api_processes()) == node.workers,  # type: ignore[misc]
            what=f"all processes run again\n{node.process.log_tail()}",
        )
        node.await_ready()
