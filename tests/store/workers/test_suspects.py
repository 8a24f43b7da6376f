"""Jobs whose worker has died while it held them run again, alone, and the killer is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable, Conflict
from ojs_cluster.core.jobs.edit import parse_edit
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS
from ojs_cluster.keys import Shard
from ojs_cluster.redis import Client, Reply, Script
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes.edit import edit
from ojs_cluster.store.engine.fetch import isolation
from ojs_cluster.store.engine.fetch.fetch import release
from ojs_cluster.store.engine.fetch.isolation import BUSY, end_if_idle, isolate
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.isolation_flags import end_lost
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground import job_fields as f
from tests.store.shortcuts import (
    QUEUE,
    ack,
    active,
    envelope,
    nack,
    promote_all,
    put,
    reap_all,
    shard_of,
    take,
)
from tests.support.lossy import LossyClient
from tests.support.timeshift import age_job, age_worker, isolation_of

SECOND, MINUTE, HOUR = 1000, 60_000, 3_600_000
Check = Callable[[], None]


async def dies(store: Store, db: Any, worker: str, *, steadily: bool = False) -> None:
    """Let a worker die that sends heartbeats. Its leases end, or it misses heartbeats."""
    for _ in range(3 if steadily else 1):
        await heartbeat(store, Heartbeat(worker))
    home = store.keys.shard_of_worker(worker)
    age_worker(db, home, worker, MINUTE)
    if steadily:
        found, _, _ = await workers.find_dead(store, home, 10)
        for dead in found:
            for shard in store.keys:
                cursor: str | None = ""
                while cursor is not None:
                    _, cursor = await workers.recover(store, shard, [dead], cursor)
            await workers.finish_recovery(store, home, dead)
    else:
        for shard in store.keys:
            for job_id in db.zrange(shard.active, 0, -1):
                if db.hget(shard.job(job_id.decode()), f.WORKER) == worker.encode():
                    age_job(db, shard, job_id.decode(), HOUR)
        await reap_all(store)


def begin_earlier(store: Store, db: Any, worker: str) -> None:
    """Let the isolation of a worker have begun seconds ago."""
    store.busy_workers.discard(worker)
    for shard in _isolating(store, db, worker):
        db.zincrby(shard.quiet_workers, -4000, isolation_of(worker))


def _isolating(store: Store, db: Any, worker: str) -> list[Shard]:
    """Return the shards that isolate a worker."""
    return [s for s in store.keys if db.zscore(s.quiet_workers, isolation_of(worker))]


async def look(store: Store, job: JobRecord) -> JobRecord:
    return await read_jobs.get(store, job.id)


def message(job: JobRecord) -> str:
    return str(envelope(job)["error"]["message"])


@pytest.fixture(params=["its lease ends", "it misses heartbeats"])
def steadily(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "it misses heartbeats")


async def test_all_jobs_of_a_dead_worker_run_again_without_counting(
    store: Store, db: Any, steadily: bool, consistent: Check
) -> None:
    jobs = [await active(store) for _ in range(3)]
    await dies(store, db, "w1", steadily=steadily)
    for job in jobs:
        found = await look(store, job)
        assert (found.state, found.attempt, found.max_attempts) == (State.AVAILABLE, 1, 4)
        assert message(found) == "the worker died while it held 3 jobs, and this was one of them"
        assert envelope(found)["error"]["type"] == "worker_lost"
    consistent()


async def test_a_suspect_is_fetched_alone_and_its_worker_gets_no_other_job(
    store: Store, db: Any, steadily: bool, consistent: Check
) -> None:
    for _ in range(2):
        await active(store)
    await dies(store, db, "w1", steadily=steadily)
    for name in (QUEUE, "other", "further"):
        await put(store, name)
    [suspect] = await take(store, QUEUE, "other", count=9, worker="w2")
    assert await take(store, "other", "further", count=9, worker="w2") == []
    assert len(await take(store, "other", count=9, worker="w3")) == 1
    consistent()
    await ack(store, suspect, lease_id=suspect.lease_id)
    assert await take(store, "further", worker="w2") == [], "another fetch may lease a suspect yet"
    begin_earlier(store, db, "w2")
    [other] = await take(store, "further", worker="w2")
    await ack(store, other)
    [suspect] = await take(store, count=9, worker="w2")
    await ack(store, suspect)
    consistent()


async def test_no_death_is_one_of_a_lone_job_while_the_worker_held_others(
    store: Store, db: Any, steadily: bool
) -> None:
    jobs = [await active(store) for _ in range(2)]
    for job in jobs:  # as two fetches, or a process of an earlier version, could leave it
        db.hset(shard_of(store).job(job.id), f.ALONE, 2**52)
    await dies(store, db, "w1", steadily=steadily)
    for job in jobs:
        found = await look(store, job)
        assert message(found) == "the worker died while it held 2 jobs, and this was one of them"


async def test_a_worker_gets_no_other_job_while_it_runs_a_suspect_for_long(
    store: Store, db: Any
) -> None:
    for _ in range(2):
        await active(store)
    await dies(store, db, "w1")
    await put(store, "other")
    assert len(await take(store, count=9, worker="w2")) == 1
    begin_earlier(store, db, "w2")
    assert await take(store, "other", worker="w2") == []


async def test_an_isolation_leaves_the_quiet_flag_of_an_operator(store: Store, db: Any) -> None:
    ends_ms = store.clock.now_ms() + MINUTE
    for shard in store.keys:
        db.zadd(shard.quiet_workers, {"w1": ends_ms})
    assert await isolate(store, shard_of(store), "w1") != BUSY
    begin_earlier(store, db, "w1")
    assert await end_if_idle(store, shard_of(store), "w1")
    assert {db.zscore(shard.quiet_workers, "w1") for shard in store.keys} == {float(ends_ms)}


async def test_what_an_earlier_version_left_does_not_hide_that_a_suspect_runs_alone(
    store: Store, db: Any
) -> None:
    job = await active(store)
    await dies(store, db, "w1")
    key = shard_of(store).job(job.id)
    db.hset(key, f.ALONE, 1)
    assert len(await take(store, worker="w2")) == 1
    assert float(db.hget(key, f.ALONE)) > 1


async def test_one_of_several_isolations_at_a_time_holds(store: Store) -> None:
    modes = list[str]()

    async def begin(shard: Shard) -> None:
        modes.append(await isolate(store, shard, "w1"))

    async with trio.open_nursery() as nursery:
        for shard in list(store.keys)[:4]:  # parts of one fetch, each with a suspect
            nursery.start_soon(begin, shard)
    assert modes.count(BUSY) == 3


async def test_one_worker_at_a_time_is_checked_for_the_suspects_of_a_shard(store: Store) -> None:
    modes = dict[str, str]()

    async def begin(worker: str) -> None:
        modes[worker] = await isolate(store, shard_of(store), worker)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(begin, f"w{number}")
    [left, *_] = [worker for worker, mode in modes.items() if mode == BUSY]
    assert list(modes.values()).count(BUSY) == 3
    assert await isolate(store, shard_of(store), left) != BUSY, "it is checked with its next fetch"


async def test_a_worker_with_a_job_in_the_suspects_shard_costs_one_script(store: Store) -> None:
    await active(store)
    client = LossyClient(store.redis, lambda _name, _before: False)
    counting = replace(store, redis=cast(Client, client))
    assert await isolate(counting, shard_of(store), "w1") == BUSY
    assert client.calls == {"isolate_worker": 1}


async def _count_calls(store: Store, command: str) -> int:
    calls = 0
    for reply in (await store.redis.call_masters("INFO", "commandstats")).values():
        for line in cast(bytes, reply).decode().splitlines():
            name, _, values = line.partition(":calls=")
            calls += int(values.split(",")[0]) if name == f"cmdstat_{command}" else 0
    return calls


async def test_fetches_of_an_isolated_worker_rarely_read_the_active_jobs(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_HOLDS_S", HOUR)  # else a slow machine looks twice
    await active(store)
    await dies(store, db, "w1")
    await take(store, worker="w2")
    reads = await _count_calls(store, "hmget")
    assert await take(store, worker="w2") == []
    assert await _count_calls(store, "hmget") == reads, "the isolation has begun just now"
    begin_earlier(store, db, "w2")
    for _ in range(5):
        assert await take(store, worker="w2") == []
    assert await _count_calls(store, "hmget") == reads + 1


async def test_the_job_that_kills_its_workers_alone_becomes_a_dead_letter(
    store: Store, db: Any, steadily: bool, consistent: Check
) -> None:
    killer, victim = await active(store, max_attempts=9), await active(store)
    await dies(store, db, "w1", steadily=steadily)
    for number in range(2, 5):
        for _ in range(2):
            suspects = await take(store, worker=f"w{number}", count=9)
            if [job.id for job in suspects] == [victim.id]:
                await ack(store, suspects[0])
                begin_earlier(store, db, f"w{number}")
        assert [job.id for job in suspects] in ([killer.id], [])
        await dies(store, db, f"w{number}", steadily=steadily)
        if number == 2:
            found = await look(store, killer)
            assert (found.state, found.attempt, found.max_attempts) == (State.AVAILABLE, 2, 10)
            assert message(found) == "the worker died while it ran this job alone"
    ended = await look(store, killer)
    assert (ended.state, ended.dead, ended.attempt) == (State.DISCARDED, True, 4)
    assert message(ended) == "the worker died while it ran this job alone, 3 times"
    assert (await look(store, victim)).state is State.COMPLETED
    consistent()

    retried = await dead_letters.retry(store, killer.id)
    assert (retried.attempt, retried.max_attempts) == (0, 9)
    consistent()


async def test_a_job_caught_three_times_among_others_counts_the_third(
    store: Store, db: Any, steadily: bool, consistent: Check
) -> None:
    job = await active(store)
    key = shard_of(store).job(job.id)
    for number in range(3):
        await dies(store, db, f"w{number + 1}", steadily=steadily)
        found = await look(store, job)
        assert (found.attempt, found.max_attempts) == (number + 1, min(4 + number, 5))
        # It waits no longer for an idle worker: the next one holds another job.
        await active(store, f"busy-{number}", worker=f"w{number + 2}")
        assert await take(store, worker=f"w{number + 2}") == []
        db.hset(key, f.ENQUEUED, int(db.hget(key, f.ENQUEUED)) - MINUTE)
        [again] = await take(store, worker=f"w{number + 2}")
        assert again.id == job.id
        assert db.hget(key, f.ALONE) is None
    consistent()


async def test_a_job_that_may_run_once_does_not_run_again(
    store: Store, db: Any, steadily: bool
) -> None:
    once = await active(store, max_attempts=1)
    named = await active(store, retry={"non_retryable_errors": ["worker_lost"]})
    await dies(store, db, "w1", steadily=steadily)
    for job in (once, named):
        assert (await look(store, job)).state is State.DISCARDED


async def test_a_cancelled_suspect_does_not_run_again(store: Store, db: Any) -> None:
    job = await active(store)
    await dies(store, db, "w1")
    [again] = await take(store, worker="w2")
    await cancel(store, again.id)
    assert db.hget(shard_of(store).job(job.id), f.ALONE) is None
    begin_earlier(store, db, "w2")
    [other] = [await put(store, "other")]
    [found] = await take(store, "other", worker="w2")
    assert found.id == other.id


async def test_a_worker_that_lives_and_lets_a_lease_end_counts_the_attempt(
    store: Store, db: Any
) -> None:
    job = await active(store)
    await heartbeat(store, Heartbeat("w1"))
    age_job(db, shard_of(store), job.id, HOUR)
    await reap_all(store)
    found = await look(store, job)
    assert (found.attempt, found.max_attempts) == (1, 3)
    assert envelope(found)["error"]["type"] == "visibility_timeout"
    assert len(await take(store, count=9, worker="w2")) == 1


async def test_a_worker_without_heartbeats_counts_the_attempt(store: Store, db: Any) -> None:
    job = await active(store)
    age_job(db, shard_of(store), job.id, HOUR)
    await reap_all(store)
    assert envelope(await look(store, job))["error"]["type"] == "visibility_timeout"


async def test_a_busy_worker_gets_the_jobs_behind_a_suspect(store: Store, db: Any) -> None:
    suspect = await active(store)
    await dies(store, db, "w1")
    behind = await put(store)
    await active(store, "busy", worker="w2")
    assert [job.id for job in await take(store, count=9, worker="w2")] == [behind.id]
    assert [job.id for job in await take(store, count=9, worker="idle")] == [suspect.id]


async def test_a_fetch_without_a_worker_gets_a_suspect_in_the_end(store: Store, db: Any) -> None:
    job = await active(store)
    await dies(store, db, "w1")
    key = shard_of(store).job(job.id)
    assert await take(store, worker="") == []
    db.hset(key, f.ENQUEUED, int(db.hget(key, f.ENQUEUED)) - MINUTE)
    db.hset(key, f.ALONE, 2**52)  # a process of an earlier version leaves it
    assert [one.id for one in await take(store, worker="", count=9)] == [job.id]
    assert db.hget(key, f.ALONE) is None, "it did not get this lease alone"


async def test_many_suspects_do_not_stop_a_queue(store: Store, db: Any, consistent: Check) -> None:
    for _ in range(60):
        await put(store)
    held = await take(store, count=60)
    await dies(store, db, "w1", steadily=True)
    await active(store, "busy", worker="w2")
    others = await take(store, count=60, worker="w2")
    assert len(others) == len(held) - 50
    assert {job.id for job in others} < {job.id for job in held}
    consistent()


async def test_only_some_workers_are_isolated_at_a_time(store: Store, db: Any) -> None:
    for _ in range(12):
        await put(store)
    await take(store, count=12)
    await dies(store, db, "w1")
    fetched = [await take(store, count=9, worker=f"idle-{number}") for number in range(10)]
    assert [len(jobs) for jobs in fetched] == [1] * 8 + [0] * 2
    assert "idle-9" not in store.busy_workers, "no shard was asked whether it holds jobs"


async def test_a_lone_death_makes_room_for_another_isolation(
    store: Store, db: Any, steadily: bool, consistent: Check
) -> None:
    job = await active(store)
    await dies(store, db, "w1", steadily=steadily)
    for number in range(7):
        assert await isolate(store, shard_of(store), f"idle-{number}") != BUSY
    [suspect] = await take(store, worker="w2")
    assert await isolate(store, shard_of(store), "w3") == BUSY
    await dies(store, db, "w2", steadily=steadily)
    assert (suspect.id, (await look(store, job)).lone_deaths) == (job.id, 1)
    assert _isolating(store, db, "w2") == []
    assert [len(_isolating(store, db, f"idle-{number}")) for number in range(7)] == [
        len(store.keys)
    ] * 7
    store.busy_workers.discard("w3")
    assert await isolate(store, shard_of(store), "w3") != BUSY
    consistent()


async def test_a_late_sweep_leaves_the_workers_next_isolation(store: Store, db: Any) -> None:
    until = store.clock.now_ms() + MINUTE
    for shard in store.keys:
        db.zadd(shard.quiet_workers, {isolation_of("w1"): until})
    await end_lost(store, [b"w1", str(until - 1).encode()])
    assert _isolating(store, db, "w1") == list(store.keys)
    await end_lost(store, [b"w1", str(until).encode()])
    assert _isolating(store, db, "w1") == []


async def test_an_operators_quiet_flag_outlives_the_isolation(store: Store, db: Any) -> None:
    await active(store)
    await dies(store, db, "w1")
    await heartbeat(store, Heartbeat("w2"))
    [suspect] = await take(store, worker="w2")
    await workers.send_directive(store, "w2", "quiet")
    await ack(store, suspect)
    await put(store)
    assert await take(store, worker="w2") == []
    await workers.send_directive(store, "w2", "running")
    begin_earlier(store, db, "w2")
    assert len(await take(store, worker="w2")) == 1


async def test_neither_a_quiet_nor_a_resumed_worker_gets_jobs_beside_its_suspect(
    store: Store, db: Any
) -> None:
    job = await active(store)
    await dies(store, db, "w1")
    await heartbeat(store, Heartbeat("w2"))
    await take(store, worker="w2")
    await put(store, "other")
    for directive in ("quiet", "running"):
        await workers.send_directive(store, "w2", directive)
        begin_earlier(store, db, "w2")
        assert await take(store, "other", worker="w2") == []
        assert _isolating(store, db, "w2") == list(store.keys)
    await ack(store, job)
    store.busy_workers.discard("w2")  # a second later
    assert len(await take(store, "other", worker="w2")) == 1
    assert _isolating(store, db, "w2") == []


async def test_concurrent_isolations_are_bounded(store: Store, db: Any) -> None:
    modes = list[str]()

    async def begin(number: int) -> None:  # each has a shard of its own: see probed_shards
        modes.append(await isolate(store, list(store.keys)[number], f"idle-{number}"))

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(begin, number)
    assert 30 - modes.count(BUSY) <= 8, "fewer if they have refused each other"
    for number in range(30, 39):
        await begin(number)
    assert 39 - modes.count(BUSY) == 8
    for number in range(39):  # those that were refused have left nothing
        assert len(_isolating(store, db, f"idle-{number}")) in (0, len(store.keys))


async def test_too_many_quiet_workers_to_count_isolate_none(store: Store, db: Any) -> None:
    for shard in store.keys:
        db.zadd(shard.quiet_workers, dict.fromkeys((f"quiet-{n}" for n in range(1000)), 2**52))
    assert await isolate(store, shard_of(store), "w1") == BUSY


async def test_a_lost_reply_does_not_end_the_isolation(store: Store, db: Any) -> None:
    job = await active(store)
    await dies(store, db, "w1")
    client = LossyClient(store.redis, lambda name, before: name == "fetch_full" and before == 1)
    with pytest.raises(BackendUnavailable):
        await take(replace(store, redis=cast(Client, client)), worker="w2")
    assert client.lost == ["fetch_full"]
    assert float(db.hget(shard_of(store).job(job.id), f.ALONE)) > 1
    assert _isolating(store, db, "w2") == list(store.keys)


async def test_a_fetch_that_was_not_applied_ends_the_isolation(store: Store, db: Any) -> None:
    class Refusing(LossyClient):
        async def script(self, slot: int, script: Script, *args: Any, **kind: Any) -> Reply:
            if script.name == "fetch_full" and self.calls.get("fetch_full") == 1:
                assert _isolating(store, db, "w2") == list(store.keys)
                raise BackendUnavailable("no answer", outcome="not_applied")
            return await super().script(slot, script, *args, **kind)

    await active(store)
    await dies(store, db, "w1")
    refusing = Refusing(store.redis, lambda _name, _before: False)
    with pytest.raises(BackendUnavailable):
        await take(replace(store, redis=cast(Client, refusing)), worker="w2")
    assert _isolating(store, db, "w2") == []


@pytest.mark.parametrize("end", ["nack", "requeue", "snooze"])
async def test_a_job_whose_worker_ends_an_attempt_is_no_suspect_any_more(
    store: Store, db: Any, end: str, consistent: Check
) -> None:
    job = await active(store)
    await dies(store, db, "w1")
    await take(store, worker="w2")
    await dies(store, db, "w2")
    [suspect] = await take(store, worker="w3")
    snooze = {"action": "SNOOZE", "retry_delay_ms": MINUTE}
    await nack(store, suspect, snooze if end == "snooze" else None, requeue=end == "requeue")
    key = shard_of(store).job(job.id)
    assert db.hmget(key, f.SUSPECT, f.ALONE) == [None, None]
    if end != "requeue":
        age_job(db, shard_of(store), job.id, HOUR)
        await promote_all(store)
    other = await put(store)
    await active(store, "busy", worker="w4")
    assert {one.id for one in await take(store, count=9, worker="w4")} == {job.id, other.id}
    found = await look(store, job)
    assert (found.lone_deaths, found.max_attempts) == (1, 4)
    consistent()


async def test_a_suspect_whose_fetch_nobody_received_stays_one(store: Store, db: Any) -> None:
    job = await active(store)
    await dies(store, db, "w1")
    [suspect] = await take(store, worker="w2")
    await release(store, [suspect])
    assert db.hget(shard_of(store).job(job.id), f.SUSPECT)


async def test_the_number_of_lone_deaths_is_a_setting(store: Store, db: Any) -> None:
    once = replace(store, settings=replace(store.settings, lone_deaths=1))
    job = await active(once, retry={"on_exhaustion": "discard"})
    await dies(once, db, "w1")
    await take(once, worker="w2")
    assert _isolating(once, db, "w2") == list(once.keys)
    await dies(once, db, "w2")
    found = await look(once, job)
    assert (found.state, found.dead, found.attempt) == (State.DISCARDED, False, 2)


async def test_a_retry_of_a_killer_keeps_the_maximum_of_an_edit(store: Store, db: Any) -> None:
    once = replace(store, settings=replace(store.settings, lone_deaths=1))
    job = await active(once)
    await dies(once, db, "w1")
    change = parse_edit(b'{"max_attempts": 7}', DEFAULT_LIMITS)
    edited, _ = await edit(once, job.id, change)
    assert edited.max_attempts == 7
    await take(once, worker="w2")
    await dies(once, db, "w2")
    retried = await dead_letters.retry(once, job.id)
    assert (retried.attempt, retried.max_attempts) == (0, 7)


async def test_a_cancel_request_outlives_the_last_lone_death(
    store: Store, db: Any, steadily: bool
) -> None:
    once = replace(store, settings=replace(store.settings, lone_deaths=1))
    job = await active(once)
    await dies(once, db, "w1", steadily=steadily)
    await take(once, worker="w2")
    with pytest.raises(Conflict):
        await cancel(once, job.id, only="inactive")
    await dies(once, db, "w2", steadily=steadily)
    assert (await look(once, job)).state is State.CANCELLED


@pytest.mark.parametrize("ahead_s", [-4.0, 4.0])
async def test_a_suspect_runs_alone_in_a_shard_whose_clock_differs(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    job = await active(store)
    await dies(store, db, "w1")
    # The process knows the median of the masters; this shard is ahead of it, or behind.
    monkeypatch.setattr(store.clock, "_ahead_s", store.clock._ahead_s - ahead_s)
    [suspect] = await take(store, worker="w2")
    assert suspect.id == job.id
    assert db.hget(shard_of(store).job(job.id), f.ALONE)
