"""Short ways to enqueue unique jobs, and to look at what locks and deals leave behind."""

from __future__ import annotations

from typing import Any

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue import enqueue
from ojs_cluster.store.outbox import drain
from ojs_cluster.store.record import JobRecord
from ojs_cluster.store.retention import tidy
from tests.store.jobs import QUEUE, new_job

_POLICY = ("keys", "states", "period", "on_conflict", "args_keys", "meta_keys")


async def once(store: Store, queue: str = QUEUE, **members: Any) -> JobRecord:
    """Enqueue a unique job; some keywords are members of its policy, the rest are options."""
    policy = {name: members.pop(name) for name in _POLICY if name in members}
    return await enqueue(store, new_job(queue, unique=policy, **members))


def locks_left(store: Store, db: Any) -> int:
    """How many unique locks there are, in the index; each must exist, and no other."""
    listed = {(shard, name) for shard in store.keys for name in db.zrange(shard.locks, 0, -1)}
    for shard, name in listed:
        assert db.exists(shard.lock(name.decode())), f"no lock {name} in shard {shard.index}"
    found = sum(len(names_of(db, shard, b"u:*")) for shard in store.keys)
    assert found == len(listed)
    return found


def lock_of(store: Store, db: Any) -> str:
    """The fingerprint of the only lock."""
    [name] = [name for shard in store.keys for name in db.zrange(shard.locks, 0, -1)]
    fingerprint: str = name.decode()
    return fingerprint


def age_lock(db: Any, store: Store, fingerprint: str, ms: int) -> None:
    """As if the lock had been claimed ``ms`` earlier."""
    shard = store.keys.shard_of_fingerprint(fingerprint)
    db.hincrby(shard.lock(fingerprint), "a", -ms)
    db.zincrby(shard.locks, -ms, fingerprint)


def assert_nothing_left(store: Store, db: Any) -> None:
    """No lock, deal, claim or debt is there any more."""
    assert locks_left(store, db) == 0
    for shard in store.keys:
        assert names_of(db, shard, b"b:*") == []
        for index in (shard.out, shard.parked, shard.deals):
            assert db.zcard(index) == 0


async def recover(store: Store, db: Any, ms: int = 0) -> None:
    """What the scheduler does after a crash, and ``ms`` later, and ``ms`` after that.

    The outbox is drained; with ``ms`` the janitor looks at claims, locks and deals as well. It
    comes twice, as it does: what it gives up the first time is forgotten the second.
    """
    await _recover(store, db, ms)
    if ms:
        await _recover(store, db, ms)


async def _recover(store: Store, db: Any, ms: int) -> None:
    for shard in store.keys:
        for name in db.zrange(shard.locks, 0, -1):
            age_lock(db, store, name.decode(), ms)
        for index in (shard.claims, shard.deals, shard.dealt):
            for member in db.zrange(index, 0, -1):
                db.zincrby(index, -ms, member)
        for number in db.zrange(shard.out, 0, -1):
            db.zadd(shard.out, {number: 1})
        while db.zcard(shard.out) and (await drain(store, shard, 100)).done:
            pass
        if ms:
            await tidy(store, shard)


def names_of(db: Any, shard: Shard, pattern: bytes) -> list[bytes]:
    """Keys of a shard, found by a scan as only tests may."""
    return list(db.scan_iter(match=shard.prefix.replace(b"[", b"\\[") + pattern, count=10_000))
