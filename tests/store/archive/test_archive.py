"""Export and import between any two installations, also repeated and interrupted."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.errors import QueueFull
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.queue_defaults import POLICY
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.redis import Client
from ojs_cluster.redis.settings import Address
from ojs_cluster.server.commands.archive import NotAnArchive
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.queues import fair_share, pauses, queues
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.workflows import read_workflows
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.process_state.queue_defaults import change_defaults, get_defaults
from ojs_cluster.store.ground.process_state.registry import QueueRegistry
from ojs_cluster.store.operators.archive import export_archive, import_archive
from ojs_cluster.store.operators.archive.archive import encode, parse
from ojs_cluster.store.operators.archive.line_values import InvalidLine, JobLine, QueueLine
from tests.store.archives import (
    DEAD,
    as_restored,
    content,
    counted,
    emptied,
    export_text,
    import_text,
    opened,
    populate,
    without_ids,
)
from tests.store.hot_queues import put_into, spread
from tests.store.shortcuts import QUEUE, ack, active, foreign_id, id_in, nack, put, take
from tests.store.unique_jobs import once
from tests.store.workflow_jobs import chain, drain_all, parents, run_one, state_of, step
from tests.support.failing_process import dies_at
from tests.support.invariants import check_invariants
from tests.support.lossy import AbsentClient
from tests.support.servers import flush, observer


async def test_an_export_holds_jobs_in_every_state_and_a_footer(store: Store) -> None:
    await populate(store)

    text = await export_text(store)

    assert counted(text).keys() == {state.value for state in State}
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0]["export"]["version"] == 1
    kinds = Counter(next(iter(line)) for line in lines[1:-1])
    assert kinds == {"job": 29, "queue": 16, "workflow": 2, "cron": 2}
    assert lines[-1] == {"end": {"counts": {"jobs": 29, "queues": 16, "workflows": 2, "crons": 2}}}


@pytest.mark.parametrize(("before", "after"), [(64, 64), (64, 16), (16, 64), (48, 20)])
async def test_an_import_restores_what_was_exported(
    backend: Embedded, before: int, after: int
) -> None:
    async with emptied(backend, before) as source:
        await populate(source)
        text = await export_text(source)
    async with emptied(backend, after) as target:
        tally, messages = await import_text(target, text)
        again = await export_text(target)

    assert (messages, tally.refused, tally.complete) == ([], 0, True)
    assert not tally.existing
    assert check_invariants(backend, shards=after).problems == []
    restored = content(again)
    if before != after:
        restored = without_ids(restored)
    assert restored == as_restored(text, same_shards=before == after)


async def test_a_standalone_server_moves_to_a_cluster_and_back(
    standalone: Embedded, cluster: Embedded
) -> None:
    async with opened(standalone) as source, opened(cluster) as target:
        await populate(source)
        text = await export_text(source)
        await import_text(target, text)
        moved = await export_text(target)
    async with emptied(standalone) as back:
        await import_text(back, moved)
        returned = await export_text(back)

    assert content(moved) == as_restored(text, same_shards=True)
    assert content(returned) == content(moved)


async def test_an_import_run_again_changes_nothing(backend: Embedded, store: Store) -> None:
    await populate(store)
    text = await export_text(store)
    before = content(text)

    tally, messages = await import_text(store, text)

    assert not tally.created
    assert messages == []
    assert tally.existing == {"jobs": 29, "queues": 16, "workflows": 2, "cron jobs": 2}
    assert content(await export_text(store)) == before


@pytest.mark.parametrize("what", ["job", "queue"])
async def test_a_queue_is_listed_later_if_its_import_could_not_register_it(
    store: Store, backend: Embedded, what: str
) -> None:
    """A repeated import would skip the jobs that exist."""
    await put(store)
    lines = [parse(raw) for raw in (await export_text(store)).splitlines()[1:-1]]
    wanted = JobLine if what == "job" else QueueLine
    [line] = [line for line in lines if isinstance(line, wanted)]
    flush(backend)
    async with opened(backend) as target:
        meta = target.keys.meta
        cut_off = replace(
            target,
            redis=cast(Client, AbsentClient(target.redis, {meta.slot})),
            queues=QueueRegistry(),
        )
        restore = import_archive.restore_job if what == "job" else import_archive.restore_queue
        await restore(cut_off, cast(Any, line))
        with observer(backend) as db:
            assert db.zscore(meta.queues, QUEUE) is None
            await drain_all(target, db)
            assert db.zscore(meta.queues, QUEUE) is not None


@pytest.mark.parametrize("shards", [64, 20])
async def test_an_import_that_dies_at_any_command_can_be_repeated(
    standalone: Embedded, shards: int
) -> None:
    async with opened(standalone) as source:
        await put(source, id=foreign_id(source))
        await once(source, "unique")
        await nack(source, await active(source, "graves", **DEAD))
        await chain(source, step("a", "steps"), step("b", "more"))
        text = await export_text(source)
    for applied in (False, True):
        at = died = 0
        while died == at:
            at += 1
            async with emptied(standalone, shards) as target:

                async def whole(acting: Store) -> None:
                    await import_text(acting, text)

                died += await dies_at(target, at, applied, whole)
                tally, messages = await import_text(target, text)
                assert (messages, tally.refused) == ([], 0)
                with observer(standalone) as db:
                    await drain_all(target, db)
                assert check_invariants(standalone, shards=shards).problems == []
                assert without_ids(content(await export_text(target))) == as_restored(
                    text, same_shards=False
                )
        assert at > 10


async def test_order_priorities_and_places_are_kept(backend: Embedded, store: Store) -> None:
    for number in range(12):
        await put(store, priority=number % 3, type=f"t{number}")
    await take(store, count=2)  # comes back first, as it left first
    text = await export_text(store)
    async with emptied(backend, 16) as target:
        await import_text(target, text)
        await put(target, type="new", priority=2)

        order = [job.type for job in await take(target, count=20)]

    top, mid, low = ([f"t{n}" for n in range(first, 12, 3)] for first in (2, 1, 0))
    assert order == [*top, "new", *mid, *low]


async def test_restored_jobs_go_on_where_they_were(backend: Embedded, store: Store) -> None:
    failing = await active(store, max_attempts=3)
    await nack(store, failing, {"message": "first"})
    text = await export_text(store)
    async with emptied(backend, 20) as target:
        await import_text(target, text)
        with observer(backend) as db:
            shard = target.keys.shard_of_queue(QUEUE)
            db.zadd(shard.due, {failing.id: 0})
        [again] = await take(target)
        await nack(target, again, {"message": "second"})
        job = await read_jobs.get(target, failing.id)

    assert again.attempt == 2
    assert [json.loads(error)["message"] for error in job.errors()] == ["first", "second"]
    assert job.state is State.RETRYABLE


async def test_a_held_job_is_available_and_its_old_lease_void(
    backend: Embedded, store: Store
) -> None:
    held = await active(store, max_attempts=1, timeout_ms=1000)
    text = await export_text(store)
    async with emptied(backend) as target:
        await import_text(target, text)
        [again] = await take(target, worker="w2")

        assert (again.id, again.attempt) == (held.id, 1)
        with pytest.raises(Exception, match="another lease"):
            await ack(target, held.id, lease_id=held.lease_id)
        await ack(target, again, lease_id=again.lease_id)


async def test_an_export_first_finishes_an_abandoned_replacement(
    standalone: Embedded,
) -> None:
    prepared = 0
    for at in itertools.count(1):
        async with emptied(standalone) as store:
            await once(store)

            async def replace(acting: Store) -> None:
                await once(acting, on_conflict="replace")

            died = await dies_at(store, at, True, replace)
            with observer(standalone) as db:
                shard = store.keys.shard_of_queue(QUEUE)
                prepared += any(b"@t" in db.hgetall(key) for key in db.keys(shard.job("*")))
            counts = counted(await export_text(store))
            assert counts["available"] == 1
            assert set(counts) <= {"available", "cancelled"}
        if not died:
            break
    assert prepared


@pytest.mark.parametrize("shards", [64, 20])
async def test_a_workflow_continues_after_its_import(
    backend: Embedded, store: Store, shards: int
) -> None:
    made = await chain(store, step("a", "one"), step("b", "two"), step("c", "three"))
    await run_one(store, "one", result={"x": 1})
    text = await export_text(store)
    async with emptied(backend, shards) as target:
        await import_text(target, text)
        assert [j.state for j in (await read_workflows.get(target, made.id)).jobs] == [
            "completed",
            "pending",
            "waiting",
        ]
        await run_one(target, "two", result=2)
        [last] = await take(target, "three")
        assert parents(last) == [{"x": 1}, 2]
        await ack(target, last)
        assert await state_of(target, made.id) == "completed"
    assert check_invariants(backend, shards=shards).problems == []


async def test_a_workflow_advances_for_jobs_that_ended_before_its_import(
    backend: Embedded, store: Store
) -> None:
    made = await chain(store, step("a", "one"), step("b", "two"))
    lines = (await export_text(store)).splitlines(keepends=True)
    early = b"".join(line for line in lines if not line.startswith(b'{"workflow"'))
    async with emptied(backend) as target:
        await import_text(target, early)
        await run_one(target, "one")
        await import_text(target, b"".join(lines))
        await run_one(target, "two")
        assert await state_of(target, made.id) == "completed"


async def test_a_step_whose_job_is_in_no_line_is_enqueued_again(
    backend: Embedded, store: Store
) -> None:
    made = await chain(store, step("a", "one"), step("b", "two"))
    lines = (await export_text(store)).splitlines(keepends=True)
    without = b"".join(line for line in lines if not line.startswith(b'{"job"'))
    async with emptied(backend, 20) as target:
        await import_text(target, without)
        await run_one(target, "one")
        await run_one(target, "two")
        assert await state_of(target, made.id) == "completed"


async def test_a_restored_unique_job_holds_its_lock_until_it_ends(
    backend: Embedded, store: Store
) -> None:
    job = await once(store)
    text = await export_text(store)
    async with emptied(backend, 16) as target:
        await import_text(target, text)
        with pytest.raises(Exception, match="same uniqueness"):
            await once(target)
        [fetched] = await take(target)
        await ack(target, fetched)
        assert (await once(target)).id != job.id


async def test_an_import_does_not_change_an_existing_job(store: Store) -> None:
    job = await put(store)
    text = await export_text(store)
    [fetched] = await take(store)
    await ack(store, fetched)

    tally, _ = await import_text(store, text)

    assert tally.existing["jobs"] == 1
    assert (await read_jobs.get(store, job.id)).state is State.COMPLETED


async def test_a_paused_queue_gives_no_job_after_its_import(
    backend: Embedded, store: Store
) -> None:
    await put(store)
    await pauses.pause_or_resume(store, QUEUE, "pause")
    text = await export_text(store)
    async with emptied(backend) as target:
        await import_text(target, text)
        assert await fetch(target, [QUEUE], count=1, worker_id="w") == []
        await pauses.pause_or_resume(target, QUEUE, "resume")
        assert len(await take(target)) == 1


async def test_a_queue_keeps_its_depth_bound_and_its_fair_share_after_its_import(
    backend: Embedded, store: Store
) -> None:
    bound = DepthBound(1, "block", 0.5)
    await depth_bounds.set_bound(store, "bounded", bound)
    await change_defaults(store, POLICY, {"default_timeout": 7})
    await fair_share.set_fair_share(store, "bounded", on=True)
    text = await export_text(store)
    async with emptied(backend) as restored:
        await import_text(restored, text)
        await put(restored, "bounded")
        with pytest.raises(QueueFull):
            await put(restored, "bounded")
        assert await fair_share.has_fair_share(restored, "bounded")
        assert await depth_bounds.get_bound(restored, "bounded") == bound
        assert (await get_defaults(restored, POLICY)).default_timeout == 7
    assert json.loads(text.splitlines()[1])["queue"]["max_depth"] == "1"


async def test_invalid_lines_are_reported_and_the_others_imported(
    backend: Embedded, store: Store
) -> None:
    job = await put(store, id=id_in(3))
    head, *rest, end = (await export_text(store)).splitlines()
    [good] = [line for line in rest if line.startswith(b'{"job"')]
    queue = next(line for line in rest if line.startswith(b'{"queue"'))
    bad = [
        b"not json",
        b"[]",
        b"{}",
        b'{"job":{}}',
        b'{"queue":{"name":"q","max_depth":"1","overflow":"burn:2"}}',
        b'{"jobs":{}}',
        b'{"job":3}',
        good[:-20],
        good.replace(b'"state":"available"', b'"state":"prepared"'),
        good.replace(b'"queue":"mail"', b'"queue":"Mail!"'),
        good.replace(b'"priority":0,', b'"priority":0,"state":"active",'),
        good.replace(b'"position":1', b'"position":1.5'),
        good.replace(b'"position":1', b'"position":-1'),
        good.replace(b'"position":1', b'"position":1e400'),
        good.replace(b'"state":"available"', b'"state":"completed"'),
        good.replace(b'"state":"available"', b'"state":"scheduled"'),
        good.replace(b"}}", b',"errors":[{"attempt":1,"at_ms":1}]}}'),
        good.replace(b"}}", b',"errors":[7]}}'),
        good.replace(b"7003", b"4003"),
        good.replace(b"}}", b',"other":{"s":"active"}}}'),
        good.replace(b"}}", b',"other":{"@":"3"}}}'),
        good.replace(b"}}", b',"retry":"often"}}'),
        good.replace(b"}}", b',"retry":"exponential:1000:1.2.3:5000:0"}}'),
        good.replace(b"}}", b',"unique":"yes"}}'),
        good.replace(b"}}", b',"workflow_id":"w"}}'),
        good.replace(b"}}", b',"workflow_step":1}}'),
        good.replace(b"}}", b',"parent_results":{}}}'),
        good.replace(b"}}", b',"parent_results":[1],"parent_names":["a","b"]}}'),
        head,
        b'{"cron":{"name":"x"}}',
        b'{"workflow":{"id":"019461a8-1a2b-7003-8e4f-000000000001"}}',
        b'{"queue":{"name":"\\u0000"}}',
        b'{"queue":{"name":"q","limits":"many"}}',
        b'{"queue":{"name":"q","paused":"once"}}',
        b'{"queue":{"name":"q","partitions":65}}',
        b"\xff",
        b"[" * 100_000,
    ]
    assert all(line != good for line in bad)
    async with emptied(backend) as target:
        tally, messages = await import_text(target, b"\n".join([head, queue, *bad, good, end]))

        assert [int(line.split()[1].rstrip(":")) for line in sorted(messages, key=_number)] == list(
            range(3, 3 + len(bad))
        )
        assert tally.refused == len(bad)
        assert tally.complete
        assert content(await export_text(target)).keys() == {("queue", "mail"), ("job", job.id)}
        assert check_invariants(backend).problems == []


def _number(messages: str) -> int:
    return int(messages.split()[1].rstrip(":"))


async def test_a_truncated_file_is_detected(backend: Embedded, store: Store) -> None:
    await put(store)
    lines = (await export_text(store)).splitlines(keepends=True)
    async with emptied(backend) as target:
        tally, _ = await import_text(target, b"".join(lines[:-1]))

    assert not tally.complete
    assert tally.created["jobs"] == 1


@pytest.mark.parametrize("text", [b"", b"{}\n", b'{"job":{}}\n', b'{"export":{"version":2}}\n'])
async def test_a_file_that_is_no_archive_is_refused(store: Store, text: bytes) -> None:
    with pytest.raises(NotAnArchive):
        await import_text(store, text)


async def test_an_export_fails_when_the_cluster_changes_during_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: Any = iter([{Address("a", 1): (b"0-1",)}, {Address("a", 1): (b"0-2",)}])

    async def shape(_store: Store) -> Any:
        return next(shapes)

    monkeypatch.setattr(export_archive, "_shape", shape)
    with pytest.raises(export_archive.ClusterChanged):
        await export_text(store)


async def test_an_export_is_refused_while_slots_migrate(cluster: Embedded) -> None:
    async with opened(cluster) as store:
        await put(store)
        giver, taker = cluster.masters()[:2]
        with giver.client() as db, taker.client() as other:
            [slot] = [
                part.first for part in store.redis.topology.ranges if part.master.port == giver.port
            ][:1]
            db.cluster("SETSLOT", slot, "MIGRATING", other.cluster("MYID"))
            try:
                with pytest.raises(export_archive.ClusterChanged, match="being moved"):
                    await export_text(store)
            finally:
                db.cluster("SETSLOT", slot, "STABLE")
        assert counted(await export_text(store)) == {"available": 1}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(
    result=_JSON,
    args=_JSON,
    priority=st.integers(-100, 100),
    position=st.none() | st.integers(0, 2**45 - 1),
    errors=st.lists(st.tuples(st.integers(1, 99), st.integers(0, 2**50)), max_size=4),
    unknown=st.text(max_size=5).filter(bool),
)
def test_a_line_survives_encoding_and_parsing(
    result: Any, args: Any, priority: int, position: int | None, errors: Any, unknown: str
) -> None:
    job_id = id_in(1)
    envelope = {"id": job_id, "type": "t", "queue": "q", "args": args}
    fields = {
        f.ENVELOPE: json.dumps(envelope).encode()[:-1],
        f.RESULT: json.dumps(result).encode(),
        f.STATE: b"available",
        f.TYPE: b"t",
        f.QUEUE: b"q",
        f.CREATED: b"1",
        f.MAX_ATTEMPTS: b"3",
        f.PRIORITY: b"%d" % priority,
        b"a-field-of-tomorrow": unknown.encode("utf-8", "surrogatepass"),
    }
    line = JobLine(
        job_id, fields, tuple((n, at, b'{"code":"x"}') for n, at in errors), position, None, True
    )
    try:
        raw = encode(line)
    except UnicodeDecodeError:
        assert not unknown.isprintable()
        return

    assert raw.count(b"\n") == 1
    assert parse(raw) == line


async def test_json_with_line_breaks_is_restored(backend: Embedded, store: Store) -> None:
    sent = b'{\r\n"type":"t","args":[1.0,\n"a\\nb"],"meta":{\n},"x":[\n],"queue":"mail"}'
    await enqueue(store, parse_job(sent))
    done = await active(store, "done")
    await ack(store, done, result=b'{\n  "n": 1\n}')
    await nack(store, await active(store, "fails"), {"message": "x"})
    text = await export_text(store)
    async with emptied(backend) as target:
        tally, messages = await import_text(target, text)
        [job] = await take(target)
        assert (await read_jobs.get(target, done.id)).result == b'{   "n": 1 }'

    assert (messages, tally.complete, tally.created["jobs"]) == ([], True, 3)
    assert b'"args":[1.0, "a\\nb"],"meta":{ }' in job.json()
    assert b'"x":[ ]' in job.json()


def test_an_invalid_line_has_a_reason() -> None:
    with pytest.raises(InvalidLine, match="not valid JSON"):
        parse(b"{")


async def test_a_restored_job_is_stored_like_an_enqueued_job(
    backend: Embedded, store: Store, db: Any
) -> None:
    job = await put(store, priority=3, max_attempts=7)
    key = store.keys.shard_of_id(job.id).job(job.id)
    stored = db.hget(key, f.ENVELOPE)
    text = await export_text(store)
    async with emptied(backend) as target:
        await import_text(target, text)

        restored = await read_jobs.get(target, job.id)

    assert stored.startswith(b'"args":[]')  # what other fields say is not stored again
    assert db.hget(key, f.ENVELOPE) == stored
    assert restored.json() == job.json()


async def test_an_envelope_with_another_member_order_is_kept(
    backend: Embedded, store: Store
) -> None:
    job = await put(store)
    head = b'"envelope":{"specversion":"1.0",'
    text = await export_text(store)
    assert head in text
    async with emptied(backend) as target:
        await import_text(target, text.replace(head, b'"envelope":{"specversion":"1.0-rc.1",'))

        restored = json.loads((await read_jobs.get(target, job.id)).json())

    assert restored == {**json.loads(job.json()), "specversion": "1.0-rc.1"}


async def test_a_restored_job_waits_for_the_limit_of_its_key(
    backend: Embedded, store: Store
) -> None:
    limit = {"key": "tenant", "concurrency": 1}
    for _ in range(3):
        await put(store, rate_limit=limit)
    await take(store)
    text = await export_text(store)
    async with emptied(backend, 20) as target:
        await import_text(target, text)

        assert (await rate_limits.get_key(target, "tenant")).usage.limits == RateLimits(
            concurrency=1
        )
        with observer(backend) as db:
            for _ in range(3):
                await take(target, count=5)
                await drain_all(target, db)
            [held] = [
                job
                for job in content(await export_text(target)).values()
                if "state" in job and job["state"] == "active"
            ]
        assert held["rate_limit"].startswith("tenant ")
    assert check_invariants(backend, shards=20).problems == []


@pytest.mark.parametrize("shards", [64, 20])
async def test_a_partitioned_queue_is_restored_with_one_counter(
    backend: Embedded, store: Store, db: Any, shards: int
) -> None:
    parts = await spread(store, db, 4)
    ids = [(await put_into(store, part)).id for part in parts for _ in range(3)]
    await ack(store, (await take(store))[0])
    await pauses.pause_or_resume(store, QUEUE, "pause")
    text = await export_text(store)
    async with emptied(backend, shards) as target:
        tally, messages = await import_text(target, text)
        again, _ = await import_text(target, text)

        assert (messages, tally.created["jobs"], again.created.total()) == ([], 12, 0)
        assert check_invariants(backend, shards=shards).problems == []
        assert target.partitions.layout(QUEUE).count == 4
        stats = await queues.get_stats(target, QUEUE)
        assert (stats.paused, stats.acked, stats.counts[State.AVAILABLE]) == (True, 1, 11)
        await pauses.pause_or_resume(target, QUEUE, "resume")
        found = {job.id for job in await take(target, count=20)}
        assert len(found) == 11
        assert found < set(ids)
        lie_in = {await read_jobs.shard_of(target, QUEUE, id_) for id_ in ids}
        assert len(lie_in) > 1
        assert content(await export_text(target)).keys() == content(text).keys()


async def test_damaged_workflows_and_cron_jobs_are_left_out_of_an_export(
    store: Store, db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await populate(store)
    whole = counts_of(await export_text(store))
    damaged = await chain(store, step("a"))
    key = store.keys.shard_of_id(damaged.id).workflow(damaged.id)
    for field, value in ((b"plan", b"\xff"), (b"node_statuses", b""), (b"state", b"x")):
        kept = db.hget(key, field)
        db.hset(key, field, value)
        assert counts_of(await export_text(store))["workflows"] == whole["workflows"]
        assert damaged.id in caplog.text
        db.hset(key, field, kept)
    db.hset(store.keys.meta.cron("c"), "created", "x")
    assert counts_of(await export_text(store))["crons"] == whole["crons"] - 1


def counts_of(text: bytes) -> dict[str, int]:
    counts: dict[str, int] = json.loads(text.splitlines()[-1])["end"]["counts"]
    return counts


async def test_a_workflow_of_an_export_before_0_1_is_imported(backend: Embedded) -> None:
    async with emptied(backend) as store:
        made = await chain(store, step("a"), step("b"))
        text = (await export_text(store)).replace(b'"node_statuses"', b'"marks"')
    async with emptied(backend) as store:
        _, messages = await import_text(store, text)
        assert messages == []
        assert (await read_workflows.get(store, made.id)).state == "running"
