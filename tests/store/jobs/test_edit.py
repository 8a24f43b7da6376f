"""A waiting job may get other args, meta, options and times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
import trio

from ojs_cluster.core.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    OJSError,
    PayloadTooLarge,
    ValidationFailed,
)
from ojs_cluster.core.jobs.edit import parse_edit
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.changes.edit import edit
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from tests.store.shortcuts import HOUR, ack, active, home_id, nack, promote_all, put, shard_of, take
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job


async def change(store: Store, job: JobRecord, **members: Any) -> JobRecord:
    parsed = parse_edit(orjson.dumps(members), DEFAULT_LIMITS)
    changed, warnings = await edit(store, job.id, parsed)
    assert warnings == []
    return changed


def shown(job: JobRecord) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(job.json())
    return found


async def test_named_members_change_and_the_others_stay(
    store: Store, consistent: Callable[[], InvariantReport]
) -> None:
    retry = {"max_attempts": 2, "initial_interval": "PT7S"}
    job = await put(store, retry=retry, timeout_ms=5000, tags=["a"], meta={"k": 1})
    expires_at = "2999-01-01T00:00:00Z"
    await change(store, job, args=[{"n": 2}], meta={"k": 2}, max_attempts=9)
    changed = await change(store, job, timeout_ms=7000, priority=3, expires_at=expires_at)
    now = shown(await read_jobs.get(store, job.id))
    assert shown(changed) == now
    before = shown(job)
    assert now["args"] == [{"n": 2}]
    assert now["meta"] == {"k": 2}
    assert (now["max_attempts"], now["timeout_ms"], now["priority"]) == (9, 7000, 3)
    assert now["retry"] == {**before["retry"], "max_attempts": 9}
    assert now["expires_at"] == expires_at
    for name in ("id", "type", "queue", "tags", "created_at", "state"):
        assert now[name] == before[name]
    consistent()
    removed = shown(await change(store, job, timeout_ms=None, expires_at=None, tags=None))
    assert {"timeout_ms", "expires_at", "tags"}.isdisjoint(removed)
    consistent()
    [taken] = await take(store)
    assert taken.max_attempts == 9
    assert shown(taken)["args"] == [{"n": 2}]


async def test_values_stay_byte_for_byte(store: Store) -> None:
    job = await put(store)
    raw = b'{"args":[1.0,1e400,36893488147419103232,"\\u00e9"]}'
    changed, _ = await edit(store, job.id, parse_edit(raw, DEFAULT_LIMITS))
    assert b'"args":[1.0,1e400,36893488147419103232,"\\u00e9"]' in changed.json()


async def test_a_scheduled_job_gets_another_time(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    job = await put(store, scheduled_at="2999-01-01T00:00:00Z")
    later = await change(store, job, scheduled_at="2998-01-01T00:00:00Z")
    assert shown(later)["scheduled_at"] == "2998-01-01T00:00:00Z"
    consistent()
    soon = await change(store, job, scheduled_at="+PT1S")
    assert soon.state is State.SCHEDULED
    assert orjson.loads(soon.json())["scheduled_at"].startswith("20")
    assert soon.json().count(b'"scheduled_at"') == 1
    consistent()
    age_job(db, shard_of(store), job.id, HOUR)
    await promote_all(store)
    [taken] = await take(store)
    assert taken.id == job.id
    waiting = await put(store)
    with pytest.raises(Conflict, match="not scheduled"):
        await change(store, waiting, scheduled_at="+PT1H")


async def test_an_expiring_job_lives_on_after_the_edit(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    job = await put(store, scheduled_at="+PT10M", expires_at="+PT20M")
    assert db.zscore(shard_of(store).expiring, job.id)
    await change(store, job, expires_at=None)
    assert db.zscore(shard_of(store).expiring, job.id) is None
    consistent()
    age_job(db, shard_of(store), job.id, HOUR)
    await promote_all(store)
    assert [taken.id for taken in await take(store)] == [job.id]


async def test_a_failed_job_runs_again_with_other_args(store: Store, db: Any) -> None:
    job = await active(store, retry={"max_attempts": 3})
    await nack(store, job)
    with pytest.raises(ValidationFailed, match="has had 1 attempts"):
        await change(store, job, max_attempts=1)
    await change(store, job, args=["right"], max_attempts=2)
    age_job(db, shard_of(store), job.id, HOUR)
    await promote_all(store)
    [taken] = await take(store)
    assert shown(taken)["args"] == ["right"]
    assert (taken.attempt, taken.max_attempts) == (2, 2)


async def test_what_cannot_be_edited(store: Store) -> None:
    unique = await put(store, unique={"keys": ["type", "args"]})
    with pytest.raises(Conflict, match="is unique"):
        await change(store, unique, args=[1])
    assert (await change(store, unique, priority=4, tags=["t"])).priority == 4
    job = await active(store, id=None, queue="other")
    for _ in range(2):
        with pytest.raises(Conflict):
            await change(store, job, args=[2])
        if (await read_jobs.get(store, job.id)).state is State.ACTIVE:
            await ack(store, job)


async def test_edits_at_the_same_time_lose_nothing(store: Store) -> None:
    job = await put(store)

    async def set_one(member: str, value: Any) -> None:
        await change(store, job, **{member: value})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(set_one, "args", [1])
        nursery.start_soon(set_one, "meta", {"m": 1})
        nursery.start_soon(set_one, "tags", ["t"])
    now = shown(await read_jobs.get(store, job.id))
    assert (now["args"], now["meta"], now["tags"]) == ([1], {"m": 1}, ["t"])


async def test_another_job_of_the_same_id_does_not_get_the_content_of_the_first(
    store: Store, monkeypatch: pytest.MonkeyPatch, consistent: Callable[[], InvariantReport]
) -> None:
    first = await put(store, id=home_id(store), tags=["first"])
    read = read_jobs.get
    seen: list[str] = []

    async def get(store: Store, job_id: str) -> JobRecord:
        job = await read(store, job_id)
        if not seen:  # after the edit has read the first job
            assert await purges.purge(store, job.queue) == (1, 0)
            await trio.sleep(0.005)
            await put(store, id=job_id, tags=["second"])
        return job

    monkeypatch.setattr(read_jobs, "get", get)
    change_meta = parse_edit(b'{"meta":{"m":1}}', DEFAULT_LIMITS)

    def check(job: JobRecord) -> None:
        seen.extend(shown(job)["tags"])

    changed, _ = await edit(store, first.id, change_meta, check=check)
    now = shown(changed)
    assert (now["tags"], now["meta"]) == (["second"], {"m": 1})
    assert seen == ["first", "second"]  # each job that is read is checked
    consistent()


async def test_a_job_that_fails_the_check_is_not_changed(store: Store) -> None:
    job = await put(store)

    def refuse(read: JobRecord) -> None:
        raise NotFound("job", read.id)

    with pytest.raises(NotFound):
        await edit(store, job.id, parse_edit(b'{"args":[1]}', DEFAULT_LIMITS), check=refuse)
    assert shown(await read_jobs.get(store, job.id)) == shown(job)


@pytest.mark.parametrize(
    ("body", "error", "field"),
    [
        (b"{}", InvalidRequest, "body"),
        (b'{"state":"active"}', InvalidRequest, "state"),
        (b'{"args":{}}', InvalidRequest, "args"),
        (b'{"args":null}', InvalidRequest, "args"),
        (b'{"meta":[]}', InvalidRequest, "meta"),
        (b'{"priority":101}', InvalidRequest, "priority"),
        (b'{"priority":null}', InvalidRequest, "priority"),
        (b'{"max_attempts":1e400}', InvalidRequest, "max_attempts"),
        (b'{"max_attempts":-1}', ValidationFailed, "max_attempts"),
        (b'{"timeout_ms":"1"}', ValidationFailed, "timeout_ms"),
        (b'{"timeout_ms":1e400}', InvalidRequest, "timeout_ms"),
        (b'{"scheduled_at":"soon"}', InvalidRequest, "scheduled_at"),
        (b'{"expires_at":5}', InvalidRequest, "expires_at"),
        (b'{"tags":[""]}', InvalidRequest, "tags"),
    ],
)
def test_a_wrong_edit_names_its_member(body: bytes, error: type[OJSError], field: str) -> None:
    with pytest.raises(error) as caught:
        parse_edit(body, DEFAULT_LIMITS)
    assert caught.value.field == field


async def test_an_edited_job_is_not_larger_than_a_new_one(store: Store) -> None:
    job = await put(store)
    limit = DEFAULT_LIMITS.envelope_bytes
    with pytest.raises(PayloadTooLarge):
        await change(store, job, args=["x" * limit])
    await change(store, job, args=["x" * (limit - 1000)])
    with pytest.raises(PayloadTooLarge):
        await change(store, job, meta={"m": "y" * 2000})
