"""The index of the search: a value is looked up, and jobs without it are not read."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.indexed_fields import (
    MAX_ENVELOPE_BYTES,
    MAX_MEMBER_BYTES,
    MAX_VALUE_BYTES,
    MAX_VALUES,
    MAX_VALUES_READ,
    indexed_values,
    parse_indexed_fields,
)
from ojs_cluster.core.jobs.edit import parse_edit
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes.edit import edit
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs import index_values
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.listing import JobFilter, JobOrder
from ojs_cluster.store.features.search import indexed
from ojs_cluster.store.features.search.lists import list_jobs
from tests.redis.helpers import eventually
from tests.store.archives import emptied, export_text, import_text
from tests.store.hot_queues import spread
from tests.store.indexed_jobs import CUSTOMER, FIELDS, ORDER, TAG, job_of, with_index
from tests.store.search.test_lists import wanted_by
from tests.store.shortcuts import DAY, HOUR, QUEUE, ack, foreign_id, shard_of, take
from tests.support.indexed import value_key


@pytest.fixture
def indexing(store: Store) -> Store:
    """The store of a server with an index."""
    return with_index(store)


def by_index(text: str, **more: Any) -> JobFilter:
    return wanted_by(text, by_index=True, **more)


async def found(store: Store, text: str, index: str, limit: int = 50, **more: Any) -> list[str]:
    """All pages that the index finds."""
    ids: list[str] = []
    cursor: str | None = None
    while True:
        page = await list_jobs(store, by_index(text, **more), limit=limit, cursor=cursor)
        assert page.index == index
        ids += [job.id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            return ids


class Counting:
    """A client that counts the jobs that scripts read for a search."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.read: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def script(self, slot: int, script: Any, keys: Any, args: Any, **options: Any) -> Any:
        self.read[script.name] += len(args) if script.name == "search_fields" else 1
        return await self._client.script(slot, script, keys, args, **options)


