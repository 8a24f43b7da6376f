"""Kill (SIGKILL) a Redis master with a replica, under load.

With ``async`` durability a master may have acknowledged writes that its replica never received.
Such jobs are counted and printed, as are contradictions that follow from a lost fetch or ack.
Everything else must hold. The losses end with the failover. All other jobs complete, and every
remaining workflow ends. Each cron occurrence is one job. Each id leads to its job again. All rate
limit tokens are returned. Indexes, locks and counters agree. With ``replica`` durability nothing
acknowledged is lost. Checks that the scheduler runs some minutes later are made due at once.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from ojs_cluster.keys import Keyspace, Shard
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from tests.kill.mixed import Mixed
from tests.support.deployment import Deployment
from tests.support.invariants import InvariantReport, await_invariants, lost
from tests.support.load import Load, running_load
from tests.support.servers import observer, replicas_of, wait_until


async def test_after_a_master_is_killed_clients_recover_and_invariants_hold(
    replicated: Deployment, kill_round: int, capsys: pytest.CaptureFixture[str]
) -> None:
    aftermath = await _kill_under_load(replicated)
    with capsys.disabled():
        print(f"\nasync, round {kill_round}: {aftermath.figures()}")


async def test_with_replica_durability_a_killed_master_loses_no_acknowledged_job(
    surely_replicated: Deployment, sure_round: int, capsys: pytest.CaptureFixture[str]
) -> None:
    aftermath = await _kill_under_load(surely_replicated)
    with capsys.disabled():
        print(f"\nreplica, round {sure_round}: {aftermath.figures()}")
    assert aftermath.missing == set()
    assert aftermath.workflows.keys() == {"completed"}
    assert aftermath.others == set()


@dataclass(frozen=True, slots=True)
class _Aftermath:
    """What is found after all work has ended."""

    load: Load
    report: InvariantReport
    missing: set[str]
    workflows: Counter[str]
    others: set[str]
    """Acknowledged unique jobs and jobs with a rate limit key that are lost."""

    def figures(self) -> str:
        ledger = self.load.ledger
        return (
            f"{len(ledger.acknowledged)} jobs acknowledged, {len(self.missing)} of them lost, "
            f"{len(ledger.violations)} runs repeated, {len(ledger.retried)} calls retried, "
            f"workflows: {dict(self.workflows)}, {len(self.others)} unique or limited jobs lost, "
            f"{len(ledger.occurrences)} occurrences"
        )


async def _kill_under_load(deployment: Deployment) -> _Aftermath:
    """Kill a master under load, let its replica take over, and check the final state."""
    backend = deployment.backend
    victim = random.choice(backend.masters())
    async with (
        running_load(deployment.url, producers=16, workers=12, lossy=True) as load,
        trio.open_nursery() as nursery,
    ):
        mixed = Mixed(load)
        await mixed.schedule()
        nursery.start_soon(mixed.produce)
        nursery.start_soon(mixed.produce)
        await load.progress(200)
        await trio.to_thread.run_sync(backend.kill, victim)
        await trio.to_thread.run_sync(_await_failover, backend, victim)
        # All responses of the dead master have been received after this time.
        known = load.ledger.acknowledged | load.ledger.attempts.keys()
        # The promoted node has no replica until the killed one is back. Until then, writes that
        # wait for a replica are not acknowledged.
        await trio.to_thread.run_sync(backend.restart, victim)
        # Jobs of all shards are processed again, so also those of the promoted replica.
        await load.progress(200)
        await mixed.fired_again()
        mixed.stop()
        load.stop_producing()
        await mixed.unschedule()
        await trio.to_thread.run_sync(_let_minutes_pass, deployment)
        nursery.start_soon(_keep_minutes_passing, deployment)
        workflows = await mixed.ended()
        await mixed.jobs_ended()
        nursery.cancel_scope.cancel()
        gone = await load.drain()
    wait_until(lambda: _all_replicated(deployment), timeout_s=120, what="the node is a replica")

    _let_minutes_pass(deployment)
    report = await_invariants(backend, timeout_s=120)
    missing = lost(report, load.ledger.acknowledged)
    assert missing <= gone
    # Losses are limited to writes before the failover. A job that was acknowledged or fetched since
    # the replica took over is not lost, not fetched twice, and not refused to its worker.
    assert missing <= known
    assert [it for it in load.ledger.violations if it.partition(":")[0] not in known] == []
    assert mixed.repeated_occurrences == {}
    finished = load.ledger.acknowledged - missing
    assert {report.states[id_] for id_ in finished} == {"completed"}
    return _Aftermath(load, report, missing, workflows, lost(report, mixed.jobs))


def _let_minutes_pass(deployment: Deployment) -> None:
    """Make the checks due that schedulers run some minutes later, and start the schedulers."""
    _age_checks(deployment.backend)
    for process in deployment.schedulers:
        process.kill()
        process.start()


async def _keep_minutes_passing(deployment: Deployment) -> None:
    while True:
        await trio.to_thread.run_sync(_age_checks, deployment.backend)
        await trio.sleep(2)


def _age_checks(backend: Embedded) -> None:
    with observer(backend) as client:
        redis: Any = client
        for shard in Keyspace(64):
            for index in (shard.references, shard.running_workflows):
                for member in redis.zrange(index, 0, -1):
                    redis.zadd(index, {member: 1}, xx=True)
            _age_limits(redis, shard)


def _age_limits(redis: Any, shard: Shard) -> None:
    """Let requesters of tokens ask again, and let unused tokens be offered again."""
    for name in redis.zrange(shard.rate_limit_checks, 0, -1):
        if redis.hexists(shard.rate_limit(name.decode()), "checked_at"):
            redis.hset(shard.rate_limit(name.decode()), "checked_at", 1)
            redis.zadd(shard.rate_limit_checks, {name: 1}, xx=True)
    # Unused granted tokens are returned after two seconds anyway: only requests are late.
    late = (time.time() + 60) * 1000
    for job_id in redis.zrangebyscore(shard.token_grants, late, "+inf"):
        redis.zadd(shard.token_grants, {job_id: 1}, xx=True)


def _await_failover(backend: Embedded, victim: EmbeddedNode) -> None:
    def promoted() -> bool:
        masters = backend.masters()
        return len(masters) == 3 and victim not in masters

    wait_until(promoted, timeout_s=120, what="a replica is promoted")


def _all_replicated(deployment: Deployment) -> bool:
    backend = deployment.backend
    masters = backend.masters()
    return len(masters) == 3 and all(replicas_of(backend, master) for master in masters)
