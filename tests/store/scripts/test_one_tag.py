"""No script does what a moving slot would punish: the guard itself, and that every script ran
under it. What it forbids says `tests/support/prelude.py`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import trio

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.agents.record import HumanDecision
from ojs_cluster.core.bulk.selection import DEFAULT_STATES, BulkAction, Selection
from ojs_cluster.core.cron.cron_job import parse_cron
from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.jobs.edit import parse_edit
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS
from ojs_cluster.core.rate_limit import Rate, RateLimits
from ojs_cluster.core.search import parse_search
from ojs_cluster.keys import META
from ojs_cluster.redis.acl_errors import AclDenied
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import placement
from ojs_cluster.store.engine.aliases import check_old_claims
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.changes.delete_finished import delete_finished
from ojs_cluster.store.engine.changes.edit import edit
from ojs_cluster.store.engine.enqueue import idempotency
from ojs_cluster.store.engine.enqueue.batch_attempt import BatchAttempt
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.fetch.fetch import release
from ojs_cluster.store.engine.fetch.fetch_script import pack_types
from ojs_cluster.store.engine.fetch.parked import read_parked_types
from ojs_cluster.store.engine.jobs.ack import Ack, ack_many
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.change_priority import change_priority
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many, release_unanswered
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.outbox import outbox_dead_letters
from ojs_cluster.store.engine.outbox.outbox import drain
from ojs_cluster.store.engine.queues import exhaustion, fair_share, pauses, queues
from ojs_cluster.store.engine.queues.priority_counts import count_by_priority
from ojs_cluster.store.engine.queues.queue_sums import sum_queues
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.engine.unique_locks import write_tombstone
from ojs_cluster.store.features.agents import agents
from ojs_cluster.store.features.bulk import execution, failures
from ojs_cluster.store.features.bulk_records import operations as bulks
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import fire_due
from ojs_cluster.store.features.dead_letters import dead_letters as dead_letter
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.features.history.clear_history import clear_history
from ojs_cluster.store.features.maintenance.maintenance import set_maintenance
from ojs_cluster.store.features.progress.checkpoints import MAX_BYTES, delete, read_checkpoint, save
from ojs_cluster.store.features.progress.progress import Report, report_progress
from ojs_cluster.store.features.queue_deletion.deletion import begin_deletion
from ojs_cluster.store.features.queue_deletion.move_waiting import move
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention import lifecycle, retention
from ojs_cluster.store.features.search.lists import list_jobs
from ojs_cluster.store.features.statistics.record_minutes import MinuteRecorder
from ojs_cluster.store.features.statistics.type_hours import HourRollUp, list_types_by_hour
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.deregister import deregister
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.features.workflows import workflows
from ojs_cluster.store.features.workflows.progress_check import WorkflowCheck
from ojs_cluster.store.ground.background import Background
from ojs_cluster.store.ground.process_state import rejections
from ojs_cluster.store.ground.process_state.job_counts import WIDTH
from ojs_cluster.store.ground.process_state.migration import Layouts, LayoutState
from ojs_cluster.store.ground.process_state.queue_defaults import change_defaults
from ojs_cluster.store.ground.process_state.type_minutes import add_type_minutes, list_types
from ojs_cluster.store.ground.runtime import Arg
from ojs_cluster.store.ground.scripts import load_scripts
from ojs_cluster.store.operators.dashboard.marks import Mark, add_mark, remove_mark
from ojs_cluster.store.operators.dashboard.problem_records import (
    Mute,
    MuteDetails,
    ProblemDescription,
    mute_problem,
    record_problems,
)
from ojs_cluster.store.operators.migrations.execution import migrate
from ojs_cluster.store.operators.migrations.layout import check_layout, raise_copy, report
from ojs_cluster.store.operators.operations import audit, metrics, rights
from ojs_cluster.store.operators.operations.leader import RedisLeaderLock
from ojs_cluster.store.operators.operations.losses import forget_losses
from ojs_cluster.store.operators.operations.processes import _send
from ojs_cluster.store.operators.operations.session_secret import session_secret
from ojs_cluster.store.operators.pressure.pressure import check_due, check_pressure
from tests.store.archives import export_text, import_text
from tests.store.hot_queues import spread
from tests.store.indexed_jobs import job_of, with_index
from tests.store.limit_jobs import age_key, expire_grants, key_in, keyed, per_hour, settle
from tests.store.migrations.renaming import RENAME
from tests.store.pools.shortcuts import one_life_of_a_pool
from tests.store.registered_schemas import one_life_of_a_schema
from tests.store.shortcuts import (
    DAY,
    HOUR,
    QUEUE,
    ack,
    active,
    foreign_id,
    home_id,
    id_in,
    lock_of,
    nack,
    new_job,
    promote_all,
    put,
    queues_in_other_shards,
    reap_all,
    restore,
    shard_of,
    sibling_queue,
    take,
)
from tests.store.tenants.shortcuts import one_life_of_a_tenant
from tests.store.unique_jobs import drain_waiting_now, once, recover
from tests.store.webhook_jobs import one_life_of_a_webhook
from tests.store.workflow_jobs import chain, drain_all, job_ids, run_one, step
from tests.support.lossy import without
from tests.support.prelude import EMPTIED, MARK, NOT_READ, PRELUDE
from tests.support.recording import Recording
from tests.support.servers import observer
from tests.support.timeshift import age_claim, age_job, age_opening, age_queue, age_worker

ALL = set(load_scripts())


@pytest.mark.parametrize(
    ("code", "keys"),
    [
        ("return redis.call('GET', 'ojs:{b}:x')", ["ojs:{a}:x"]),
        ("return redis.call('get', 'x')", ["ojs:{a}:x"]),
        ("return redis.call('DEL', KEYS[1], 'ojs:{b}:x')", ["ojs:{a}:x"]),
        ("return redis.call('EXISTS', KEYS[1], 'ojs:{b}:x')", ["ojs:{a}:x"]),
        ("return redis.call('SPUBLISH', 'ojs:{b}:wake_channel', 'q')", ["ojs:{a}:x"]),
        ("return redis.pcall('GET', 'ojs:{b}:x')", ["ojs:{a}:x"]),
        ("return 1", ["ojs:{a}:x", "ojs:{b}:x"]),
        ("return 1", ["nobrace"]),
        ("return redis.call('TIME')", []),
    ],
)
def test_the_guard_refuses_keys_of_another_tag(
    standalone: Embedded, code: str, keys: list[str]
) -> None:
    with observer(standalone) as db:
        if keys:
            with pytest.raises(Exception, match=MARK):
                db.eval(PRELUDE + code, len(keys), *keys)
        else:
            db.eval(PRELUDE + code, 0)


def test_the_guard_lets_keys_of_the_tag_pass(standalone: Embedded) -> None:
    with observer(standalone) as db:
        code = "redis.call('SET', KEYS[1], 1) return redis.call('DEL', KEYS[1], KEYS[2])"
        assert db.eval(PRELUDE + code, 2, "ojs:{a}:x", "ojs:{a}:y") == 1


X, Y, Z = "ojs:{a}:x", "ojs:{a}:y", "ojs:{a}:z"


@pytest.mark.parametrize(
    "code",
    [
        f"redis.call('HSET', '{Y}', 'f', 1)",
        f"redis.call('HSET', KEYS[1], 'f', 1) redis.call('HSET', '{Y}', 'f', 1)",
        f"redis.call('HSET', KEYS[1], 'f', 1) redis.call('HGET', '{Y}', 'f')",
        f"redis.call('HSET', KEYS[1], 'f', 1) redis.call('EXISTS', '{Y}', KEYS[1])",
        # Read alone and not found: it may be on the other node.
        f"redis.call('HGETALL', '{Z}') redis.call('HSET', '{Z}', 'f', 1)",
        f"redis.call('EXISTS', '{Z}') redis.call('HSET', '{Z}', 'f', 1)",
        f"redis.call('EXISTS', '{Z}', '{Z}') redis.call('HSET', '{Z}', 'f', 1)",
        f"redis.call('HSET', KEYS[1], 'f', 1) redis.pcall('HSET', '{Y}', 'f', 1)",
    ],
)
def test_the_guard_refuses_keys_without_a_preflight(standalone: Embedded, code: str) -> None:
    with observer(standalone) as db:
        db.hset(Y, "f", 0)
        with pytest.raises(Exception, match=NOT_READ):
            db.eval(PRELUDE + code, 1, X)


@pytest.mark.parametrize(
    "look",
    [
        f"redis.call('EXISTS', KEYS[1], '{Y}', '{Z}')",
        f"redis.call('HGETALL', '{Y}') redis.call('EXISTS', '{Z}', KEYS[1])",
    ],
)
def test_the_guard_accepts_keys_with_a_preflight(standalone: Embedded, look: str) -> None:
    with observer(standalone) as db:
        db.hset(Y, "f", 0)
        db.eval(f"{PRELUDE}{look} redis.call('HSET', '{Y}', 'f', 1) redis.call('DEL', '{Z}')", 1, X)
        assert db.hget(Y, "f") == b"1"


@pytest.mark.parametrize(
    "code",
    [
        "redis.call('ZREM', KEYS[1], 'a', 'b') redis.call('ZCARD', KEYS[1])",
        "redis.call('ZPOPMIN', KEYS[1], 2) redis.call('ZADD', KEYS[1], 1, 'c')",
        "redis.call('ZREM', KEYS[1], 'a', 'b') redis.call('ZREM', KEYS[1], 'c')",
        "redis.call('DEL', KEYS[1]) redis.call('EXISTS', KEYS[1], KEYS[2])",
    ],
)
def test_the_guard_refuses_keys_that_the_script_has_emptied(
    standalone: Embedded, code: str
) -> None:
    with observer(standalone) as db:
        db.zadd(X, {"a": 1, "b": 2})
        with pytest.raises(Exception, match=EMPTIED):
            db.eval(PRELUDE + code, 2, X, Y)


async def test_the_fixture_runs_its_scripts_under_the_guard(store: Store) -> None:
    mail, other = shard_of(store), store.keys.shard(shard_of(store).index - 1)
    with pytest.raises(RedisReplyError, match=f"{MARK}|CROSSSLOT"):
        await store.run(mail, "finish_recovery", [mail.lost_workers, other.lost_workers], ["w", 1])


async def test_one_life_of_everything_runs_every_script_under_the_guard(
    store: Store, db: Any
) -> None:
    scripts = Recording(store.scripts)
    await one_life_of_everything(replace(store, scripts=scripts), db)
    assert scripts.used == ALL


async def test_jobs_with_a_tenant_live_under_the_guard(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same life with a tenant in every job: its index and its counters have a preflight."""
    fields_of = placement._fields

    def with_tenant(job: NewJob) -> list[bytes]:
        return fields_of(msgspec.structs.replace(job, tenant=job.tenant or "acme"))

    monkeypatch.setattr(placement, "_fields", with_tenant)
    scripts = Recording(store.scripts)
    await one_life_of_everything(replace(store, scripts=scripts), db)
    assert ALL - scripts.used == set()


