"""One master of a cluster is at ``maxmemory``: what it refuses leaves nothing on the others."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from ojs_cluster.core.errors import BackendUnavailable, WritesRefused
from ojs_cluster.keys import Shard
from ojs_cluster.redis import Client, Script
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.batch import enqueue_all
from ojs_cluster.store.engine.enqueue.batch_attempt import BatchAttempt
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.open import open_store
from tests.store.shortcuts import id_in, new_job, take
from tests.support.invariants import check_invariants
from tests.support.lossy import LossyClient
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE
from tests.support.servers import all_keys, observer

MASTERS = 3


@pytest.fixture
async def store(cluster: Embedded) -> AsyncIterator[Store]:
    async with open_store(patient_client(cluster), prelude=PRELUDE) as opened:
        yield opened


@pytest.fixture
def db(cluster: Embedded) -> Iterator[Any]:
    with observer(cluster) as client:
        yield client


def master_of(shard: Shard) -> int:
    """Which node of a freshly formed cluster serves a shard."""
    return shard.slot * MASTERS // 16384


def queue_on(store: Store, master: int) -> str:
    names = (f"q{number}" for number in range(1000))
    return next(name for name in names if master_of(store.keys.shard_of_queue(name)) == master)


@contextlib.contextmanager
def full(cluster: Embedded, master: int) -> Iterator[None]:
    with cluster.nodes[master].client() as admin:
        admin.config_set("maxmemory", 1)
        try:
            yield
        finally:
            admin.config_set("maxmemory", 0)


def left(cluster: Embedded) -> set[bytes]:
    """Keys of what is there, without the names of queues and the schema of every shard."""
    found = all_keys(cluster)
    return {key for key in found if b"{meta}" not in key and not key.endswith(b":schema")}


def other_than_meta(store: Store) -> tuple[int, int]:
    """Two masters, neither of which has the registry of queues."""
    meta = store.keys.meta.slot * MASTERS // 16384
    first, second = (master for master in range(MASTERS) if master != meta)
    return first, second


async def test_a_batch_is_refused_before_it_is_decided(store: Store, cluster: Embedded) -> None:
    open_, shut = other_than_meta(store)
    jobs = [new_job(queue_on(store, master)) for master in (open_, shut)]

    with full(cluster, shut), pytest.raises(WritesRefused) as refused:
        await enqueue_all(store, jobs)

    assert refused.value.outcome == "not_applied"
    assert left(cluster) == set()
    assert len(await enqueue_all(store, jobs)) == 2


async def test_what_was_decided_is_written_though_memory_has_run_out(
    store: Store, cluster: Embedded
) -> None:
    open_, shut = other_than_meta(store)
    queues = [queue_on(store, master) for master in (open_, shut)]
    attempt = BatchAttempt(store, [new_job(queue) for queue in queues])
    await attempt.reserve()
    now = await transactions.commit(store, attempt.transaction(), attempt.commit_before_ms)
    assert now is not None

    with full(cluster, shut):
        await transactions.apply(store, attempt.transaction(), now)
        assert len(await take(store, *queues, count=2)) == 2

    assert check_invariants(cluster).problems == []


async def test_a_unique_job_that_is_refused_leaves_no_lock(store: Store, cluster: Embedded) -> None:
    open_, shut = other_than_meta(store)
    queue = queue_on(store, shut)
    jobs = (new_job(queue, type=f"t{number}", unique={}) for number in range(1000))
    lock = store.keys.shard_of_fingerprint
    job = next(job for job in jobs if master_of(lock(job.fingerprint)) == open_)

    with full(cluster, shut), pytest.raises(WritesRefused):
        await enqueue(store, job)

    assert left(cluster) == set()


@pytest.mark.parametrize("unique", [None, {}])
async def test_a_job_with_a_clients_id_that_is_refused_leaves_no_alias(
    store: Store, cluster: Embedded, unique: dict[str, Any] | None
) -> None:
    open_, shut = other_than_meta(store)
    home = next(shard for shard in store.keys if master_of(shard) == open_)
    job = new_job(queue_on(store, shut), id=id_in(home.index), unique=unique)

    with full(cluster, shut), pytest.raises(WritesRefused):
        await enqueue(store, job)

    assert left(cluster) == set()
    await enqueue(store, job)


async def test_a_refusal_after_a_lost_reply_says_that_the_job_may_be_there(
    store: Store, cluster: Embedded
) -> None:
    _, shut = other_than_meta(store)
    queue = queue_on(store, shut)
    job = new_job(queue, id=id_in(store.keys.shard_of_queue(queue).index))

    class LosesTheFirst(LossyClient):
        async def script(self, slot: int, script: Script, *args: Any, **options: Any) -> Any:
            if script.name == "enqueue_one" and not self.lost:
                self.lost.append(script.name)
                raise BackendUnavailable("the reply was lost", outcome="unknown")
            return await super().script(slot, script, *args, **options)

    client = LosesTheFirst(store.redis, lambda _name, _before: False)
    with full(cluster, shut), pytest.raises(BackendUnavailable) as refused:
        await enqueue(replace(store, redis=cast(Client, client)), job)

    assert client.lost == ["enqueue_one"]
    assert refused.value.outcome == "unknown"
