"""Fetches that Redis ran and whose replies were lost: no worker has their jobs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Keyspace
from ojs_cluster.redis.client import Client
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import release
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.nack import release_unanswered
from ojs_cluster.store.ground.process_state import partitions, unanswered_fetches
from ojs_cluster.store.ground.process_state.job_counts import JobCounts
from ojs_cluster.store.ground.process_state.unanswered_fetches import UnansweredFetches
from ojs_cluster.store.open import open_store
from tests.store.shortcuts import (
    HOUR,
    active,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport, check_invariants
from tests.support.lossy import LossyClient, lossy
from tests.support.patience import LONG_S, patient_client
from tests.support.servers import own_server
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]
PREFIX = b"lease_%018d_"


async def nothing_pends(store: Store) -> None:
    with trio.fail_after(LONG_S):
        while len(store.unanswered_fetches):  # noqa: ASYNC110 - the end of a release has no event
            await trio.sleep(0.01)


@pytest.mark.parametrize("queues", [1, 8])
async def test_jobs_of_a_fetch_that_fails_after_the_reply_are_released(
    store: Store, queues: int, monkeypatch: pytest.MonkeyPatch, consistent: Check
) -> None:
    names = queues_in_other_shards(store, queues)
    made = [await put(store, name, max_attempts=1) for name in names]

    def fails(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(JobCounts, "count_start", fails)  # a step after the jobs have their leases
        with pytest.raises((RuntimeError, ExceptionGroup)):
            await take(store, *names, count=queues)

    taken = await take(store, *names, count=queues)
    assert sorted(job.id for job in taken) == sorted(job.id for job in made)
    assert {job.attempt for job in taken} == {1}
    consistent()


@pytest.mark.parametrize("script", ["fetch", "fetch_full"])
async def test_jobs_of_a_fetch_whose_reply_is_lost_are_released(
    store: Store, script: str, consistent: Check
) -> None:
    """Also on its last attempt a job that no worker has had is not discarded."""
    limited: dict[str, Any] = {"rate_limit": {"max_per_second": 9}} if script != "fetch" else {}
    first = [await put(store, max_attempts=1, **limited) for _ in range(3)]
    later = await put(store)
    flaky, client = lossy(store, script, times=1)
    with pytest.raises(BackendUnavailable) as failure:
        await take(flaky, count=3)
    assert failure.value.outcome == "unknown"
    assert client.lost == [script]
    await nothing_pends(store)

    assert {(await read_jobs.get(store, job.id)).state for job in first} == {State.AVAILABLE}
    again = await take(store, count=4)
    assert [job.id for job in again] == [job.id for job in (*first, later)]
    assert [job.attempt for job in again] == [1, 1, 1, 1]
    assert not any(b'"errors"' in job.json() for job in again)
    consistent()


async def test_jobs_of_other_fetches_keep_their_leases(store: Store, consistent: Check) -> None:
    mine = await active(store)
    await put(store)
    flaky, _ = lossy(store, "fetch", times=1)
    with pytest.raises(BackendUnavailable):
        await take(flaky, worker="w1")
    await nothing_pends(store)

    assert (await read_jobs.get(store, mine.id)).state is State.ACTIVE
    assert consistent().count() == {"active": 1, "available": 1}


async def test_a_walk_over_many_active_jobs_finds_all_of_them(
    store: Store, monkeypatch: pytest.MonkeyPatch, consistent: Check
) -> None:
    """In slices, many of one deadline, more than one call releases."""
    monkeypatch.setattr("ojs_cluster.store.engine.jobs.nack.JOBS_PER_WALK", 7)
    for _ in range(160):
        await put(store)
    kept = await take(store, count=20, worker="other", lease_ms=HOUR)
    flaky, _ = lossy(store, "fetch", times=1)
    with pytest.raises(BackendUnavailable):
        await take(flaky, count=120)
    kept += await take(store, count=20, worker="other")
    await nothing_pends(store)

    assert {(await read_jobs.get(store, job.id)).state for job in kept} == {State.ACTIVE}
    assert consistent().count() == {"active": 40, "available": 120}


async def test_a_release_whose_reply_is_lost_is_repeated(store: Store, consistent: Check) -> None:
    job = await active(store)
    assert job.lease_id is not None
    flaky, client = lossy(store, "release_unanswered", times=1)
    await release_unanswered(flaky, shard_of(store), [job.lease_id.encode()[:25]])

    assert client.lost == ["release_unanswered"]
    assert [again.attempt for again in await take(store)] == [1]
    consistent()


async def test_jobs_whose_client_left_and_that_cannot_be_given_back_are_released_later(
    store: Store, consistent: Check
) -> None:
    first, second = queues_in_other_shards(store, 2)
    given = [await active(store, first), await active(store, second)]
    await release(unreachable(store, "nack"), given)
    await nothing_pends(store)

    assert [(await read_jobs.get(store, job.id)).attempt for job in given] == [0, 0]
    assert consistent().count() == {"available": 2}


def unreachable(store: Store, name: str) -> Store:
    """A store whose Redis cannot be reached for one script."""

    class Unreachable(LossyClient):
        async def script(self, slot: int, script: Any, keys: Any, args: Any, **kind: Any) -> Any:
            if script.name == name:
                raise BackendUnavailable("no connection", outcome="not_applied")
            return await super().script(slot, script, keys, args, **kind)

    return replace(store, redis=cast(Client, Unreachable(store.redis, lambda *_: False)))


async def test_a_fetch_that_a_stopped_server_carries_out_late_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has given the connection up; the server reads the fetch when it goes on."""
    with own_server(tmp_path, cluster=False) as server:
        async with open_store(patient_client(server, reply_timeout_s=5.0)) as store:
            job = await put(store, max_attempts=1)
            await take(store, "empty")
            monkeypatch.setattr(partitions, "_MAX_WAIT_S", 0.5)
            pid = server.nodes[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(BackendUnavailable) as failure:
                    await take(store)
                assert failure.value.outcome == "unknown"
                assert len(store.unanswered_fetches) == 1
            finally:
                os.kill(pid, signal.SIGCONT)
            await nothing_pends(store)

            found = await read_jobs.get(store, job.id)
            assert (found.state, found.attempt) == (State.AVAILABLE, 0)
        assert check_invariants(server).problems == []


async def test_a_process_that_stops_releases_what_is_pending(
    backend: Any, store: Store, consistent: Check
) -> None:
    """Best effort: within a second, when the shard answers."""
    async with open_store(patient_client(backend)) as stopping:
        job = await active(stopping)
        stopping.unanswered_fetches._shards_with_task.add(
            shard_of(store)
        )  # its own task is not there yet
        assert job.lease_id is not None
        stopping.unanswered_fetches.add(shard_of(store), job.lease_id.encode())

    assert (await read_jobs.get(store, job.id)).attempt == 0
    consistent()


async def test_a_process_that_dies_leaves_the_jobs_to_their_leases(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await active(store)  # its process died before the answer
    age_job(db, shard_of(store), job.id, HOUR)
    await reap_all(store)

    assert [again.attempt for again in await take(store)] == [2]
    consistent()


# Without a server: how often, how long, how many


class Shards:
    """What a release function is asked, and answers."""

    def __init__(self, answers: dict[int, list[bytes]] | None = None) -> None:
        self.asked: list[tuple[float, int, int]] = []
        self.away: set[int] = set()
        self.broken: set[int] = set()
        self.answers = answers or {}

    async def release(self, shard: Any, prefixes: Any) -> list[bytes]:
        self.asked.append((trio.current_time(), shard.index, len(prefixes)))
        await trio.lowlevel.checkpoint()
        if shard.index in self.broken:
            raise RedisReplyError("WRONGTYPE what the script met is no job")
        if shard.index in self.away:
            raise BackendUnavailable("away", outcome="unknown")
        return self.answers.get(shard.index, [])


@pytest.fixture
def keys() -> Any:
    return Keyspace(4)


async def test_a_fetch_that_is_not_found_is_searched_a_few_times(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, keys: Any
) -> None:
    lost, shards = UnansweredFetches(), Shards()
    nursery.start_soon(lost.run, shards.release)
    lost.add(keys.shard(1), PREFIX % 1)
    lost.add(keys.shard(1), PREFIX % 1)
    lost.add(keys.shard(1), PREFIX % 2)
    await trio.sleep(3600)

    assert shards.asked == [(0.0, 1, 2), (1.0, 1, 2), (6.0, 1, 2), (36.0, 1, 2)]
    assert len(lost) == 0


async def test_a_fetch_that_was_found_is_not_searched_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, keys: Any
) -> None:
    lost, shards = UnansweredFetches(), Shards({1: [PREFIX % 2, PREFIX % 2]})
    nursery.start_soon(lost.run, shards.release)
    lost.add(keys.shard(1), PREFIX % 1)
    lost.add(keys.shard(1), PREFIX % 2 + b"1")
    await trio.sleep(3600)

    assert [count for _, _, count in shards.asked] == [2, 1, 1, 1]
    assert len(lost) == 0


async def test_a_shard_that_is_away_delays_no_other_and_is_given_up(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, keys: Any
) -> None:
    lost, shards = UnansweredFetches(), Shards({2: [PREFIX % 2]})
    shards.away = {1}
    nursery.start_soon(lost.run, shards.release)
    lost.add(keys.shard(1), PREFIX % 1)
    lost.add(keys.shard(2), PREFIX % 2)
    await trio.sleep(0.5)
    assert len(lost) == 1
    await trio.sleep(3600)

    assert len(lost) == 0
    tried = [at for at, index, _ in shards.asked if index == 1]
    assert 590 < tried[-1] <= unanswered_fetches.GIVE_UP_S


async def test_a_release_that_fails_ends_neither_the_task_nor_its_process(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, keys: Any
) -> None:
    lost, shards = UnansweredFetches(), Shards({1: [PREFIX % 1], 2: [PREFIX % 2]})
    shards.broken = {1}
    nursery.start_soon(lost.run, shards.release)
    lost.add(keys.shard(1), PREFIX % 1)
    await trio.sleep(0.5)
    shards.broken = set()
    lost.add(keys.shard(2), PREFIX % 2)
    await trio.sleep(3600)

    assert len(lost) == 0
    assert [index for _, index, _ in shards.asked] == [1, 2, 1]


async def test_pending_releases_are_bounded(
    autojump_clock: trio.testing.MockClock, keys: Any
) -> None:
    lost = UnansweredFetches()
    for number in range(unanswered_fetches.MAX_PENDING + 5):
        lost.add(keys.shard(number % 4), PREFIX % number)

    assert len(lost) == unanswered_fetches.MAX_PENDING