async def one_life_of_everything(store: Store, db: Any) -> None:
    """Run every script at least once."""
    await one_life_without_backup(store, db)
    await backup(store)


async def the_layout(store: Store) -> None:
    """Report it and raise a copy; no migration begins (``tests/store/migrations``)."""
    record = await report(store)
    assert record is not None
    await raise_copy(store, store.keys.shard(0), record)
    later = Layouts(written=2, newest=2, migrations=(RENAME,))
    await migrate(replace(store, layout=LayoutState(later)))
    for _ in range(2):
        await restore(store)
    numbers: list[Arg] = [2, 0, "", 1, "", 0]
    assert await store.run_meta("migration_advance", [store.keys.meta.schema], numbers) == 0


async def a_lost_master(store: Store, db: Any) -> None:
    """The meta tag and a shard have lost their stamps."""
    for tag in (store.keys.shard(1), store.keys.meta):
        db.hdel(tag.schema, "stamp")
    with suppress(AclDenied):  # the documented user may not run SCAN
        await restore(store)
    owner = store.redis.topology.owner(store.keys.meta.slot)
    assert await forget_losses(store, str(owner))


async def one_life_without_backup(store: Store, db: Any) -> None:
    """Run every script but those of exports and imports."""
    await check_layout(store, 64)  # ran when it was opened
    await the_layout(store)

    await a_lost_master(store, db)
    await every_kind_of_enqueue(store)
    await every_end_of_an_attempt(store, db)
    await a_malformed_job(store, db)
    await dead_letters(store, db)
    await worker_records(store, db)
    await an_outage(store, db)
    await queue_maintenance(store, db)
    await a_hot_queue(store, db)
    await a_workflow(store, db)
    await a_cron_job(store)
    await limited_jobs(store, db)
    await jobs_of_other_types(store)
    await unique_jobs_and_batches(store, db)
    await bulk_operations(store, db)
    await leadership(store)
    await an_audit(store)
    await one_life_of_a_webhook(store)
    await one_life_of_a_schema(store)
    await one_life_of_a_pool(store)
    await change_defaults(store, "defaulted", {"default_timeout": 1})
    await depth_bounds.set_bound(store, "dropping", DepthBound(1, "drop_oldest"))
    await put(store, "dropping")
    await put(store, "dropping")
    assert await rejections.append(store, store.events_arg, "dropping", "t", 1, 1)
    await one_life_of_a_tenant(store)
    await one_life_of_an_agent(store)
    await one_life_of_the_index(store)
    await reads(store)


