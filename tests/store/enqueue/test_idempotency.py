"""Idempotency keys: how long they are kept, whose they are, and what damage does."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.jobs.ids import shard_of
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue import idempotency
from tests.store.shortcuts import home_id, new_job

BODY = b'{"jobs":[]}'


def key_of(store: Store, name: str) -> bytes:
    return store.keys.shard_of_fingerprint(name).idempotency_key(name)


async def test_a_key_ends_a_day_after_its_request(store: Store, db: Any) -> None:
    begun = await idempotency.begin(store, "a", "k", BODY)
    key = key_of(store, begun.name)
    for _ in range(2):
        assert idempotency.KEPT_MS - 600_000 < db.pttl(key) <= idempotency.KEPT_MS
        db.pexpire(key, 600_000)
        await idempotency.end(store, begun, b"201\n{}")
    again = await idempotency.begin(store, "a", "k", BODY)
    assert (again.seed, again.response) == (begun.seed, b"201\n{}")
    await idempotency.end(store, begun, b"422\n{}")  # a try that took longer
    assert (await idempotency.begin(store, "a", "k", BODY)).response == b"201\n{}"


async def test_keys_belong_to_one_api_key_and_one_body(store: Store) -> None:
    begun = await idempotency.begin(store, "a", "k", BODY)
    await idempotency.end(store, begun, b"201\n{}")
    assert (await idempotency.begin(store, "b", "k", BODY)).response is None
    assert (await idempotency.begin(store, "a", "k2", BODY)).response is None
    with pytest.raises(Conflict):
        await idempotency.begin(store, "a", "k", BODY + b" ")


async def test_ids_are_the_same_in_every_repetition(store: Store) -> None:
    begun = await idempotency.begin(store, "a", "k", BODY)
    again = await idempotency.begin(store, "a", "k", BODY)
    ids = [begun.with_id(store, index, new_job()).id for index in range(100)]
    assert ids == [again.with_id(store, index, new_job()).id for index in range(100)]
    assert len(set(ids)) == 100
    home = store.keys.shard_of_queue("mail").index
    assert {shard_of(str(job_id), len(store.keys)) for job_id in ids} == {home}
    own = home_id(store)
    assert begun.with_id(store, 0, new_job(id=own)).id == own


async def test_a_large_response_is_not_kept(store: Store) -> None:
    begun = await idempotency.begin(store, "a", "k", BODY)
    await idempotency.end(store, begun, os.urandom(300_000))
    again = await idempotency.begin(store, "a", "k", BODY)
    assert (again.seed, again.response) == (begun.seed, None)


async def test_damaged_fields_of_a_key(store: Store, db: Any) -> None:
    begun = await idempotency.begin(store, "a", "k", BODY)
    key = key_of(store, begun.name)
    db.hset(key, "response", b"\xff")
    assert (await idempotency.begin(store, "a", "k", BODY)).response is None
    db.hset(key, "seed", b"\xff")
    with pytest.raises(Conflict, match="damaged"):
        await idempotency.begin(store, "a", "k", BODY)
    db.hdel(key, "request")
    assert (await idempotency.begin(store, "a", "k", BODY)).seed != begun.seed


async def test_a_request_that_has_stored_nothing_keeps_its_key_for_minutes(
    store: Store, db: Any
) -> None:
    begun = await idempotency.begin(store, "a", "k", BODY)
    key = key_of(store, begun.name)
    assert (await idempotency.begin(store, "a", "k", BODY)).seed == begun.seed
    await idempotency.forget(store, begun)
    assert db.pttl(key) > idempotency.KEPT_MS - 600_000, "another try may have stored its jobs"
    for _ in range(2):  # a second time if a try is not counted
        await idempotency.forget(store, begun)
        assert 0 < db.pttl(key) <= idempotency.FORGOTTEN_MS
    again = await idempotency.begin(store, "a", "k", BODY)
    assert again.seed == begun.seed
    assert db.pttl(key) > idempotency.KEPT_MS - 600_000
    with pytest.raises(Conflict):
        await idempotency.begin(store, "a", "k", BODY + b" ")


async def test_a_key_outlives_a_count_of_tries_that_is_too_low(store: Store, db: Any) -> None:
    """An earlier version counts no tries, and a failover may lose the write of one."""
    refused = await idempotency.begin(store, "a", "k", BODY)
    key = key_of(store, refused.name)
    uncounted = await idempotency.begin(store, "a", "k", BODY)
    db.hset(key, "tries", 1)
    await idempotency.forget(store, refused)
    assert (await idempotency.begin(store, "a", "k", BODY)).seed == uncounted.seed
    await idempotency.end(store, uncounted, b"201\n{}")
    await idempotency.forget(store, refused)
    assert (await idempotency.begin(store, "a", "k", BODY)).response == b"201\n{}"
    assert db.pttl(key) > idempotency.KEPT_MS - 600_000


async def test_another_request_uses_the_key_of_one_that_has_stored_nothing(
    store: Store, db: Any
) -> None:
    other = BODY + b" "
    begun = await idempotency.begin(store, "a", "k", BODY)
    await idempotency.forget(store, begun)
    found = await idempotency.begin(store, "a", "k", other, has_jobs=False)
    assert (found.seed, found.response) == ("", None)
    new = await idempotency.begin(store, "a", "k", other)
    assert new.seed != begun.seed
    assert db.pttl(key_of(store, new.name)) > idempotency.KEPT_MS - 600_000
    await idempotency.forget(store, begun)
    await idempotency.end(store, begun, b"422\n{}")  # of a try that was not counted
    again = await idempotency.begin(store, "a", "k", other)
    assert (again.seed, again.response) == (new.seed, None)
    with pytest.raises(Conflict):
        await idempotency.begin(store, "a", "k", BODY)
    await idempotency.end(store, new, b"201\n{}")
    db.hset(key_of(store, new.name), "tries", 0)
    with pytest.raises(Conflict):
        await idempotency.begin(store, "a", "k", BODY)


async def test_a_key_that_a_try_has_used_for_jobs_is_not_forgotten(store: Store, db: Any) -> None:
    begun = await idempotency.begin(store, "a", "k", BODY)
    key = key_of(store, begun.name)
    await idempotency.end(store, begun, b"201\n{}")
    await idempotency.forget(store, begun)
    assert (await idempotency.begin(store, "a", "k", BODY)).response == b"201\n{}"
    db.delete(key)
    new = await idempotency.begin(store, "a", "k", BODY)
    await idempotency.forget(store, begun)  # a try of the earlier key
    assert (await idempotency.begin(store, "a", "k", BODY)).seed == new.seed
    db.hdel(key, "tries")  # an earlier version has begun the request, and counts no tries
    for _ in range(2):
        await idempotency.forget(store, await idempotency.begin(store, "a", "k", BODY))
    assert db.exists(key)


async def test_a_request_without_jobs_only_reads_its_key(store: Store, db: Any) -> None:
    for _ in range(2):
        found = await idempotency.begin(store, "a", "k", BODY, has_jobs=False)
        assert (found.seed, found.response) == ("", None)
    assert not db.exists(key_of(store, found.name))
    begun = await idempotency.begin(store, "a", "k", BODY)
    with pytest.raises(Conflict):
        await idempotency.begin(store, "a", "k", BODY + b" ", has_jobs=False)
    await idempotency.begin(store, "a", "k", BODY, has_jobs=False)
    await idempotency.forget(store, begun)
    assert db.pttl(key_of(store, found.name)) <= idempotency.FORGOTTEN_MS, "only tries with jobs"
