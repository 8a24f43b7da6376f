"""Schedulers as processes on a real cluster: kills, stops, outages, and the jobs."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import META, Keyspace
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs.ack import ack
from tests.scheduler.running import (
    all_in,
    eventually,
    leader_of,
    put,
    schedulers,
    shared,
    store_at,
)
from tests.support.servers import await_replicated, observer, own_server

LEASE_MS = 20_000
LEASE_KEY = "ojs:{meta}:leader:default"


async def test_another_process_leads_when_the_lease_of_a_killed_one_ends(
    cluster: Embedded,
) -> None:
    async with schedulers(cluster.url, 2, lease_ttl_ms=LEASE_MS) as running:
        await shared(running)
        first, other = running
        tokens, kept = first.held, other.held
        assert not tokens.keys() & kept.keys()
        killed_at = trio.current_time()
        first.kill()
        await eventually(lambda: other.leads, what="it leads all")
        assert all(other.held[shard] > token for shard, token in tokens.items())
        assert kept.items() <= other.held.items(), "what it led it has led on"
    # Within one lease time, which is proved in virtual time (test_election.py); here a busy machine
    # has more, and still less than a second lease time.
    assert other.at - killed_at < 1.8 * LEASE_MS / 1000


async def test_a_clean_stop_hands_over_at_once(cluster: Embedded) -> None:
    # With a lease this long, waiting for its end (30 s or more) would not pass.
    async with schedulers(cluster.url, 2, lease_ttl_ms=60_000) as running:
        await shared(running)
        first, other = running
        first.process.send_signal(signal.SIGTERM)
        await eventually(lambda: other.leads, within_s=25, what="it leads all")
        await first.process.wait()
        assert first.process.returncode == 0


async def test_the_command_releases_its_lease_when_it_is_stopped(cluster: Embedded) -> None:
    environment = {
        **os.environ,
        "REDIS_URL": cluster.url,
        "OJS_ALLOW_INSECURE_NO_AUTH": "true",
        "OJS_SCHEDULER_LEASE": "60s",
    }
    code = "import sys; from ojs_cluster.cli import main; sys.exit(main(['scheduler']))"
    with observer(cluster) as redis:
        async with trio.open_nursery() as nursery:
            command = partial(trio.run_process, [sys.executable, "-c", code], env=environment)
            process: trio.Process = await nursery.start(command)
            keys = Keyspace(64)
            tags = (*keys, keys.meta)
            await eventually(
                lambda: all(redis.exists(tag.leader("default")) for tag in tags), what="it leads"
            )
            process.send_signal(signal.SIGTERM)
        assert not any(redis.exists(tag.leader("default")) for tag in tags)
        assert not any(redis.exists(tag.candidates("default")) for tag in tags)


async def test_no_job_is_lost_or_run_twice_when_the_leader_is_killed(cluster: Embedded) -> None:
    runs: Counter[str] = Counter()

    async def work(store: Store, name: str, queues: list[str]) -> None:
        while True:
            for job in await fetch(store, queues, count=5, worker_id=name):
                runs[job.id] += 1
                assert job.lease_id
                await ack(store, job.id, worker_id=name, lease_id=job.lease_id, result=None)
            await trio.sleep(0.005)

    queues = [f"q{i}" for i in range(12)]
    async with (
        store_at(cluster.url) as store,
        schedulers(cluster.url, 2, lease_ttl_ms=2000, promote_batch=7) as running,
        trio.open_nursery() as nursery,
    ):
        await leader_of(running)
        served: list[str] = []
        unfetched: list[str] = []
        for i, queue in enumerate(queues):
            for step in range(8):
                served += await put(store, 5, queue, scheduled_at=f"+PT{0.5 + step * 0.5:.1f}S")
            unfetched += await put(store, 5, f"unfetched-{i}", scheduled_at=f"+PT{1 + i % 4}S")
        for i in range(4):
            nursery.start_soon(work, store, f"w{i}", queues)
        await trio.sleep(1.5)
        (await leader_of(running)).kill()
        await eventually(lambda: len(runs) == len(served), within_s=120, what="every job ran")
        await leader_of(running)
        await eventually(
            lambda: all_in(store, unfetched, State.AVAILABLE),
            what="jobs that are not fetched are available, too",
        )
        await eventually(lambda: all_in(store, served, State.COMPLETED), what="all are acked")
        nursery.cancel_scope.cancel()
    assert runs == Counter(served)


def _owner(server: Embedded, key: str) -> EmbeddedNode:
    with observer(server) as redis:
        port = redis.get_node_from_key(key).port  # type: ignore[union-attr]  # a cluster's client
    return next(node for node in server.nodes if node.port == port)


async def test_a_leader_stops_leading_unresponsive_shards_and_leads_again_after(
    tmp_path: Path,
) -> None:
    with own_server(tmp_path, node_timeout_ms=60_000) as server:
        # A shorter lease would end while other processes use the processor.
        async with schedulers(server.url, 1, lease_ttl_ms=10_000) as running:
            first = await leader_of(running)
            tokens = first.held
            node = _owner(server, LEASE_KEY)
            keys = Keyspace(64)
            there = {shard.index for shard in keys if _owner(server, shard.schema.decode()) is node}
            server.pause(node)
            await eventually(
                lambda: not (there | {META}) & first.held.keys(), what="it steps down there"
            )
            assert first.held.items() == {
                (shard, token)
                for shard, token in tokens.items()
                if shard not in there and shard != META
            }, "it leads all others as before"
            server.resume(node)
            await leader_of(running)


@pytest.mark.parametrize("victim", ["the lease's", "another"])
async def test_work_goes_on_after_a_master_died_and_its_replica_took_over(
    tmp_path: Path, victim: str
) -> None:
    with own_server(tmp_path, replicas=1, node_timeout_ms=5000) as server:
        async with (
            store_at(server.url, call_timeout_s=10) as store,
            schedulers(server.url, 2, lease_ttl_ms=2000) as running,
        ):
            await leader_of(running)
            jobs: list[str] = []
            for i in range(30):
                jobs += await put(store, 2, f"q{i}", scheduled_at="+PT4S")
            await trio.to_thread.run_sync(await_replicated, server)
            home = _owner(server, LEASE_KEY)
            masters = server.masters()
            dying = home if victim == "the lease's" else next(m for m in masters if m is not home)
            server.kill(dying)
            await eventually(
                lambda: all_in_or_down(store, jobs), within_s=120, what="all due jobs are available"
            )
            await leader_of(running)


async def all_in_or_down(store: Store, jobs: list[str]) -> bool:
    """As all_in; a node that does not answer yet counts as "not yet"."""
    try:
        return await all_in(store, jobs, State.AVAILABLE)
    except BackendUnavailable:
        return False