async def jobs_of_other_types(store: Store) -> None:
    """A job is parked, gets another priority, and is fetched; one is cancelled."""
    jobs = [await put(store, "typed", type=name) for name in ("a", "b", "a")]
    assert await take(store, "typed", types=pack_types(["c"])) == []
    assert (await read_parked_types(store, "typed"))["a"].count == 2
    await change_priority(store, jobs[2].id, 5)
    await cancel(store, jobs[0].id)
    taken = [*await take(store, "typed", types=pack_types(["a"])), *await take(store, "typed")]
    assert [job.id for job in taken] == [jobs[2].id, jobs[1].id]


async def one_life_of_the_index(store: Store) -> None:
    """A job with indexed values is stored, edited, found and removed; a reader notices that."""
    indexing = replace(with_index(store), background=Background())  # runs nothing later
    job = await enqueue(indexing, job_of({"customer_id": 1}, "indexed", ["a"]))
    await edit(indexing, job.id, parse_edit(b'{"meta":{"customer_id":2}}', DEFAULT_LIMITS))
    await cancel(store, job.id)
    wanted = JobFilter(search=parse_search("tag:a", now_ms=0), by_index=True)
    assert (await list_jobs(indexing, wanted, limit=1)).examined == 1
    await delete_finished(store, job.id)
    assert (await list_jobs(indexing, wanted, limit=1)).jobs == []
    assert (await list_jobs(indexing, wanted, limit=1)).index is None


