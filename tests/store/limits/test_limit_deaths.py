"""Rate limits by key: a process may die between any two commands, and no token is left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.queues import queues
from tests.store.limit_jobs import (
    assert_no_token_left,
    expire_grants,
    key_in,
    keyed,
    settle,
    token_counts,
)
from tests.store.shortcuts import QUEUE, ack, nack, shard_of, take
from tests.support.failing_process import dies_at
from tests.support.invariants import InvariantReport


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("home", [False, pytest.param(True, marks=pytest.mark.soak)])
async def test_a_process_may_die_at_any_command(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], home: bool, applied: bool
) -> None:
    """Of a life with a limited key: enqueue, fetch, ack, fetch of the next, requeue, cancel."""
    key, shard = key_in(store, home=home), shard_of(store)

    async def life(process: Store) -> None:
        first = await keyed(process, key, rate={"limit": 1000, "period": "PT1H"}, concurrency=1)
        second = await keyed(process, key, rate={"limit": 1000, "period": "PT1H"}, concurrency=1)
        await take(process, count=2)
        await ack(process, first)
        await take(process)
        await nack(process, second, requeue=True)
        await cancel(process, second.id)

    at, died = 1, True
    while died:
        died = await dies_at(store, at, applied, life)
        await settle(store, db)
        consistent()
        assert len(db.zrange(shard.active, 0, -1)) <= 1
        assert (await tokens(store, key)) <= 1
        # The dead process blocks no other.
        for _ in range(4):
            for job_id in db.zrange(shard.active, 0, -1):
                await ack(store, job_id.decode())
            await expire_grants(store, db)
            await settle(store, db)
            await take(store, count=9)
        assert (await queues.get_stats(store, QUEUE)).counts[State.AVAILABLE] == 0
        assert_no_token_left(store, db)
        consistent()
        at += 1
    assert at > 20


async def tokens(store: Store, key: str) -> int:
    try:
        return (await token_counts(store, key))[0]
    except NotFound:
        return 0
