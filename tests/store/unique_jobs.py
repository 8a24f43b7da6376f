"""Helpers that enqueue unique jobs, and that read locks and transactions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.outbox.outbox import drain, drain_blocked
from ojs_cluster.store.features.retention.retention import remove_leftovers
from tests.store.shortcuts import QUEUE, new_job

_POLICY = ("keys", "states", "period", "on_conflict", "args_keys", "meta_keys")


async def once(store: Store, queue: str = QUEUE, **members: Any) -> JobRecord:
    """Enqueue a unique job; some keywords are members of its policy, the rest are options."""
    policy = {name: members.pop(name) for name in _POLICY if name in members}
    return await enqueue(store, new_job(queue, unique=policy, **members))


def without_unlock(store: Store) -> Store:
    """Return a store that cannot deliver unlocks, so they stay in the outbox."""

    async def away(_store: Store, _shard: Shard, _payload: bytes) -> None:
        raise BackendUnavailable("no answer", outcome="not_applied")

    return replace(store, effects={**store.effects, "unlock": away})


def locks_left(store: Store, db: Any) -> int:
    """Return how many unique locks there are; check that the index names exactly these."""
    there, found = keys_there(db), 0
    for shard in store.keys:
        locks = {key for key in there if key.startswith(shard.lock(""))}
        listed = db.zrange(shard.locks, 0, -1) if shard.locks in there else []
        assert locks == {shard.lock(name.decode()) for name in listed}
        found += len(locks)
    return found


def lock_of(store: Store, db: Any) -> str:
    """The fingerprint of the only lock."""
    [name] = [name for shard in store.keys for name in db.zrange(shard.locks, 0, -1)]
    fingerprint: str = name.decode()
    return fingerprint


def age_lock(db: Any, store: Store, fingerprint: str, ms: int) -> None:
    """Make a lock ``ms`` older."""
    shard = store.keys.shard_of_fingerprint(fingerprint)
    db.hincrby(shard.lock(fingerprint), "claimed_at", -ms)
    db.zincrby(shard.locks, -ms, fingerprint)


def assert_nothing_left(store: Store, db: Any) -> None:
    """Check that no lock, transaction or outbox entry is left."""
    assert locks_left(store, db) == 0
    there = keys_there(db)
    for shard in store.keys:
        assert not {key for key in there if key.startswith(shard.transaction(""))}
        assert not there & {
            shard.outbox_due,
            shard.outbox_blocked_shards,
            shard.outbox_dead_letters,
            shard.aborted_transactions,
        }


async def recover(store: Store, db: Any, ms: int = 0) -> None:
    """Run what the scheduler does after a crash, and twice more, ``ms`` later each time.

    The outbox is drained. With ``ms`` the janitor also checks claims, locks and transactions: its
    first run aborts a transaction, its second removes the record.
    """
    for _ in range(2 if ms else 1):
        there = keys_there(db)
        for shard in store.keys:
            await _recover(store, db, shard, there, ms)


async def _recover(store: Store, db: Any, shard: Shard, there: set[bytes], ms: int) -> None:
    if shard.outbox_due in there:
        for number in db.zrange(shard.outbox_due, 0, -1):
            db.zadd(shard.outbox_due, {number: 1})
        while (await drain(store, shard, 100)).done:
            pass
    if there & {shard.outbox_due, shard.outbox_blocked_shards}:
        await drain_waiting_now(store, db, shard)
    aged = there & {
        shard.locks,
        shard.alias_claims,
        shard.aborted_transactions,
        shard.applied_transactions,
        shard.references,
    }
    if shard.locks in aged:
        for name in db.zrange(shard.locks, 0, -1):
            age_lock(db, store, name.decode(), ms)
    for index in aged - {shard.locks}:
        for member in db.zrange(index, 0, -1):
            db.zincrby(index, -ms, member)
    if aged and ms:
        await remove_leftovers(store, shard)


async def drain_waiting_now(store: Store, db: Any, shard: Shard) -> None:
    """Retry the shards that entries of ``shard`` wait for, without the pause."""
    if not db.exists(shard.outbox_blocked_shards):
        return
    for blocker in db.zrange(shard.outbox_blocked_shards, 0, -1):
        db.zadd(shard.outbox_blocked_shards, {blocker: 1})
    while (await drain_blocked(store, shard, 100)).more:
        pass


def keys_there(db: Any) -> set[bytes]:
    """Return every key by a scan, which only tests may do."""
    return set(db.scan_iter(match="ojs:*", count=10_000))