async def one_life_of_an_agent(store: Store) -> None:
    job = await put(store, "agents", rate_limit={"key": "agents", "concurrency": 5})
    [taken] = await take(store, "agents")
    await agents.pause(store, job.id, "x" * 2000)
    await nack(store, taken, requeue=True)
    assert await take(store, "agents") == []
    await agents.resume(store, job.id, HumanDecision(True, "x" * 2000))
    await agents.fork(store, job.id, 0, "x" * 255)
    await agents.pause(store, job.id, "")
    await agents.resume(store, job.id, HumanDecision(True))
    await cancel(store, job.id)


async def every_kind_of_enqueue(store: Store) -> None:
    await put(store, scheduled_at="+PT1H", expires_at="+PT2H", priority=5)
    pending = await put(store, pending=True)
    await activate(store, pending.id)
    await put(store, id=foreign_id(store))
    home = home_id(store)
    await enqueue_many(store, [new_job(), new_job(sibling_queue(store)), new_job(id=home)])
    with pytest.raises(Duplicate):
        await put(store, "elsewhere", id=home)
    await take(store, QUEUE, sibling_queue(store), count=100)


async def every_end_of_an_attempt(store: Store, db: Any) -> None:
    shard = shard_of(store)
    done = await active(store)
    await heartbeat(store, Heartbeat("w1", (done.id,)))
    await report_progress(store, done.id, Report(0.5, "half"), worker_id="w1", lease_id=None)
    state = b'"%b"' % (b"x" * (MAX_BYTES - 2))
    await save(store, done.id, state, worker_id="w1", lease_id=None)
    assert await read_checkpoint(store, done.id)
    await delete(store, done.id)
    await save(store, done.id, state, worker_id=None, lease_id=done.lease_id)
    await ack(store, done, result=b"[]")
    many = [await active(store) for _ in range(2)]
    await ack_many(store, [Ack(many[0].id, None, b"1")], worker_id="w1")
    await nack_many(store, [Nack(many[1].id, None, parse_failure(None), False)], worker_id="w1")
    failed = await active(store)
    await nack(store, failed)
    age_job(db, shard, failed.id, HOUR)
    await promote_all(store)
    await nack(store, (await take(store))[0], requeue=True)
    await release(store, await take(store))
    await cancel(store, failed.id)
    lost = await active(store)
    slow = await active(store, timeout_ms=1000)
    late = await put(store, expires_at="+PT1S")
    for job in (lost, slow, late):
        age_job(db, shard, job.id, HOUR)
    await reap_all(store)
    age_job(db, shard, done.id, 8 * DAY)
    await retention.purge_due(store, shard, 10)
    await retention._postpone(store, shard, [failed.id], 0)


