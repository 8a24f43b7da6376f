"""What scripts do while Redis is at ``maxmemory``: each says it, and does it (docs/adr/022)."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import redis as redis_py
import trio

from ojs_cluster.core.errors import WritesRefused
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.redis.client import Client
from ojs_cluster.redis.script import Script
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs.ack import Ack, ack_many
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.scripts import _shebangs, load_scripts
from tests.store.scripts.test_one_tag import one_life_of_everything
from tests.store.shortcuts import HOUR, new_job, promote_all, reap_all, shard_of, take
from tests.support.patience import LONG_S
from tests.support.timeshift import age_job

SCRIPTS = load_scripts()


def flags(script: Script) -> str:
    """The flags of a script, '' when Redis refuses it at its first write."""
    first, _, _ = script.source.partition(b"\n")
    return first.removeprefix(b"#!lua flags=").decode() if first.startswith(b"#!") else ""


def test_a_script_that_says_nothing_of_memory_is_not_loaded() -> None:
    with pytest.raises(ValueError, match=r"new\.lua has no line '-- Memory: "):
        _shebangs("new", "-- Transition: none.\n-- KEYS: 1 job.\nreturn 1\n")


def test_what_adds_jobs_is_refused_and_nothing_else() -> None:
    refused = {name for name, script in SCRIPTS.items() if not flags(script)}
    assert refused == {
        *(
            "checkpoint_save",
            "enqueue",
            "enqueue_one",
            "claim_alias",
            "reserve_ids",
            "lock_claim",
            "request_begin",
            "transaction_commit",
        ),
        *("transaction_record", "edit_job", "agent_write"),
        *("workflow_create", "cron_register", "cron_claim_occurrence", "register_queue", "schema"),
        *("restore_cron", "restore_job", "restore_queue", "restore_workflow"),
        "workflow_store_portion",
    }


def test_a_script_that_reads_cannot_write(standalone: Embedded) -> None:
    readers = [script for script in SCRIPTS.values() if flags(script) == "no-writes"]
    assert readers
    with standalone.nodes[0].client() as db:
        for script in readers:
            body = script.source.decode().split("\n", 1)
            code = f"{body[0]}\nredis.call('SET', KEYS[1], 1)"
            with pytest.raises(redis_py.ResponseError, match="read-only"):
                db.eval(code, 1, "ojs:{a}:x")


class FullRedis:
    """A client whose server is at ``maxmemory`` whenever it runs a script.

    What is refused then has written nothing, and is run again with memory.
    """

    def __init__(self, client: Client, backend: Embedded) -> None:
        self._client = client
        self._one_at_a_time = trio.Lock()
        self.ran: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.wrote: Counter[str] = Counter()
        self.outcomes: set[str] = set()
        self.hashes: dict[str, bytes] = {}
        self._admins = [
            redis_py.Redis(host="127.0.0.1", port=node.port) for node in backend.masters()
        ]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def close(self) -> None:
        for admin in self._admins:
            admin.close()

    async def script(self, slot: int, script: Script, *args: Any, **options: Any) -> Any:
        return await self._run(script.name, self._client.script, slot, script, *args, **options)

    async def call(self, slot: int, *args: Any, **options: Any) -> Any:
        return await self._run(str(args[0]), self._client.call, slot, *args, **options)

    async def read_each(self, reads: Any, **options: Any) -> Any:
        for name, sha in self.hashes.items():
            if any(sha in read.payload for read in reads):
                return await self._run(name, self._client.read_each, reads, **options)
        return await self._client.read_each(reads, **options)

    async def _run(self, name: str, run: Any, *args: Any, **options: Any) -> Any:
        async with self._one_at_a_time:
            before = self._changes()
            with self._full():
                try:
                    reply = await run(*args, **options)
                except WritesRefused as refusal:
                    self.outcomes.add(refusal.outcome)
                    assert self._changes() == before, f"{name} was refused after its first write"
                    self.refused[name] += 1
                else:
                    self.ran[name] += 1
                    if self._changes() != before:
                        self.wrote[name] += 1
                    return reply
            return await run(*args, **options)

    def _changes(self) -> int:
        """How many writes the masters have counted."""
        return sum(
            admin.info("persistence")["rdb_changes_since_last_save"] for admin in self._admins
        )

    @contextlib.contextmanager
    def _full(self) -> Iterator[None]:
        for admin in self._admins:
            admin.config_set("maxmemory", 1)
        try:
            yield
        finally:
            for admin in self._admins:
                admin.config_set("maxmemory", 0)


@pytest.fixture
def counts_only_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's own task must not write its counts between two looks at the masters' changes."""
    monkeypatch.setattr("ojs_cluster.store.ground.process_state.job_counts.FLUSH_S", 86_400.0)


