"""Helpers to enqueue jobs of a rate limit key, and to check what its tokens leave behind."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.rate_limits import rate_limits, rate_tokens
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state.depth_cache import LimitedQueues
from tests.store.shortcuts import QUEUE, new_job, shard_of
from tests.store.unique_jobs import keys_there, recover
from tests.support.timeshift import age_limits

_POLICY = ("concurrency", "rate", "throttle", "on_limit")


async def keyed(store: Store, key: str, queue: str = QUEUE, **members: Any) -> JobRecord:
    """Enqueue a job of a key; some keywords are members of its policy, the others are options."""
    policy = {name: members.pop(name) for name in _POLICY if name in members}
    return await enqueue(store, new_job(queue, rate_limit={"key": key, **policy}, **members))


def per_hour(limit: int) -> dict[str, Any]:
    return {"limit": limit, "period": "PT1H"}


def key_in(store: Store, *, home: bool, queue: str = QUEUE) -> str:
    """Return a key whose state is in the queue's shard, or in another."""
    return next(
        key
        for key in (f"key:{number}" for number in itertools.count())
        if (store.keys.shard_of_limit(key) is shard_of(store, queue)) == home
    )


async def settle(store: Store, db: Any) -> None:
    """Deliver all effects, and the effects of these."""
    for _ in range(20):
        await recover(store, db)
        if not any(shard.outbox_due in keys_there(db) for shard in store.keys):
            return
    raise AssertionError("effects cause new effects without end")


async def age_key(store: Store, db: Any, key: str, ms: int) -> None:
    """Make the state of a key ``ms`` older, and let the scheduler check it."""
    shard = store.keys.shard_of_limit(key)
    age_limits(db, shard.rate_limit(key), ms)
    for name in ("override_until", "hold_until", "used_at", "checked_at"):
        if db.hget(shard.rate_limit(key), name):
            db.hincrby(shard.rate_limit(key), name, -ms)
    if db.zscore(shard.rate_limit_checks, key) is not None:
        db.zincrby(shard.rate_limit_checks, -ms, key)
    await rate_limits.sweep_rate_limits(store, shard, 100)


async def expire_grants(store: Store, db: Any, queue: str = QUEUE, *, again: bool = False) -> None:
    """Let the grants of jobs that were not fetched expire.

    With ``again`` also let pending requests wait so long that they are sent again.
    """
    shard = shard_of(store, queue)
    for job_id in db.zrange(shard.token_grants, 0, -1):
        if again or db.hexists(shard.job(job_id.decode()), f.TOKEN):
            db.zadd(shard.token_grants, {job_id: 1})
    await rate_tokens.return_unused_tokens(store, shard, 100)


async def token_counts(store: Store, key: str) -> tuple[int, int]:
    """Return the numbers of granted and of requested tokens of a key."""
    found = await rate_limits.get_key(store, key)
    return found.usage.active, found.waiting


def assert_no_token_left(store: Store, db: Any) -> None:
    """Check that no token is granted or requested, no effect is left, and no job is blocked."""
    for key in keys_there(db):
        name = key.partition(b"}:")[2]
        assert not name.startswith((b"lh:", b"la:", b"h:", b"ha:", b"hk:")), key
        assert name not in (b"outbox_due", b"outbox_dead_letters", b"token_grants"), key


class EveryQueueLimited(LimitedQueues):
    """Makes each fetch call the full path at once."""

    def contains(self, _shard: Shard, _queues: Sequence[str]) -> bool:
        """Say that the last call met limits."""
        return True