async def a_malformed_job(store: Store, db: Any) -> None:
    job = await active(store, "damaged")
    db.hdel(shard_of(store, "damaged").job(job.id), "a")
    await cancel(store, job.id)


async def dead_letters(store: Store, db: Any) -> None:
    job_id = foreign_id(store)
    options: dict[str, Any] = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}
    job = await active(store, "graves", id=job_id, **options)
    await nack(store, job)
    await dead_letter.retry(store, job_id)
    await nack(store, (await take(store, "graves"))[0])
    await dead_letter.get_stats(store)
    listed = await dead_letter.list_dead_letters(store, limit=10, after=(2**50, job_id))
    assert listed.total == 1
    await dead_letter.delete(store, job_id)
    age_claim(db, store.keys.shard_of_id(job_id), job_id, HOUR)


async def worker_records(store: Store, db: Any) -> None:
    home = store.keys.shard_of_worker("steady")
    for _ in range(3):
        await heartbeat(store, Heartbeat("steady"))
    await workers.send_directive(store, "steady", "quiet")
    await workers.send_directive(store, "steady", "running")
    await workers.count_by_status(store)
    age_worker(db, home, "steady", HOUR)
    [dead], _, _ = await workers.find_dead(store, home, 10)
    for shard in store.keys:
        await workers.recover(store, shard, [dead])
    await workers.finish_recovery(store, home, dead)
    held = await active(store, "suspects", worker="steady")
    age_worker(db, home, "steady", HOUR)
    age_job(db, shard_of(store, "suspects"), held.id, HOUR)
    await reap_all(store, "suspects")
    [alone] = await take(store, "suspects", worker="idle")
    assert await take(store, worker="idle") == []
    await ack(store, alone)
    await take(store, worker="idle")
    age_worker(db, home, "steady", HOUR)
    job = await active(store, "unanswered")
    assert job.lease_id is not None
    await release_unanswered(store, shard_of(store, "unanswered"), [job.lease_id.encode()])