async def _nothing() -> None:
    pass


@pytest.fixture
async def full(
    counts_only_at_the_end: None, store: Store, backend: Embedded
) -> AsyncIterator[tuple[Store, FullRedis]]:
    # A store that opens writes the copies of the layout behind its first calls. Waits for them.
    await store.background.once("schema", _nothing, LONG_S)
    redis = FullRedis(store.redis, backend)
    redis.hashes = {name: script.sha for name, script in store.scripts.items()}
    yield replace(store, redis=cast(Client, redis)), redis
    redis.close()


async def test_every_script_does_at_maxmemory_what_it_says(
    full: tuple[Store, FullRedis], db: Any, backend: Embedded
) -> None:
    store, redis = full

    await one_life_of_everything(store, db)
    await restore_a_workflow_that_is_not_there(store)

    denied = {name for name, script in SCRIPTS.items() if not flags(script)}
    assert redis.outcomes == {"not_applied"}
    # On a cluster, a master that only takes a part of a batch is asked before.
    assert redis.refused.keys() - SCRIPTS.keys() == ({"SETRANGE"} if backend.cluster else set())
    # The schema was there before: then it is only read.
    assert redis.refused.keys() & SCRIPTS.keys() == denied - {"schema"}
    assert SCRIPTS.keys() - denied <= redis.ran.keys()
    assert redis.wrote.keys() & denied == set()


async def restore_a_workflow_that_is_not_there(store: Store) -> None:
    """An import into the data that it was exported from finds its workflows there."""
    shard, id_ = store.keys.shard(0), "none-yet"
    record, results = shard.workflow(id_), shard.workflow_results(id_)
    await store.run(
        shard,
        "workflow_store_portion",
        [record, results, shard.ended_workflows],
        [id_, 1000, 0, "1"],
    )
    keys = [
        record,
        shard.workflow_definitions(id_),
        results,
        shard.workflows,
        shard.ended_workflows,
    ]
    fields = ["state", "completed"]
    await store.run(
        shard,
        "restore_workflow",
        [*keys, shard.outbox_due, shard.outbox, shard.running_workflows],
        [id_, 1, "", "", 1, 0, *fields],
    )


JOBS = 200
WORKER = "w" * 200
KIB = 1024


async def test_what_draining_adds_is_bounded_per_job(store: Store, db: Any) -> None:
    """The figures of docs/adr/022, with a long worker id, both deadlines and hashes of any kind."""
    error = parse_failure(b'{"code":"handler_error","message":"%s"}' % (b"e" * 1000))
    result = b'"%s"' % (b"r" * 1000)

    async def fetched() -> list[JobRecord]:
        return [
            job for _ in range(JOBS // 50) for job in await take(store, count=50, worker=WORKER)
        ]

    async def added(step: Callable[[], Awaitable[Any]]) -> float:
        """Bytes that a step adds to the keys, per job."""
        before = memory_of_keys(db)
        await step()
        return (memory_of_keys(db) - before) / JOBS

    await enqueue_many(store, [new_job(timeout_ms=60_000) for _ in range(JOBS)])
    jobs: list[JobRecord] = []

    async def fetch() -> None:
        jobs.clear()
        for _ in range(JOBS // 50):
            jobs.extend(await take(store, count=50, worker=WORKER))
        assert len(jobs) == JOBS

    async def nack() -> None:
        await nack_many(store, [Nack(job.id, None, error, False) for job in jobs], worker_id=WORKER)

    async def promote() -> None:
        for job in jobs:
            age_job(db, shard_of(store), job.id, HOUR)
        await promote_all(store, limit=JOBS)

    async def reap() -> None:
        for job in jobs:
            age_job(db, shard_of(store), job.id, HOUR)
        await reap_all(store, limit=JOBS)

    async def ack() -> None:
        await ack_many(store, [Ack(job.id, None, result) for job in jobs], worker_id=WORKER)

    assert 0 < await added(fetch) < KIB
    assert await added(nack) < 2.5 * KIB + 1000
    assert await added(promote) < KIB
    assert await added(fetch) < KIB
    assert await added(reap) < 2.5 * KIB
    await promote()
    assert await added(fetch) < KIB
    assert 800 < await added(ack) < 1000 + KIB  # less what it drops of the retries before


def memory_of_keys(db: Any) -> int:
    """Bytes of all keys as the servers count them, streams excepted: their length is a setting."""
    keys = (key for key in db.scan_iter(count=1000) if not key.endswith(b":events"))
    return sum(db.memory_usage(key, samples=0) for key in keys)
