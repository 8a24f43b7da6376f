"""The largest inputs of scripts that take many things, or large ones, at once.

Each function makes one such input and runs the scripts over it by the functions that the product
uses. All other scripts run in one life of everything, where jobs are as large as they may be
(``tests/support/largest.py``). ``test_largest_jobs.py`` bounds what each script moves, and
``loadtest/bench/blocking.py`` measures how long it takes.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from ojs_cluster.core.cron.cron_job import parse_cron
from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.histograms import FineTimes, WaitsAndRuns
from ojs_cluster.core.indexed_fields import MAX_VALUES
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.jobs.options import MAX_QUEUE_LENGTH
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.jobs.tenant import MAX_TENANT_LENGTH
from ojs_cluster.core.pools.pool import MAX_POOL_QUEUES
from ojs_cluster.core.queue_defaults import QueueDefaults, changed
from ojs_cluster.core.search import parse_search
from ojs_cluster.core.tenants.settings import EnqueueRate, TenantLimits, TenantSettings
from ojs_cluster.core.tenants.settings import encode as encode_tenant
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes.purges import purge
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.fetch.fetch_script import pack_types
from ojs_cluster.store.engine.fetch.parked import read_parked_types
from ojs_cluster.store.engine.jobs.ack import Ack, ack_many
from ojs_cluster.store.engine.jobs.index_values import with_digests
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.outbox.outbox import drain
from ojs_cluster.store.engine.placement import enqueue_command, place
from ojs_cluster.store.engine.queues.fair_share import remove_idle_turns, set_fair_share
from ojs_cluster.store.engine.queues.queue_sums import sum_queues
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.engine.tenants.tenant_counts import read_many
from ojs_cluster.store.engine.transactions import purge_notes
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import fire_due
from ojs_cluster.store.features.pools.pool_fetch import fetch_for_pool
from ojs_cluster.store.features.rate_limits import rate_tokens
from ojs_cluster.store.features.retention.retention import remove_leftovers
from ojs_cluster.store.features.search.lists import list_jobs
from ojs_cluster.store.features.statistics.type_hours import HourRollUp
from ojs_cluster.store.features.tenants import changes
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.features.workflows import workflows
from ojs_cluster.store.features.workflows.progress_check import WorkflowCheck
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state.job_counts import WIDTH
from ojs_cluster.store.ground.process_state.pools import MAX_POOLS
from ojs_cluster.store.ground.process_state.queue_defaults import MAX_QUEUES, change_defaults
from ojs_cluster.store.ground.process_state.schema_index import SchemaRecord, encode
from ojs_cluster.store.ground.process_state.type_minutes import (
    KEPT_MINUTES,
    MAX_TYPES,
    add_type_minutes,
    list_types,
)
from ojs_cluster.store.operators.archive.archive_results import portions, restore_results
from ojs_cluster.store.operators.archive.import_workflows import restore_workflow
from ojs_cluster.store.operators.archive.line_values import ResultsLine, WorkflowLine
from ojs_cluster.store.operators.operations import processes
from ojs_scheduler.settings import SchedulerSettings
from tests.store.indexed_jobs import TAG, job_of, with_index
from tests.store.pools.shortcuts import make_pool
from tests.store.registered_schemas import delete, register
from tests.store.shortcuts import (
    QUEUE,
    home_id,
    id_in,
    new_job,
    promote_all,
    put,
    reap_all,
    shard_of,
    take,
)
from tests.support.indexed import value_key
from tests.support.largest import LARGEST_RESULT, make_large

Inputs = Callable[[Store, Any], Awaitable[None]]
MANY = 500
"""Entries of an index that a loop of the scheduler takes at once, at most."""
STEPS = 1000
"""Jobs of a workflow, and of a batch."""


def large_job(queue: str = QUEUE, **members: Any) -> NewJob:
    """A job of the largest size that a client may send."""
    body = {"type": "t", "args": ["x" * 1_040_000], "options": {"queue": queue}, **members}
    return parse_job(json.dumps(body).encode())


async def a_large_job_that_is_sent_twice(store: Store, db: Any) -> None:
    """By a client that has lost the first reply; the job has ended since."""
    job_id = home_id(store, "twice")
    for _ in range(2):
        with suppress(Duplicate):
            await enqueue(store, large_job("twice", id=job_id))
        for job in await take(store, "twice"):
            await ack_many(store, [Ack(job.id, None, LARGEST_RESULT)], worker_id="w1")
            make_large(db, shard_of(store, "twice").job(job_id))


async def a_batch_of_small_jobs(store: Store, db: Any) -> None:
    options: dict[str, Any] = {"expires_at": "+PT1H", "rate_limit": {"key": "k", "concurrency": 5}}
    await enqueue_many(store, [new_job("small", **options) for _ in range(STEPS)])
    await enqueue_many(store, [new_job("due", scheduled_at="+PT1H") for _ in range(STEPS)])
    shard = shard_of(store, "due")
    due = db.zrange(shard.due, 0, -1)
    db.zadd(shard.due, dict.fromkeys(due, 1))
    await promote_all(store, "due", MANY)
    await take(store, "due", count=100)
    taken = [job for _ in range(10) for job in await take(store, "due", count=100)]
    await heartbeat(store, Heartbeat("w1", tuple(job.id for job in taken)))
    half = len(taken) // 2
    await ack_many(store, [Ack(job.id, None, b"1") for job in taken[:half]], worker_id="w1")
    error = parse_failure(b'{"code":"c","message":"%b"}' % (b"e" * 65_000))
    nacks = [Nack(job.id, None, error, False) for job in taken[half : half + 100]]
    await nack_many(store, nacks, worker_id="w1")


async def a_full_queue_drops_large_jobs_of_all_priorities(store: Store, db: Any) -> None:
    shard, queue = shard_of(store, "full"), "full"
    limited: dict[str, Any] = {"rate_limit": {"key": "full", "concurrency": 1}}
    jobs = [new_job(queue, priority=each, **limited) for each in range(-100, 101)]
    old = await enqueue_many(store, jobs)
    await take(store, queue, count=50)
    for job in old[:60]:
        make_large(db, shard.job(job.id))
    await depth_bounds.set_bound(store, queue, DepthBound(150, "drop_oldest"))
    await enqueue_many(store, [new_job(queue) for _ in range(140)])
    assert (await get_stats(store, queue)).depth == 150


async def expired_jobs_before_one_that_runs(store: Store, db: Any) -> None:
    shard, queue = shard_of(store, "expired"), "expired"
    made = [await put(store, queue, expires_at="+PT1H") for _ in range(30)]
    last = await put(store, queue)
    for job in made:
        make_large(db, shard.job(job.id))
        db.hset(shard.job(job.id), f.EXPIRES, 1)
    found = await take(store, queue)
    assert [job.id for job in found] == [last.id]


async def large_jobs_that_are_due_before_others(store: Store, db: Any) -> None:
    shard, queue = shard_of(store, "mixed"), "mixed"
    made = [await put(store, queue, scheduled_at="+PT1H") for _ in range(5)]
    made += [await put(store, queue) for _ in range(5)]
    for job in made:
        make_large(db, shard.job(job.id))
    db.zadd(shard.due, dict.fromkeys((job.id for job in made[:5]), 1))
    for job in made[:5]:
        db.hset(shard.job(job.id), f.DUE, 1)
    taken: list[str] = []
    while found := await take(store, queue, count=10):
        taken += [job.id for job in found]
    assert sorted(taken) == sorted(job.id for job in made)


async def large_jobs_that_end_together(store: Store, db: Any) -> None:
    queue = "together"
    shard = shard_of(store, queue)
    for _ in range(6):
        await put(store, queue)
    taken = [job for _ in range(6) for job in await take(store, queue)]
    for job in taken:
        make_large(db, shard.job(job.id))
    acks = [Ack(job.id, None, LARGEST_RESULT) for job in taken[:3]]
    await ack_many(store, acks, worker_id="w1")
    for job in taken[3:]:
        db.zadd(shard.active, {job.id: 1})
    await reap_all(store, queue)


async def many_tokens_of_one_key(store: Store, db: Any) -> None:
    """A thousand large jobs of many queues have requested tokens of one key, and get them."""
    queues = [f"asks-{number}" for number in range(400)]
    here = shard_of(store, queues[0])
    queues = [queue for queue in queues if shard_of(store, queue) is here]
    limit = {"key": "shared", "concurrency": 0}
    for queue in queues:
        await enqueue_many(store, [new_job(queue, rate_limit=limit) for _ in range(110)])
        await take(store, queue, count=100)
    requests: list[bytes] = []
    for key in db.scan_iter(match=here.prefix + b"ha:*", count=10_000):
        for job_id in db.zrange(key, 0, -1):
            number = db.hget(here.job(job_id.decode()), f.OPEN_TOKEN_REQUEST)
            requests.append(b"%b/%b" % (job_id, number))
            if len(requests) < 20:
                make_large(db, here.job(job_id.decode()))
    assert len(requests) >= 400
    payload = b"%d shared + " % here.index + b" ".join(requests)
    for queue in queues:
        db.hset(here.queue_counters(queue), "demand_at", 2**50)  # a fetch has looked there lately
    await rate_tokens.handle_answer(store, here, payload)
    granted = db.zrange(here.token_grants, 0, -1)
    db.zadd(here.token_grants, dict.fromkeys(granted, 1))
    await rate_tokens.return_unused_tokens(store, here, MANY)


async def many_jobs_of_other_types(store: Store, db: Any) -> None:
    """Large jobs of many types and tenants are parked, and fetched together by their types."""
    names = [f"{'x' * 250}{number}" for number in range(100)]
    for number in range(0, 2000, 100):
        await enqueue_many(
            store,
            [
                msgspec.structs.replace(new_job("typed", type=names[each % 100]), tenant=f"t{each}")
                for each in range(number, number + 100)
            ],
        )
    for job_id in db.zrange(shard_of(store, "typed").queue_available("typed"), 0, 400):
        make_large(db, shard_of(store, "typed").job(job_id.decode()))
    assert await take(store, "typed", types=pack_types(["other"])) == []
    assert await read_parked_types(store, "typed")
    assert await take(store, "typed", count=100, types=pack_types(names))
    assert await take(store, "typed", count=100)


async def a_large_workflow(store: Store, db: Any) -> None:
    """The largest number of steps, with options that each of them repeats, and large results."""
    body = {
        "type": "chain",
        "options": {"tags": ["x" * 12_000]},
        "steps": [{"type": "t", "args": [], "options": {"queue": "steps"}} for _ in range(STEPS)],
    }
    made = await workflows.create(store, parse_workflow(json.dumps(body).encode()))
    home = store.keys.shard_of_id(made.id)
    assert db.hlen(home.workflow_definitions(made.id)) == STEPS
    assert db.zscore(home.ended_workflows, made.id) is None
    results = {b"%d" % number: LARGEST_RESULT for number in range(6)}
    db.hset(home.workflow_results(made.id), mapping=results)
    errors = {f"e{number}": "e" * 2000 for number in range(STEPS)}
    flat = db.hgetall(home.workflow(made.id))
    fields = {**flat, **{name.encode(): value.encode() for name, value in errors.items()}}
    definitions = db.hgetall(home.workflow_definitions(made.id))
    listed = tuple(definitions[b"%d" % number] for number in range(STEPS))
    line = WorkflowLine(made.id, fields, listed, {}, None)
    read: dict[int, bytes] = {}
    async for portion in portions(store, home, line, 2 * 1024 * 1024):
        read |= portion
    assert len(read) == 6
    db.zadd(home.running_workflows, {made.id: 1})
    await WorkflowCheck().check(store, home, 20)
    other = id_in(home.index)
    await restore_results(store, ResultsLine(other, read))
    line = WorkflowLine(other, {**fields, b"state": b"completed"}, listed, read, 2**50)
    await restore_workflow(store, line)
    assert db.hlen(home.workflow_results(other)) == 6
    assert db.hlen(home.workflow(other)) == len(fields)


async def a_large_transaction(store: Store, db: Any) -> None:
    """The largest batch, each job of which is unique and replaces another."""
    unique = {"on_conflict": "replace", "keys": ["args"]}
    jobs = [
        parse_job(
            json.dumps(
                {
                    "type": "t",
                    "args": [number, "x" * 4000],
                    "options": {"queue": "replaced", "unique": unique},
                }
            ).encode()
        )
        for number in range(STEPS)
    ]
    await enqueue_many(store, jobs)
    await enqueue_many(store, jobs[:250])
    shard = store.keys.shard(0)
    transaction_id = id_in(0)
    plan = b"p" * 2_000_000
    db.hset(shard.transaction(transaction_id), mapping={"plan": plan})
    await store.run(shard, "transaction_read", [shard.transaction(transaction_id)])
    db.delete(shard.transaction(transaction_id))
    await purge_notes.purge_old(store, shard, MANY)


async def large_crons(store: Store, db: Any) -> None:
    meta = store.keys.meta
    for name in ("large-1", "large-2"):
        args = json.dumps(["x" * 1_000_000])
        body = f'{{"name":"{name}","cron":"@daily","type":"t","args":{args}}}'
        await cron.register(store, parse_cron(body.encode()))
        await cron.register(store, parse_cron(body.encode()))
        db.hset(meta.cron(name), "next_occurrence", 1000)
        db.zadd(meta.crons, {name: 1})
    await fire_due(RedisCronStore(store), 10)
    for name in ("large-1", "large-2"):
        await cron.delete(store, name)
    names = [f"cron-{number}" for number in range(SchedulerSettings().cron_batch)]
    runs = " ".join(id_in(0) for _ in range(99))
    for name in names:
        options = '"options":{"queue":"q"},"overlap_policy":"allow"'
        body = f'{{"name":"{name}","cron":"@daily","type":"t","args":["{"x" * 3900}"],{options}}}'
        await cron.register(store, parse_cron(body.encode()))
        db.hset(meta.cron(name), mapping={"next_occurrence": 1000, "open_runs": runs})
        db.zadd(meta.crons, {name: 1})
    await fire_due(RedisCronStore(store), len(names))
    for name in names:
        assert (await cron.get(store, name)).firing is None
        await cron.delete(store, name)


async def a_large_outbox(store: Store, db: Any) -> None:
    shard = store.keys.shard(1)
    payload = "tokens 0 nokey u " + " ".join(f"{id_in(1)}/1" for _ in range(2000))
    for number in range(2000, 2100):
        db.hset(shard.outbox, str(number), payload)
    db.zadd(shard.outbox_due, {str(number): 1 for number in range(2000, 2100)})
    await drain(store, shard, 100)


async def a_large_shard_is_tidied(store: Store, db: Any) -> None:
    shard = store.keys.shard(2)
    ids = [id_in(2) for _ in range(MANY)]
    for key in (
        shard.alias_claims,
        shard.references,
        shard.aborted_transactions,
        shard.applied_transactions,
        shard.quiet_workers,
    ):
        db.zadd(key, dict.fromkeys(ids, 1))
    for worker in ids:
        db.hset(shard.worker(worker), mapping={"last_seen": 1, "info": "i" * 8000})
    db.zadd(shard.workers, dict.fromkeys(ids, 1))
    db.zadd(shard.watched, dict.fromkeys(ids, 1))
    await workers.find_dead(store, shard, 50)
    await remove_leftovers(store, shard, MANY)


async def a_search_through_large_jobs(store: Store, db: Any) -> None:
    await enqueue_many(store, [new_job("small") for _ in range(MANY)])
    for _ in range(3):
        job = await enqueue(store, large_job("small"))
        make_large(db, shard_of(store, "small").job(job.id))
    wanted = JobFilter(queue="small", type="none")
    assert (await list_jobs(store, wanted, limit=10)).examined == MANY + 3


async def sums_and_members_of_many_queues(store: Store, db: Any) -> None:
    shard = store.keys.shard_of_queue("q-0")
    names = [f"q-{number}" for number in range(6400)]
    names = [name for name in names if store.keys.shard_of_queue(name) is shard][:MANY]
    now = int(time.time()) // 60
    minutes = {minute % 60: f"{minute},1,2,3,4" for minute in range(now - 59, now + 1)}
    with db.pipeline(transaction=False) as calls:
        calls.zadd(store.keys.meta.queues, dict.fromkeys(names, 0))
        for name in names:
            calls.hset(shard.queue_counters(name), mapping={"minute": now, "acked": 9, "active": 1})
            calls.hset(shard.queue_minutes(name), mapping=minutes)
            calls.zadd(shard.queue_available(name), {f"{name}-{job}": job for job in range(100)})
        calls.execute()
    sums = await sum_queues(store, len(names))
    assert sums.stats.completed_last_hour == 8 * len(names)
    await list_jobs(store, JobFilter(state=State.AVAILABLE), limit=10)


async def as_many_schemas_as_allowed(store: Store, db: Any) -> None:
    """The index is read as a whole, the documents in portions."""
    meta, number = store.keys.meta, store.settings.max_schemas - 1
    for index in range(number):
        record = SchemaRecord(f"t{index}", "1", f"urn:{index}".ljust(500, "x"), 4000, 1)
        db.hset(meta.job_schemas, f"t{index}@1.0.0", encode(record))
        db.hset(meta.job_schemas, f"U:{record.uri}", record.field)
        db.hset(meta.job_schema_documents, record.field, b'{"title":"%b"}' % (b"x" * 3988))
    await register(store, "large", schema={"title": "x" * 65_000})
    await store.schemas.read(store)
    assert len(store.schemas.types) == number + 1
    await delete(store, "large")


async def as_many_queue_defaults_as_allowed(store: Store, db: Any) -> None:
    """All defaults are read at once, each with a retry policy as large as allowed."""
    policy = {"non_retryable_errors": ["x" * 255] * 7}
    record = encode(changed(QueueDefaults(), {"default_retry": policy}))
    names = [f"{number:04}".ljust(MAX_QUEUE_LENGTH, "x") for number in range(MAX_QUEUES)]
    db.hset(store.keys.meta.queue_defaults, mapping={"#": 1, **dict.fromkeys(names[1:], record)})
    await change_defaults(store, names[0], {"default_retry": policy})
    await store.queue_defaults.read(store)
    assert len(store.queue_defaults.by_queue) == MAX_QUEUES


async def as_many_pools_as_allowed(store: Store, db: Any) -> None:
    """All pools are read at once, each with as many queues with names as long as allowed."""
    queues = [f"{number:03}".ljust(MAX_QUEUE_LENGTH, "x") for number in range(MAX_POOL_QUEUES)]
    weights = dict.fromkeys(queues, 1000)
    for number in range(MAX_POOLS):
        await make_pool(store, "weighted", f"p{number}", **weights)
    state = await store.pools.get(store, "p1")
    for queue in queues:
        state.count(queue)
    await fetch_for_pool(state, store, queues, 1, "w1", None)
    await store.pools.flush(store)
    await make_pool(store, "strict", "p1", **weights)
    assert len(store.pools._states) == MAX_POOLS


async def many_jobs_of_many_tenants(store: Store, db: Any) -> None:
    """Each job has a tenant of its own, with the longest name, and is due with all others.

    The tenants take turns.
    """

    def of_tenant(number: int, queue: str, **options: Any) -> NewJob:
        tenant = f"{number:04}".ljust(MAX_TENANT_LENGTH, "t")
        return msgspec.structs.replace(new_job(queue, **options), tenant=tenant)

    queue = "tenants"
    await enqueue_many(store, [of_tenant(n, queue, scheduled_at="+PT1H") for n in range(STEPS)])
    shard = shard_of(store, queue)
    db.zadd(shard.due, dict.fromkeys(db.zrange(shard.due, 0, -1), 1))
    while (await promote_all(store, queue, MANY)).done:
        pass
    await set_fair_share(store, queue, on=True)
    taken = [job for _ in range(3) for job in await take(store, queue, count=100)]
    await ack_many(store, [Ack(job.id, None, b"1") for job in taken[:100]], worker_id="w1")
    db.zadd(shard.active, dict.fromkeys((job.id for job in taken[100:]), 1))
    await reap_all(store, queue)
    await remove_idle_turns(store, queue, [shard])
    await purge(store, queue)


async def as_many_tenants_as_allowed(store: Store, db: Any) -> None:
    """All settings are read at once, and so are the counters of the tenants of a page.

    Each has a weight.
    """
    meta, names = store.keys.meta, [f"{n:04}".ljust(MAX_TENANT_LENGTH, "t") for n in range(1000)]
    rate = EnqueueRate(10**9, 86_400_000)
    limits = TenantLimits(max_queue_depth=10**9, max_scheduled=10**9, max_enqueue_rate=rate)
    settings = TenantSettings(
        tenant_id=names[0], limits=limits, reason="é" * 200, fairness_weight=0.123456789012
    )
    record = encode_tenant(settings)
    db.hset(meta.tenants, mapping=dict.fromkeys(names[1:], record))
    db.zadd(meta.known_tenants, {f"unknown-{number}": number for number in range(200)})
    await changes.change(store, names[0], lambda _old: settings)
    await store.tenants.read(store)
    log = " ".join(f"{2**41 + 1400 * n}:{10**6}" for n in range(65))
    admission = store.keys.shard_of_tenant(names[0]).tenant_admission(names[0])
    db.hset(admission, "rate", log)
    await enqueue(store, msgspec.structs.replace(new_job(), tenant=names[0]))
    await read_many(store, names[:100])
    await changes.delete(store, names[0])


async def as_many_job_types_as_kept(store: Store, db: Any) -> None:
    """A shard has all its types, with the longest names and a record of each minute."""
    shard = shard_of(store, "types")
    names = (f"t{number}.".ljust(255, "x") for number in itertools.count())
    here = (name.encode() for name in names if shard_of(store, name) is shard)
    counts = {name: [2**40] * WIDTH for name in itertools.islice(here, MAX_TYPES + 8)}
    fine = WaitsAndRuns(*(FineTimes(dict.fromkeys(range(100, 220), 2**20), 10**9) for _ in "wr"))
    times = dict.fromkeys(counts, fine)
    await add_type_minutes(store, counts, times)
    minute = int(time.time()) // 60 + 1
    record = ",".join([str(2**40)] * WIDTH)
    records: dict[str, str] = {}
    for at in range(minute - 60, minute):
        records[str(at % KEPT_MINUTES)] = f"{at},{record}"
        records[f"f{at % KEPT_MINUTES}"] = f"{at} {fine.encode()}"
    for key in db.scan_iter(match=shard.prefix + b"th:*", count=10_000):
        db.hset(key, mapping=records)
    await add_type_minutes(store, counts, times)
    listed, unread = await list_types(store, 60, WIDTH)
    assert (len(listed), unread) == (MAX_TYPES + 1, 0)
    await HourRollUp(store, WIDTH).run(0)


async def jobs_with_as_many_indexed_values_as_allowed(store: Store, db: Any) -> None:
    indexing = with_index(store)
    for values in (1, MAX_VALUES, 1000):
        tags = [f"{values}-{number}" for number in range(values)]
        await enqueue_many(indexing, [job_of(queue="tagged", tags=tags)] * 250)
    # A portion never has so many values, but nothing in its record says so.
    tagged = await with_digests(indexing.settings, [job_of(queue="tagged", tags=tags)])
    part = [place(home_id(store, "tagged"), tagged[0]) for _ in range(250)]
    shard = shard_of(store, "tagged")
    await store.run(shard, "enqueue", *enqueue_command(indexing, shard, part))
    db.zadd(key := value_key(shard, TAG, "0-0"), {f"{number}": number for number in range(10_000)})
    await enqueue_many(indexing, [job_of(queue="tagged", tags=["0-0"])] * 250)
    assert db.zcard(key) == 10_000
    db.zpopmin(key)  # a full set is not used
    wanted = JobFilter(search=parse_search("tag:0-0", now_ms=0), by_index=True)
    assert (await list_jobs(indexing, wanted, limit=100)).index == "tag"


async def as_many_processes_as_kept(store: Store, db: Any) -> None:
    """As many processes have ended without saying so."""
    meta, now_ms = store.keys.meta, time.time_ns() // 1_000_000
    for kind, age_ms in (("silent", 3_600_000), ("running", 0)):
        names = [f"{kind}-{number}".ljust(100, "x") for number in range(1000)]
        db.hset(meta.processes, mapping=dict.fromkeys(names, "d" * 400))
        db.zadd(meta.process_reports, dict.fromkeys(names, now_ms - age_ms))
    for number in range(3):  # a script removes up to 500 that are silent
        await processes._send(store, f"new-{number}", b"d" * 400)
    assert db.zcount(meta.process_reports, "-inf", now_ms - 60_000) == 0
    assert db.zcard(meta.process_reports) <= 1000


INPUTS: Sequence[Inputs] = (
    a_large_job_that_is_sent_twice,
    a_batch_of_small_jobs,
    a_full_queue_drops_large_jobs_of_all_priorities,
    expired_jobs_before_one_that_runs,
    large_jobs_that_are_due_before_others,
    large_jobs_that_end_together,
    many_tokens_of_one_key,
    many_jobs_of_other_types,
    a_large_workflow,
    a_large_transaction,
    large_crons,
    a_large_outbox,
    a_large_shard_is_tidied,
    a_search_through_large_jobs,
    sums_and_members_of_many_queues,
    as_many_schemas_as_allowed,
    as_many_job_types_as_kept,
    as_many_processes_as_kept,
    as_many_queue_defaults_as_allowed,
    as_many_pools_as_allowed,
    many_jobs_of_many_tenants,
    as_many_tenants_as_allowed,
    jobs_with_as_many_indexed_values_as_allowed,
)