async def an_outage(store: Store, db: Any) -> None:
    shard = shard_of(store)
    target = store.keys.shard((shard.index + 1) % len(store.keys))
    db.hset(shard.outbox, "1000", f"unlock 0 {target.index:08x}{0:056x} {home_id(store)} 0")
    db.zadd(shard.outbox_due, {"1000": 1})
    await drain(without(store, target), shard, 10)
    await drain_waiting_now(store, db, shard)
    assert not db.exists(shard.outbox_due, shard.outbox_blocked_shards)
    db.hset(shard.outbox, "1001", "unknown 0 payload")
    db.zadd(shard.outbox_due, {"1001": 1})
    await drain(store, shard, 10)
    assert db.hexists(shard.outbox, "e1001")
    db.delete(shard.outbox, shard.outbox_due)


async def queue_maintenance(store: Store, db: Any) -> None:
    await put(store, "old")
    await put(store, "old", id=foreign_id(store, "old"))
    await count_by_priority(store, "old")
    await purges.purge(store, "old")
    await pauses.pause_or_resume(store, "old", "pause")
    await lifecycle.create_queue(store, "created")
    await change_defaults(store, "created", {"default_timeout": 1})
    await lifecycle.delete_queue(store, "created")
    for target in ("", "moved"):
        await put(store, "deleted", rate_limit={"key": "k", "concurrency": 9})
        operation_id = home_id(store)
        await begin_deletion(store, operation_id, "deleted", target)
        while not (await bulks.get(store, operation_id)).ended:
            await execution.run_due(store)
    await pauses.pause_or_resume(store, "old", "drain")
    await pauses.pause_or_resume(store, "old", "resume")
    await rate_limits.set_queue_limits(store, "old", RateLimits(rate=Rate(1, HOUR)))
    await put(store, "old", rate_limit={"max_per_second": 1})
    await ack(store, (await take(store, "old"))[0])
    age_opening(db, shard_of(store, "old"), "old", 2 * HOUR)
    await rate_limits.sweep_rate_limits(store, shard_of(store, "old"), 10)
    await rate_limits.clear_declared_limit(store, "old")
    await rate_limits.set_queue_limits(store, "old", RateLimits())
    await depth_bounds.set_bound(store, "old", DepthBound(99, threshold=0))
    await put(store, "old")
    assert await check_pressure(store, "old")
    db.zadd(store.keys.meta.pressured_queues, {"old": 1})
    await check_due(store)
    await depth_bounds.set_bound(store, "old", None)
    await exhaustion.set_on_exhaustion(store, "old", "dead_letter")
    await exhaustion.set_on_exhaustion(store, "old", None)
    for on in (True, False):
        await fair_share.set_fair_share(store, "old", on=on)
        await fair_share.remove_idle_turns(store, "old", [shard_of(store, "old")])
    age_queue(db, shard_of(store, "old"), "old", 2 * HOUR)
    await retention.retire_queues(store)
    await store.run_meta("register_again", [store.keys.meta.queues], [QUEUE, 1])
    for shard in store.keys:
        await retention.remove_leftovers(store, shard)
        await check_old_claims(store, shard, 10)


async def a_hot_queue(store: Store, db: Any) -> None:
    await spread(store, db, 4, "hot")
    await pauses.pause_or_resume(store, "hot", "pause")
    await pauses.pause_or_resume(store, "hot", "resume")
    await put(store, "hot")
    assert await take(store, "hot")
    names = queues_in_other_shards(store, 5)
    await put(store, names[-1])
    assert await take(store, *names)


