"""Records that another program has damaged: what each route answers.

Every field of a record is removed, emptied and replaced in turn. No route answers 500, a list omits
the record or shows it with default values, and the record can be removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api
from tests.support.servers import observer

V: Final = "/ojs/v1"
VALUES: Final = (None, b"", b"x", b"\xff{", b"[]", b"{}", b"9" * 20)
"""None for a field that is removed."""


@pytest.fixture
def db(standalone: Embedded) -> Iterator[Any]:
    with observer(standalone) as client:
        yield client


async def answers(api: Api, db: Any, key: bytes, *paths: str) -> set[int]:
    """Return the statuses of GET requests while one field after the other is damaged."""
    found: set[int] = set()
    whole = db.dump(key)
    for field in db.hkeys(key):
        for value in VALUES:
            if value is None:
                db.hdel(key, field)
            else:
                db.hset(key, field, value)
            for path in paths:
                found.add((await api.get(V + path)).status)
            db.delete(key)
            db.restore(key, 0, whole)
    db.delete(key)
    db.set(key, "x")
    for path in paths:
        found.add((await api.get(V + path)).status)
    db.delete(key)
    db.restore(key, 0, whole)
    return found


async def a_workflow(api: Api) -> str:
    step = {"type": "s", "args": [], "options": {"queue": "steps"}}
    body = {"type": "chain", "steps": [{**step, "id": "a"}, {**step, "id": "b"}]}
    made = await api.post(f"{V}/workflows", body)
    assert made.status == 201, made.body
    workflow_id: str = made.json["workflow"]["id"]
    return workflow_id


async def test_a_damaged_workflow(api: Api, db: Any) -> None:
    damaged, other = await a_workflow(api), await a_workflow(api)
    [job, _] = await api.fetch("steps", worker_id="w", count=2)
    await api.post(f"{V}/workers/ack", {"job_id": job["id"], "worker_id": "w", "result": 1})
    key = api.app.store.keys.shard_of_id(damaged).workflow(damaged)
    paths = [f"/workflows/{damaged}", f"/workflows/{damaged}/progress"]
    assert await answers(api, db, key, *paths) <= {200, 404, 409}
    assert await answers(api, db, key, "/workflows", "/workflows?state=running") == {200}
    db.hdel(key, "plan")
    refused = await api.get(f"{V}/workflows/{damaged}")
    assert (refused.status, refused.error["code"]) == (409, "malformed_record")
    listed = (await api.get(f"{V}/workflows")).json["workflows"]
    assert [each["id"] for each in listed] == [other]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("field", ["plan", "state", "node_statuses", "created", "type"])
async def test_a_damaged_workflow_is_removed_by_its_cancellation(
    api: Api, db: Any, field: str, value: bytes | None
) -> None:
    damaged = await a_workflow(api)
    shard = api.app.store.keys.shard_of_id(damaged)
    key = shard.workflow(damaged)
    if value is None:
        db.hdel(key, field)
    else:
        db.hset(key, field, value)
    cancelled = await api.delete(f"{V}/workflows/{damaged}")
    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled"), cancelled.body
    assert (await api.get(f"{V}/workflows/{damaged}")).status == 404
    assert not db.exists(key, shard.workflow_definitions(damaged), shard.running_workflows)
    assert not db.zcard(shard.workflows)
    if field != "plan":
        assert await api.fetch("steps", worker_id="w") == []


@pytest.mark.parametrize("error", [b'{"details":1e400}', b" { } ", b"{}", b"null", b'{"a":"\xff"}'])
async def test_a_failed_workflow_is_valid_json_or_malformed(
    api: Api, db: Any, error: bytes
) -> None:
    step = {"type": "s", "args": [], "options": {"queue": "steps", "max_attempts": 1}}
    made = await api.post(f"{V}/workflows", {"type": "chain", "steps": [step]})
    workflow_id = made.json["workflow"]["id"]
    [job] = await api.fetch("steps", worker_id="w")
    await api.post(f"{V}/workers/nack", {"job_id": job["id"], "worker_id": "w", "error": "x"})
    key = api.app.store.keys.shard_of_id(workflow_id).workflow(workflow_id)
    db.hset(key, "e0", error)
    found = await api.get(f"{V}/workflows/{workflow_id}")
    is_object = error.strip().startswith(b"{") and b"\xff" not in error
    assert found.status == (200 if is_object else 409), found.body
    json.loads(found.body)
    listed = (await api.get(f"{V}/workflows")).json["workflows"]
    assert [each["id"] for each in listed] == [workflow_id] * is_object


async def test_a_worker_that_reports_a_number_beyond_float64_is_shown_with_it(api: Api) -> None:
    beat = b'{"worker_id":"w","active_jobs":[],"memory_bytes":1e400}'
    assert (await api.post(f"{V}/workers/heartbeat", beat)).status == 200
    assert b'"memory_bytes":1e400' in (await api.get(f"{V}/workers")).body


async def test_a_damaged_cron_job(api: Api, db: Any) -> None:
    for name in ("c", "other"):
        body: dict[str, Any] = {"name": name, "cron": "0 0 1 1 *", "type": "t", "args": []}
        assert (await api.post(f"{V}/cron", body)).status == 201
        assert (await api.post(f"{V}/cron/{name}/trigger")).status == 201
    meta = api.app.store.keys.meta
    key = meta.cron("c")
    assert await answers(api, db, key, "/cron/c", "/cron/c/history") <= {200, 404, 409}
    assert await answers(api, db, key, "/crons") <= {200}
    for value in (b"\xff", b"x", b"fire x 1 a", b"fire 1 " + b"9" * 20 + b" a"):
        db.lpush(meta.cron_history("c"), value)
    history = await api.get(f"{V}/cron/c/history")
    assert (history.status, len(history.json["history"])) == (200, 1)


@pytest.mark.parametrize("field", ["created", "anchor", "job", "expression", "description"])
async def test_a_damaged_cron_job_is_registered_again_or_deleted(
    api: Api, db: Any, field: str
) -> None:
    body: dict[str, Any] = {"name": "c", "cron": "0 0 1 1 *", "type": "t", "args": []}
    key = api.app.store.keys.meta.cron("c")
    for value in VALUES:
        assert (await api.post(f"{V}/cron", body)).status == 201, (field, value)
        if value is None:
            db.hdel(key, field)
        else:
            db.hset(key, field, value)
    assert (await api.post(f"{V}/cron", body)).status == 201
    assert (await api.get(f"{V}/cron/c")).status == 200
    db.hset(key, field, "\x01")
    deleted = await api.delete(f"{V}/cron/c")
    assert (deleted.status, deleted.json["name"]) == (200, "c")
    assert (await api.get(f"{V}/cron/c")).status == 404


CRON: Final[dict[str, Any]] = {"name": "c", "cron": "0 0 1 1 *", "type": "t", "args": []}


async def test_a_cron_job_whose_key_has_another_type_is_registered_again_or_deleted(
    api: Api, db: Any
) -> None:
    meta = api.app.store.keys.meta
    for again in (True, False):
        assert (await api.post(f"{V}/cron", CRON)).status == 201
        db.delete(meta.cron("c"))
        db.set(meta.cron("c"), "x")
        assert (await api.get(f"{V}/cron/c")).status == 409
        if again:
            assert (await api.post(f"{V}/cron", CRON)).status == 201
            assert (await api.get(f"{V}/cron/c")).status == 200
            continue
        deleted = await api.delete(f"{V}/cron/c")
        assert (deleted.status, deleted.json["name"]) == (200, "c")
        assert (await api.get(f"{V}/cron/c")).status == 404
    assert not db.exists(meta.cron("c"), meta.crons, meta.cron_names, meta.cron_history("c"))


async def test_a_history_of_a_cron_job_whose_key_has_another_type(api: Api, db: Any) -> None:
    key = api.app.store.keys.meta.cron_history("c")
    assert (await api.post(f"{V}/cron", CRON)).status == 201
    db.set(key, "x")
    assert (await api.get(f"{V}/cron/c/history")).status == 409
    assert (await api.post(f"{V}/cron/c/trigger")).status == 201
    assert (await api.delete(f"{V}/cron/c")).status == 200
    assert not db.exists(key)


async def test_a_damaged_worker_is_shown_with_default_values(api: Api, db: Any) -> None:
    beat = {"worker_id": "w", "active_jobs": []}
    assert (await api.post(f"{V}/workers/heartbeat", beat)).status == 200
    key = api.app.store.keys.shard_of_worker("w").worker("w")
    paths = ["/workers", "/admin/workers", "/admin/workers/w", "/admin/stats", "/metrics"]
    for field in db.hkeys(key):
        for value in VALUES[1:]:
            db.hset(key, field, value)
            statuses = [(await api.get(V + path)).status for path in paths]
            assert statuses == [200] * len(paths), (field, value)
            assert (await api.post(f"{V}/workers/heartbeat", beat)).status == 200
            db.delete(key)
            assert (await api.post(f"{V}/workers/heartbeat", beat)).status == 200


async def test_names_that_are_no_text_and_numbers_that_are_none(api: Api, db: Any) -> None:
    job = {"type": "t", "args": [], "meta": {"tenant_id": "acme"}}
    assert (await api.post(f"{V}/jobs", job)).status == 201
    keys = api.app.store.keys
    db.zadd(keys.meta.queues, {b"\xff": 0})
    db.zadd(keys.shard(1).rate_limits, {b"\xff": 0})
    paths = ["/queues", "/admin/queues", "/admin/stats", "/metrics", "/rate-limits"]
    assert [(await api.get(V + path)).status for path in paths] == [200] * len(paths)
    counters = keys.shard_of_queue("default").tenant_counters("acme")
    for value in VALUES[1:]:
        db.hset(counters, "available", value)
        assert (await api.get(f"{V}/admin/tenants/acme/stats")).status == 200, value
