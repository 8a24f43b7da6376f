"""Redis applied a call and its reply was lost: what the store makes of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from ojs_cluster.core.errors import BackendUnavailable, Conflict, Duplicate
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import META
from ojs_cluster.redis.client import Client
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.fetch.fetch import release
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.operators.operations.leader import RedisLeaderLock
from tests.store.shortcuts import (
    DAY,
    HOUR,
    QUEUE,
    ack,
    active,
    foreign_id,
    home_id,
    lock_of,
    nack,
    new_job,
    promote_all,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.lossy import LossyClient, lossy
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]


@pytest.mark.parametrize("kind", ["server id", "client id", "foreign client id"])
async def test_an_enqueue_whose_reply_is_lost_is_one_job_and_a_success(
    store: Store, kind: str, consistent: Check
) -> None:
    for options in ({"scheduled_at": "+PT1H"}, {}):
        ids = {"client id": home_id(store), "foreign client id": foreign_id(store)}
        flaky, client = lossy(store, "enqueue", "enqueue_one", times=1)
        job = await enqueue(flaky, new_job(id=ids.get(kind), **options))

        assert client.lost == ["enqueue" if options else "enqueue_one"]
        assert (await read_jobs.get(store, job.id)).json() == job.json()
    assert consistent().count() == {"scheduled": 1, "available": 1}


async def test_a_batch_whose_reply_is_lost_is_stored_once(store: Store, consistent: Check) -> None:
    for mixed in (False, True):
        flaky, _ = lossy(store, "enqueue", times=1)
        batch = [new_job(id=home_id(store) if mixed and n % 2 else None) for n in range(20)]
        stored = await enqueue_many(flaky, batch)
        for job in stored:
            assert (await read_jobs.get(store, job.id)).json() == job.json()
    assert consistent().count() == {"available": 40}


async def test_a_claim_whose_reply_is_lost_still_leads_to_the_job(
    store: Store, consistent: Check
) -> None:
    flaky, client = lossy(store, "claim_alias", times=1)
    job = await enqueue(flaky, new_job(id=foreign_id(store)))

    assert client.lost == ["claim_alias"]
    assert (await read_jobs.get(store, job.id)).id == job.id
    consistent()


async def test_an_old_job_of_the_same_content_does_not_stand_for_a_batch_that_was_not_stored(
    store: Store, consistent: Check
) -> None:
    """The first try was refused and its refusal lost: the repetition must not look like success."""
    old = new_job(id=home_id(store))
    await enqueue(store, old)
    flaky, client = lossy(store, "enqueue", times=1)
    with pytest.raises(Duplicate):
        await enqueue_many(flaky, [old, new_job(id=home_id(store))])

    assert client.lost == ["enqueue"]
    assert consistent().count() == {"available": 1}


async def test_another_job_of_that_id_is_a_duplicate_even_after_a_lost_reply(
    store: Store, consistent: Check
) -> None:
    taken = await put(store, id=home_id(store))
    flaky, client = lossy(store, "enqueue_one", times=1)
    with pytest.raises(Duplicate):
        await enqueue(flaky, new_job(id=taken.id, type="something.else"))

    assert client.lost == ["enqueue_one"]
    assert consistent().count() == {"available": 1}


async def test_a_stored_job_is_acknowledged_though_its_queues_name_could_not_be_registered(
    store: Store, consistent: Check
) -> None:
    """Telling the client "not applied" would make it enqueue a second job."""
    flaky = refusing(store, "register_queue", after=1)

    job = await enqueue(flaky, new_job())

    assert (await read_jobs.get(store, job.id)).state is State.AVAILABLE
    assert consistent().count() == {"available": 1}


def refusing(store: Store, name: str, *, after: int) -> Store:
    """A store whose Redis cannot be reached for one script, after some calls that worked."""

    class Refusing(LossyClient):
        async def script(self, slot: int, script: Any, keys: Any, args: Any, **kind: Any) -> Any:
            if script.name == name and self.calls.get(name, 0) >= after:
                raise BackendUnavailable("no connection", outcome="not_applied")
            return await super().script(slot, script, keys, args, **kind)

    return replace(store, redis=cast(Client, Refusing(store.redis, lambda *_: False)))


@pytest.mark.parametrize("named_by", ["worker_id", "lease_id"])
async def test_an_ack_whose_reply_is_lost_is_repeated_for_its_holder(
    store: Store, named_by: str, consistent: Check
) -> None:
    for number, lost in enumerate((["ack", "ack_full"], ["ack"]), 1):  # the first of its minute
        job = await active(store)
        who = {named_by: {"worker_id": "w1", "lease_id": job.lease_id}[named_by]}
        flaky, client = lossy(store, "ack", "ack_full", times=1)
        done = await ack(flaky, job, result=b"1", **who)

        if client.lost != lost:  # a minute has begun between the two
            assert (number, client.lost) == (2, ["ack", "ack_full"])
        assert (done.state, done.result) == (State.COMPLETED, b"1")
        assert (await queues.get_stats(store, QUEUE)).acked == number
    consistent()


async def test_an_anonymous_ack_whose_reply_is_lost_is_not_repeated(
    store: Store, consistent: Check
) -> None:
    job = await active(store)
    flaky, _ = lossy(store, "ack_full", times=1)  # the first of its minute is that script's
    with pytest.raises(BackendUnavailable) as failure:
        await ack(flaky, job)

    assert failure.value.outcome == "unknown"
    with pytest.raises(Conflict, match="completed"):
        await ack(store, job)
    consistent()


async def test_a_nack_whose_reply_is_lost_fails_the_attempt_once(
    store: Store, consistent: Check
) -> None:
    for requeue in (False, True):
        job = await active(store)
        flaky, client = lossy(store, "nack", times=1)
        answer = await nack(flaky, job, lease_id=job.lease_id, requeue=requeue)
        assert client.lost == ["nack"]
        assert answer.json() == (await read_jobs.get(store, job.id)).json()
        assert len(answer.errors()) == (0 if requeue else 1)
    consistent()


async def test_a_release_whose_reply_is_lost_undoes_the_attempt_once(
    store: Store, consistent: Check
) -> None:
    await put(store)
    fetched = await take(store)
    flaky, client = lossy(store, "nack")
    await release(flaky, fetched)

    assert client.lost == ["nack"]
    assert (await read_jobs.get(store, fetched[0].id)).attempt == 0
    consistent()


async def test_a_fetch_keeps_what_it_has_when_a_later_shard_fails(
    store: Store, consistent: Check
) -> None:
    first, second = queues_in_other_shards(store, 2)
    job = await put(store, first)
    await put(store, second)
    flaky = refusing(store, "fetch", after=1)

    assert [found.id for found in await take(flaky, first, second, count=2)] == [job.id]
    assert consistent().count() == {"active": 1, "available": 1}


async def test_a_fetch_gives_jobs_although_the_shard_of_the_workers_record_is_away(
    store: Store, consistent: Check
) -> None:
    job = await put(store)

    assert [found.id for found in await take(refusing(store, "touch_worker", after=0))] == [job.id]
    consistent()


async def test_operations_that_cannot_be_repeated_say_that_they_may_have_happened(
    store: Store,
) -> None:
    job = await put(store)
    flaky, _ = lossy(store, "cancel", times=1)
    with pytest.raises(BackendUnavailable) as failure:
        await cancel(flaky, job.id)

    assert failure.value.outcome == "unknown"
    assert (await read_jobs.get(store, job.id)).state is State.CANCELLED


async def test_occurrences_whose_replies_are_lost_do_everything_once(
    store: Store, db: Any, consistent: Check
) -> None:
    shard = shard_of(store)
    due = await put(store, scheduled_at="+PT1H")
    expired = await put(store, scheduled_at="+P1D", expires_at="+PT1H")
    lost = await active(store, visibility_timeout_ms=60_000)
    slow = await active(store, timeout_ms=1000, visibility_timeout_ms=DAY)
    for job in (due, expired, lost, slow):
        age_job(db, shard, job.id, 2 * HOUR)
    flaky, client = lossy(store, "promote", "reap", "purge", "remove_old_workers")

    await promote_all(flaky)
    await reap_all(flaky)
    await retention.purge_due(flaky, shard, 10)
    await retention.remove_leftovers(flaky, shard)

    assert sorted(client.lost) == ["promote", "purge", "reap", "reap", "remove_old_workers"]
    assert (await read_jobs.get(store, lost.id)).attempt == 1
    assert len((await read_jobs.get(store, lost.id)).errors()) == 1
    assert len((await read_jobs.get(store, slow.id)).errors()) == 1
    assert consistent().count() == {"available": 2, "discarded": 1, "retryable": 1}


async def test_worker_calls_whose_replies_are_lost_change_nothing_twice(store: Store) -> None:
    job = await active(store)
    flaky, client = lossy(store, "heartbeat", "touch_worker", "set_quiet_flag", "record_quiet_flag")
    reply = await heartbeat(flaky, Heartbeat("w1", (job.id,), state="quiet"))

    assert set(client.lost) == {"heartbeat", "touch_worker", "set_quiet_flag", "record_quiet_flag"}
    assert (reply.state, reply.extended) == ("quiet", [job.id])


async def test_leadership_whose_reply_is_lost_is_held_with_one_token(store: Store) -> None:
    flaky, client = lossy(store, "lead")
    lease = (await RedisLeaderLock(flaky, META, "g", "me", 60_000).acquire()).lease

    assert lease is not None
    assert (
        await RedisLeaderLock(store, META, "g", "other", 60_000).acquire(insist=True)
    ).lease is None
    assert await lock_of(flaky, lease).renew(lease) != "lost"
    assert client.lost == ["lead", "lead"]
    await lock_of(flaky, lease).release(lease)
    after = (await RedisLeaderLock(store, META, "g", "other", 60_000).acquire(insist=True)).lease
    assert after is not None
    assert after.token == lease.token + 1


async def test_a_dead_letter_whose_deletion_lost_its_reply_is_gone_all_the_same(
    store: Store, db: Any, consistent: Check
) -> None:
    policy = {"on_exhaustion": "dead_letter"}
    job = await nack(store, await active(store, max_attempts=1, retry=policy))
    flaky, _ = lossy(store, "delete_dead", times=1)
    with pytest.raises(BackendUnavailable):
        await dead_letters.delete(flaky, job.id)

    assert (await retention.purge_due(store, shard_of(store), 10)).done == 1
    assert consistent().states == {}