async def a_workflow(store: Store, db: Any) -> None:
    made = await chain(store, step("a", "steps"), step("b", "steps"))
    home = store.keys.shard_of_id(made.id)
    db.zadd(home.running_workflows, {made.id: 1})
    await WorkflowCheck().check(store, home, 10)
    await move(store, job_ids(made)[0], "moved-steps")
    await run_one(store, "moved-steps")
    await workflows.cancel(store, made.id)
    await drain_all(store, db, everything=False)
    db.zincrby(home.ended_workflows, -8 * DAY, made.id)
    await workflows.purge_ended(store, home, 10)


async def a_cron_job(store: Store) -> None:
    body = b'{"name":"c","cron":"@daily","type":"t","overlap_policy":"enqueue"}'
    await cron.register(store, parse_cron(body))
    await cron.trigger(store, "c")
    await cron.trigger(store, "c")
    assert (await cron.list_crons(store, limit=9, offset=0, within=QueuePatterns(["*"])))[1] == 1
    await fire_due(RedisCronStore(store), 10)
    await cron.delete(store, "c")


async def unique_jobs_and_batches(store: Store, db: Any) -> None:
    await once(store, "once")
    await once(store, "once", on_conflict="replace")
    await once(store, "once", on_conflict="ignore", id=foreign_id(store, "once"))
    wanted = [new_job("once", id=home_id(store, "once")), new_job("twice", unique={}, type="x")]
    for decided in (False, True):
        attempt = BatchAttempt(store, wanted)
        await attempt.reserve()
        if decided:
            await transactions.commit(store, attempt.transaction(), attempt.commit_before_ms)
            await transactions.resolve(store, attempt.transaction().id)
        else:
            await attempt.release()
    await enqueue_many(store, [new_job(tags=["x" * 900_000]) for _ in range(3)])
    await write_tombstone(store, shard_of(store), home_id(store))
    await recover(store, db, HOUR)


async def limited_jobs(store: Store, db: Any) -> None:
    for home in (True, False):
        key = key_in(store, home=home)
        for policy in ("wait", "wait", "wait", "reschedule", "drop"):
            await keyed(store, key, concurrency=2, rate=per_hour(9), on_limit=policy, ttl=3600)
        await take(store, count=1)
        await take(store, count=9)
        await settle(store, db)
        await expire_grants(store, db)
        for job in await take(store, count=9):
            await ack(store, job)
        await rate_limits.override_key(store, key, RateLimits(concurrency=0), None)
        await age_key(store, db, key, DAY)
        await purges.purge(store, QUEUE)


async def bulk_operations(store: Store, db: Any) -> None:
    meta, name = store.keys.meta, "bulk"
    retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    await nack(store, await active(store, name, id=foreign_id(store, name), retry=retry))
    limited = await put(store, name, rate_limit={"key": "k", "concurrency": 0})
    await change_priority(store, limited.id, 5)
    change = b'{"args":[1],"priority":6,"expires_at":"+PT1H"}'
    await edit(store, limited.id, parse_edit(change, DEFAULT_LIMITS))
    assert await clear_history(store, limited.id) >= 1
    for refused in (["fetch"], []):
        await set_maintenance(store, refused)
    await add_mark(store, mark := Mark("0" * 16, "v1", 4 * 10**12))
    await remove_mark(store, mark.id)
    long = ProblemDescription("r", "s", "x" * 1000)
    found = {f"queue_paused:{'q' * 560}-{number}": (1, long) for number in range(100)}
    for id in found:
        await mute_problem(store, id, Mute(1, MuteDetails("x" * 200)))
    await record_problems(store, "process", found, is_complete=True)
    for id, _ in zip(db.hkeys(meta.problems), range(60), strict=False):
        if id != b"@":
            db.hset(meta.problems, id, b"1 1 {}")
    await record_problems(store, "process", {}, is_complete=True)
    await add_type_minutes(store, {b"a": [1] * WIDTH})
    await list_types(store, 60, WIDTH)
    await HourRollUp(store, WIDTH).run(0)
    await list_types_by_hour(store, 24, WIDTH)
    for description in (b"{}", b""):
        await _send(store, "process", description)
    await cancel(store, limited.id)
    worker = store.keys.shard_of_worker("silent")
    db.hset(worker.worker("silent"), "last_seen", 1)
    await deregister(store, "silent")
    for action in (BulkAction.RETRY, BulkAction.CANCEL, BulkAction.DELETE):
        operation_id = home_id(store)
        selection = Selection(DEFAULT_STATES[action], queue=name)
        await bulks.create(store, operation_id, action, selection)
        await bulks.stop(store, operation_id)
        db.hset(meta.bulk(operation_id), "state", "running")
        while not (operation := await bulks.get(store, operation_id)).ended:
            await execution.run_due(store)
        assert (operation.succeeded > 0, operation.failed) == (True, 0), operation
    await bulks.create(
        store, home_id(store), BulkAction.DELETE, selection, dry_run=True, follows=operation_id
    )
    db.zadd(meta.bulk_ended, {operation_id: 1})
    await execution.run_due(store)
    await failures.postpone_or_end(store, operation_id.encode(), ValueError("fault"))
    for response in (b"response", os.urandom(200_000)):
        begun = await idempotency.begin(store, "principal", "key", b"body")
        await idempotency.end(store, begun, response)
    begun = await idempotency.begin(store, "principal", "refused", b"body")
    await idempotency.forget(store, begun)