class Steps(trio.abc.Instrument):
    """Counts how often a task has run."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_a_look_up_reads_no_job_that_does_not_match(indexing: Store) -> None:
    for customer in range(10):
        await enqueue_many(indexing, [job_of({"customer_id": f"c{customer}"})] * 250)
    [wanted] = await enqueue_many(indexing, [job_of({"customer_id": "the one"})])
    client: Any = Counting(indexing.redis)
    counted = replace(indexing, redis=client)
    page = await list_jobs(counted, by_index('meta.customer_id:"the one"'), limit=10)
    assert [job.id for job in page.jobs] == [wanted.id]
    assert (page.examined, page.next_cursor, client.read["search_fields"]) == (1, None, 1)


async def test_every_way_of_storing_a_job_adds_it(
    indexing: Store, db: Any, consistent: Any
) -> None:
    meta = {"customer_id": "c 1"}
    await spread(indexing, db, 4, "wide")
    stored = [
        await enqueue(indexing, job_of(meta)),
        await enqueue(indexing, job_of(meta)),  # could take the fast path but for the index
        await enqueue(indexing, job_of(meta, id=foreign_id(indexing))),
        await enqueue(indexing, job_of(meta, options={"delay_until": "2100-01-01T00:00:00Z"})),
        await enqueue(indexing, job_of(meta, options={"pending": True})),
        await enqueue(indexing, job_of(meta, options={"unique": {"keys": ["type"]}})),
        *await enqueue_many(indexing, [job_of(meta) for _ in range(3)]),
        *await enqueue_many(indexing, [job_of(meta, "wide") for _ in range(8)]),
        *await enqueue_many(indexing, [job_of(meta) for _ in range(300)]),
    ]
    await enqueue(indexing, job_of({"customer_id": "c 2"}))
    await enqueue(indexing, job_of({}))
    ids = await found(indexing, 'meta.customer_id:"c 1"', "meta.customer_id", limit=100)
    assert Counter(ids) == Counter(job.id for job in stored)
    consistent()


async def test_a_plain_job_takes_the_fast_path(indexing: Store, db: Any) -> None:
    client: Any = Counting(indexing.redis)
    counted = replace(indexing, redis=client)
    await enqueue(counted, job_of())
    client.read.clear()
    await enqueue(counted, job_of({"customer": "c1"}))
    assert client.read == {"enqueue_one": 1}
    assert not db.keys("ojs:{*}:iv:*")


async def test_pages_follow_each_other_newest_first(indexing: Store, db: Any) -> None:
    await spread(indexing, db, 4, "wide")
    for _ in range(6):
        await enqueue_many(indexing, [job_of(queue="wide", tags=["a", "b"]) for _ in range(5)])
        await trio.sleep(0.002)  # another millisecond
    for limit in (1, 7, 50):
        ids = await found(indexing, "tag:a", "tag", limit)
        assert (len(ids), len(set(ids))) == (30, 30)
        times = [int(job_id.replace("-", "")[:12], 16) for job_id in ids]
        assert times == sorted(times, reverse=True)


async def test_the_whole_filter_and_search_apply(indexing: Store) -> None:
    mine = await enqueue(indexing, job_of({"customer_id": "c1", "n": 1}))
    await enqueue(indexing, job_of({"customer_id": "c1", "n": 2}))
    await enqueue_many(indexing, [job_of() for _ in range(5)])
    await enqueue(indexing, job_of({"customer_id": "c1", "n": 1}, "other"))
    text = "meta.customer_id:c1 meta.n:1"
    assert await found(indexing, text, "meta.customer_id", queue=QUEUE) == [mine.id]
    assert len(await found(indexing, text, "meta.customer_id")) == 2


async def test_the_field_that_was_indexed_first_is_taken(store: Store) -> None:
    """The jobs before another field was indexed are in the larger set only."""
    meta = {"customer_id": "big", "order": {"id": 7}}
    before = with_index(store, (CUSTOMER,))
    old = [await enqueue(before, job_of(meta)) for _ in range(3)]
    await trio.sleep(0.002)  # another millisecond
    since = with_index(store)
    new = await enqueue(since, job_of(meta))
    for text in ("meta.customer_id:big meta.order.id:7", "meta.order.id:7 meta.customer_id:big"):
        ids = await found(since, text, "meta.customer_id")
        assert sorted(ids) == sorted(job.id for job in [*old, new])


async def test_of_fields_that_are_indexed_as_long_the_one_with_the_fewest_jobs_is_taken(
    indexing: Store, db: Any
) -> None:
    jobs = [await enqueue(indexing, job_of({"customer_id": "big"})) for _ in range(3)]
    both = await enqueue(indexing, job_of({"customer_id": "big", "order": {"id": 7}}))
    key = value_key(shard_of(indexing), CUSTOMER, "big")
    order = value_key(shard_of(indexing), ORDER, "7")
    db.zadd(key, {job.id: db.zscore(order, both.id) for job in jobs})
    assert await found(indexing, "meta.customer_id:big meta.order.id:7", "meta.order.id") == [
        both.id
    ]


@pytest.mark.parametrize(
    "text",
    ["meta.customer_id:c1*", "meta.customer_id:c1,c2", "meta.other:c1", "c1", "tag:" + "x" * 600],
)
async def test_other_searches_read_the_jobs(indexing: Store, text: str) -> None:
    await enqueue(indexing, job_of({"customer_id": "c1"}, tags=["x" * 500]))
    assert (await list_jobs(indexing, by_index(text), limit=10)).index is None


async def test_a_search_without_the_index_finds_older_jobs(store: Store, indexing: Store) -> None:
    old = await enqueue(store, job_of({"customer_id": "c1"}))
    new = await enqueue(indexing, job_of({"customer_id": "c1"}))
    text = "meta.customer_id:c1"
    assert await found(indexing, text, "meta.customer_id") == [new.id]
    page = await list_jobs(indexing, wanted_by(text), limit=1)
    assert page.index is None
    following = await list_jobs(indexing, by_index(text), limit=10, cursor=page.next_cursor)
    assert {job.id for job in (*page.jobs, *following.jobs)} == {old.id, new.id}
    assert following.index is None


async def test_a_cursor_belongs_to_its_search(indexing: Store) -> None:
    await enqueue_many(indexing, [job_of({"customer_id": "c1"}) for _ in range(3)])
    page = await list_jobs(indexing, by_index("meta.customer_id:c1"), limit=1)
    for wanted in (by_index("type:x meta.customer_id:c1"), wanted_by("meta.customer_id:c1")):
        with pytest.raises(InvalidRequest):
            await list_jobs(indexing, wanted, limit=1, cursor=page.next_cursor)


async def test_a_sorted_list_has_jobs_that_the_index_lacks(store: Store, indexing: Store) -> None:
    old = await enqueue(store, job_of({"customer_id": "c1"}))
    new = await enqueue(indexing, job_of({"customer_id": "c1"}))
    for by in ("priority", "scheduled_at"):
        order: Any = JobOrder(by, ascending=True)
        wanted = replace(by_index("meta.customer_id:c1"), order=order)
        page = await list_jobs(indexing, wanted, limit=5)
        assert ({job.id for job in page.jobs}, page.index) == ({old.id, new.id}, None)


async def test_a_set_that_may_lack_jobs_is_not_used(store: Store, indexing: Store, db: Any) -> None:
    """A field that was added later has no jobs, and a full set has lost its oldest ones."""
    old = await enqueue(store, job_of({"customer_id": "c1"}, tags=["a"]))
    page = await list_jobs(indexing, by_index("tag:a"), limit=5)
    assert ([job.id for job in page.jobs], page.index) == ([old.id], None)
    new = await enqueue(indexing, job_of({"customer_id": "c1"}))
    text = "meta.customer_id:c1 tag:none"
    assert await found(indexing, text, "meta.customer_id") == []
    key = value_key(shard_of(indexing), CUSTOMER, "c1")
    db.zadd(key, {f"removed-{n}": n for n in range(9_999)})
    page = await list_jobs(indexing, by_index("meta.customer_id:c1"), limit=5)
    assert ({job.id for job in page.jobs}, page.index) == ({old.id, new.id}, None)
    # As of a reader whose first page came before the set was full.
    assert not await indexing.run(shard_of(indexing), "remove_indexed", [key], ["removed-1"])
    assert db.zcard(key) == 10_000


async def test_a_smaller_index_of_the_filter_is_used(indexing: Store) -> None:
    await enqueue_many(indexing, [job_of(tags=["a"]) for _ in range(3)])
    pending = await enqueue(indexing, job_of(tags=["a"], options={"pending": True}))
    page = await list_jobs(indexing, by_index("tag:a", state=State.PENDING), limit=5)
    assert ([job.id for job in page.jobs], page.index) == ([pending.id], None)
    for state in ("completed", "discarded,active", "c*", "available,d*", "* state:d*"):
        text = f"tag:a state:{state}"
        assert (await list_jobs(indexing, by_index(text), limit=5)).index is None
    assert len(await found(indexing, "tag:a", "tag")) == 4
    assert len(await found(indexing, "tag:a state:a*,p*", "tag")) == 4


async def test_a_cursor_of_the_index_is_refused_where_the_index_is_off(
    store: Store, indexing: Store
) -> None:
    await enqueue_many(indexing, [job_of(tags=["a"]) for _ in range(3)])
    page = await list_jobs(indexing, by_index("tag:a"), limit=1)
    with pytest.raises(InvalidRequest, match="start again without a cursor"):
        await list_jobs(store, by_index("tag:a"), limit=1, cursor=page.next_cursor)


async def test_an_edit_adds_the_new_value(indexing: Store) -> None:
    job = await enqueue(indexing, job_of({"customer_id": "before"}))
    change = parse_edit(b'{"meta":{"customer_id":"after"}}', DEFAULT_LIMITS)
    await edit(indexing, job.id, change)
    assert await found(indexing, "meta.customer_id:after", "meta.customer_id") == [job.id]
    assert await found(indexing, "meta.customer_id:before", "meta.customer_id") == []


async def test_a_reader_removes_ids_without_a_job(indexing: Store, db: Any) -> None:
    job = await enqueue(indexing, job_of({"customer_id": "c1"}))
    kept = await enqueue(indexing, job_of({"customer_id": "c1"}))
    key = value_key(shard_of(indexing), CUSTOMER, "c1")
    ids = set(map(bytes.decode, db.zrange(key, 0, -1)))
    assert job.id in ids
    [fetched] = await take(indexing)
    await ack(indexing, fetched, worker_id="w1")
    assert job.id in await found(indexing, "meta.customer_id:c1", "meta.customer_id")
    db.delete(shard_of(indexing).job(job.id))
    assert await found(indexing, "meta.customer_id:c1", "meta.customer_id") == [kept.id]
    await eventually(lambda: db.zscore(key, job.id) is None)
    await indexing.run(shard_of(indexing), "remove_indexed", [key], [kept.id])
    assert db.zscore(key, kept.id), "a job that was stored meanwhile stays"


async def test_a_set_has_an_end_and_a_bound(indexing: Store, db: Any) -> None:
    key = value_key(shard_of(indexing), CUSTOMER, "c1")
    db.zadd(key, {f"old-{n}": n for n in range(10_000)})
    job = await enqueue(indexing, job_of({"customer_id": "c1"}))
    assert db.zcard(key) == 10_000
    assert db.zscore(key, "old-0") is None
    assert db.zscore(key, job.id) is not None
    keep = indexing.settings.search_index_retention_ms
    assert keep < db.pttl(key) <= keep + HOUR
    later = db.pexpiretime(key)
    await enqueue(indexing, job_of({"customer_id": "c1"}))
    assert db.pexpiretime(key) == later  # a job within the hour does not move it
    await enqueue(indexing, job_of({"customer_id": "c1"}, options={"delay_until": "+PT48H"}))
    assert db.pttl(key) > keep + 2 * DAY - HOUR
    await enqueue(
        indexing, job_of({"customer_id": "c1"}, options={"delay_until": "9000-01-01T00:00:00Z"})
    )
    assert db.pttl(key) <= keep + 366 * DAY + HOUR


async def test_any_value_can_be_looked_up(indexing: Store) -> None:
    texts = ["", " ", "}:j:x", "a\0b", 'q"uote', "back\\slash", "*", "ß" * 200, "\r\n", "\uffff"]
    raw = [json.dumps(text) for text in texts] + ["true", "1e400", str(2**70)]
    job = await enqueue(
        indexing,
        parse_job(b'{"type":"a","args":[],"meta":{"customer_id":[%b]}}' % ",".join(raw).encode()),
    )
    for text in (*texts, *raw[-3:]):
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        assert await found(indexing, f'meta.customer_id:"{quoted}"', "meta.customer_id") == [job.id]


def test_what_a_job_may_have_in_the_index_is_bounded() -> None:
    tags = json.dumps([f"t{n}" for n in range(100)]).encode()
    assert len(indexed_values(FIELDS, b'"tags":%b' % tags)) == MAX_VALUES
    long = b"x" * (MAX_VALUE_BYTES + 1)
    assert indexed_values(FIELDS, b'"tags":["%b","b","b"]' % long) == [(TAG, "b")]
    assert indexed_values(FIELDS, b'"tags":["a"],"x":"' + b" " * MAX_ENVELOPE_BYTES + b'"') == []
    for member in (b'"tags":["a"%b]', b'"meta":{"customer_id":"c1"%b}'):
        assert indexed_values(FIELDS, member % b"") != []
        assert indexed_values(FIELDS, member % (b" " * MAX_MEMBER_BYTES)) == []
    repeated = b'"a",' * (MAX_VALUES_READ - 1)
    assert indexed_values(FIELDS, b'"tags":[%b"b","c"]' % repeated) == [(TAG, "a"), (TAG, "b")]
    assert indexed_values(FIELDS, b'"tags":[') == []
    escaped = b'"meta":{"customer\\u005fid":"c1","order.id":[1,2]}'
    assert indexed_values(FIELDS, escaped) == [(CUSTOMER, "c1"), (ORDER, "1"), (ORDER, "2")]


@pytest.mark.parametrize("queues", [(QUEUE,), (QUEUE, "other")])
async def test_the_values_of_jobs_are_read_once_and_other_tasks_run_between_large_ones(
    indexing: Store, monkeypatch: pytest.MonkeyPatch, queues: tuple[str, ...]
) -> None:
    steps = Steps()
    read_in: list[tuple[bool, int]] = []

    def read(*given: Any) -> Any:
        in_main = threading.current_thread() is threading.main_thread()
        read_in.append((in_main, steps.count))
        return indexed_values(*given)

    monkeypatch.setattr(index_values, "indexed_values", read)
    trio.lowlevel.add_instrument(steps)
    for args in ([], ["x" * 70_000]):
        jobs = [job_of({"customer_id": "c1"}, queue, args=args) for queue in queues * 2]
        await enqueue_many(indexing, jobs)
        assert [in_main for in_main, _ in read_in] == [True] * len(jobs)
        assert len({step for _, step in read_in}) == (len(jobs) if args else 1)
        read_in.clear()
    trio.lowlevel.remove_instrument(steps)


@pytest.mark.parametrize(
    "text",
    [
        *("args.x", "meta", "meta.", "tags,", "tag", "meta.a:b", "meta.a b", "Meta.a", "meta.a..b"),
        ",".join(f"meta.m{n}" for n in range(9)),
        "meta.a.b.c.d.e.f.g",
    ],
)
def test_a_setting_that_names_no_field_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"tags and meta\.NAME"):
        parse_indexed_fields(text)


def test_the_setting_names_each_field_once() -> None:
    fields = parse_indexed_fields(" tags, meta.a.b ,tags")
    assert [field.name for field in fields] == ["tag", "meta.a.b"]


async def test_an_import_adds_jobs_of_any_state(indexing: Store, backend: Embedded) -> None:
    meta = {"customer_id": "c1"}
    waiting = await enqueue(indexing, job_of({**meta, "tenant_id": "acme"}))
    later = await enqueue(indexing, job_of(meta, "later", options={"scheduled_at": "+PT1H"}))
    ended = await cancel(indexing, (await enqueue(indexing, job_of(meta, "ended"))).id)
    text = await export_text(indexing)
    async with emptied(backend) as fresh:
        await import_text(other := with_index(fresh), text)
        ids = await found(other, "meta.customer_id:c1", "meta.customer_id")
    assert sorted(ids) == sorted((ended.id, later.id, waiting.id))


async def test_a_job_that_replaces_another_is_found(indexing: Store) -> None:
    unique = {"keys": ["queue"], "on_conflict": "replace"}
    for number in range(2):
        queue = (QUEUE, "other")[number]
        await enqueue_many(
            indexing,
            [
                job_of({"customer_id": f"c{number}"}, options={"unique": unique}),
                job_of({}, queue),
            ],
        )
    [job_id] = await found(indexing, "meta.customer_id:c1", "meta.customer_id")
    assert await found(indexing, "meta.customer_id:c0 state:available", "meta.customer_id") == []
    assert await found(indexing, "meta.customer_id:c1 state:available", "meta.customer_id") == [
        job_id
    ]


async def test_not_every_term_is_compared_in_very_many_shards(
    indexing: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await enqueue(indexing, job_of({"customer_id": "c1"}, tags=["a"]))
    monkeypatch.setattr(indexed, "MAX_SETS", len(indexing.keys))
    assert await found(indexing, "tag:a meta.customer_id:c1", "tag") == [job.id]
    monkeypatch.setattr(indexed, "MAX_SETS", len(indexing.keys) - 1)
    page = await list_jobs(indexing, by_index("tag:a"), limit=1)
    assert ([each.id for each in page.jobs], page.index) == ([job.id], None)
