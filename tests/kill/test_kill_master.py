"""kill -9 of a Redis master that has a replica, under load.

With `async` durability a master may have acknowledged what its replica never
received. Such jobs are counted and printed; so are contradictions that follow
from a forgotten fetch or ack. Everything else must hold.
"""

from __future__ import annotations

import random

import pytest
import trio

from ojs_cluster.server.embedded import Embedded, Node
from tests.support.deployment import Deployment
from tests.support.invariants import await_consistent, lost
from tests.support.load import running_load
from tests.support.servers import wait_until


async def test_after_a_master_is_killed_callers_recover_and_the_books_agree(
    replicated: Deployment, kill_round: int, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = replicated.backend
    victim = random.choice(backend.masters())
    async with running_load(replicated.url, producers=16, workers=12, lossy=True) as load:
        await load.progress(200)
        await trio.to_thread.run_sync(backend.kill, victim)
        await trio.to_thread.run_sync(_await_failover, backend, victim)
        # Jobs of all shards, so of the promoted replica's too, move again.
        await load.progress(200)
        gone = await load.drain()
    backend.restart(victim)
    wait_until(lambda: _all_replicated(replicated), timeout_s=30, what="the node is a replica")

    census = await_consistent(backend, aliases=False)
    missing = lost(census, load.ledger.acknowledged)
    with capsys.disabled():
        print(
            f"\nround {kill_round}: {len(load.ledger.acknowledged)} jobs acknowledged, "
            f"{len(missing)} of them lost, {len(census.lost_aliases)} ids lost, "
            f"{len(load.ledger.violations)} runs repeated, "
            f"{load.ledger.retried_calls} calls retried"
        )
    assert missing <= gone
    unfinished = load.ledger.acknowledged - missing - census.lost_aliases
    assert {census.states[id_] for id_ in unfinished} == {"completed"}


def _await_failover(backend: Embedded, victim: Node) -> None:
    def promoted() -> bool:
        masters = backend.masters()
        return len(masters) == 3 and victim not in masters

    wait_until(promoted, timeout_s=15, what="a replica is promoted")


def _all_replicated(deployment: Deployment) -> bool:
    backend = deployment.backend
    masters = backend.masters()
    return len(masters) == 3 and all(backend.replica_of(master) for master in masters)