async def leadership(store: Store) -> None:
    for shard in (META, 5):
        lease = (await RedisLeaderLock(store, shard, "group", "me", 60_000).acquire()).lease
        assert lease is not None
        assert await lock_of(store, lease).renew(lease) == "kept"
        assert await lock_of(store, lease).release(lease)
        await RedisLeaderLock(store, shard, "group", "me", 60_000).withdraw()


async def an_audit(store: Store) -> None:
    for again in (False, True):
        assert await session_secret(store)
        await audit.append_entries(store, audit.AuditStream.CHANGES, [b"{}"], "batch", again=again)
    page = await audit.read_entries(store, audit.AuditFilter(), limit=10)
    assert len(page.entries) == 1


async def reads(store: Store) -> None:
    await rights.check(store)
    await queues.get_stats(store, QUEUE)
    await read_parked_types(store, QUEUE)
    await sum_queues(store, 100)
    for brief in (False, True):
        await metrics.collect(store, 1000, brief=brief)
    store.job_counts.count_completed(QUEUE.encode(), b"t", 1)
    await store.job_counts.flush(store)
    assert await MinuteRecorder(store).record(1)
    await outbox_dead_letters.list_dead_letters(store, limit=1)
    with trio.fail_after(60):
        page = await list_jobs(store, JobFilter(), limit=1000)
        assert page.jobs
        assert (await list_jobs(store, JobFilter(type="*"), limit=1000)).jobs
    assert (await read_events(store, EventFilter(), limit=1000)).events


async def backup(store: Store) -> None:
    """Into itself: each script runs, and finds what is there."""
    text = await export_text(store)
    fresh = id_in(shard_of(store).index)
    await put(store, id=fresh)
    [line] = [line for line in (await export_text(store)).splitlines() if fresh.encode() in line]
    head, end = text.splitlines()[0], text.splitlines()[-1]
    other = line.replace(fresh.encode(), home_id(store).encode())
    workflow = await chain(store, *(step(name, "steps-of-it") for name in "abc"))
    for _ in range(2):
        await run_one(store, "steps-of-it", result=1)
    cron_job = parse_cron(b'{"name":"again","cron":"@daily","type":"t"}')
    await cron.register(store, cron_job)
    text = await export_text(store, portion_bytes=1)
    records = [
        line for line in text.splitlines() if line.startswith((b'{"q', b'{"r', b'{"w', b'{"c'))
    ]
    await cron.delete(store, "again")
    tally, said = await import_text(store, b"\n".join([head, other, *records, end]))
    assert said == []
    assert tally.created == {"jobs": 1, "cron jobs": 1}
    assert workflow.id in text.decode()
