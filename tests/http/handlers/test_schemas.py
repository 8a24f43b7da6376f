"""The registry of schemas over HTTP, and validation at enqueue (spec: ojs-schema-registry)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import fire_due
from ojs_cluster.store.ground.settings import StoreSettings
from tests.http.access.test_scopes import access_of, bearer
from tests.http.api import Api, open_app
from tests.support.servers import observer
from tests.support.timeshift import age_cron

DATA, ADMIN = "/ojs/v1/schemas", "/ojs/v1/admin/schemas"
PAIR = {"type": "array", "items": [{"type": "string"}, {"type": "integer"}], "minItems": 2}
ORDER = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "array",
    "prefixItems": [
        {
            "type": "object",
            "required": ["to"],
            "properties": {"to": {"type": "string", "format": "email"}, "n": {"type": "integer"}},
        }
    ],
}


async def registered(
    api: Api, job_type: str = "email.send", version: str = "1", schema: Any = None, **members: Any
) -> dict[str, Any]:
    body = {"schema": ORDER if schema is None else schema, **members}
    reply = await api.call("PUT", f"{ADMIN}/{job_type}/{version}", body)
    assert reply.status == 201, reply.body
    found: dict[str, Any] = reply.json
    return found


async def configured(api: Api, job_type: str = "email.send", **members: Any) -> dict[str, Any]:
    reply = await api.call("PUT", f"{ADMIN}/{job_type}", members)
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    return found


@pytest.fixture
async def strict(standalone: Embedded) -> AsyncIterator[Api]:
    """An API that refuses args that do not match."""
    async with open_app(standalone, store=StoreSettings(schema_mode="strict")) as app:
        yield Api(app)


async def test_three_views_show_the_same_schemas(any_api: Api) -> None:
    api = any_api
    made = await registered(api, version="1", schema=PAIR)
    assert (made["type"], made["version"], made["schema"]) == ("email.send", 1, PAIR)
    given = {"uri": "urn:x:1/2", "type": "email.send", "version": "2.0.0", "schema": ORDER}
    reply = await api.post(DATA, given)
    assert reply.status == 201, reply.body
    assert {**reply.json["schema"], **given} == reply.json["schema"]
    latest = (await api.get(f"{DATA}/email.send")).json["schema"]
    assert (latest["job_type"], latest["version"]) == ("email.send", "2.0.0")
    assert (await api.get(f"{DATA}/urn%3Ax%3A1%2F2")).json["schema"] == latest
    assert (await api.get(f"{DATA}/email.send/2")).json["schema"] == latest
    versions = (await api.get(f"{DATA}/email.send/versions")).json["versions"]
    assert [(each["version"], each["is_latest"]) for each in versions] == [
        ("2.0.0", True),
        ("1", False),
    ]
    assert (await api.get(f"{ADMIN}/email.send")).json["schema"] == ORDER
    assert (await api.get(f"{ADMIN}/email.send/1.0")).json["schema"] == PAIR
    shown = (await api.get(f"{ADMIN}/email.send/versions")).json["versions"]
    assert [each["version"] for each in shown] == ["2.0.0", 1]
    listed = (await api.get(f"{DATA}?limit=1&offset=1")).json
    assert [each["version"] for each in listed["schemas"]] == ["1"]
    assert listed["pagination"]["total"] == 2
    by_type = (await api.get(ADMIN)).json["schemas"]
    assert [(each["type"], each["version_count"]) for each in by_type] == [("email.send", 2)]
    assert (await api.delete(f"{DATA}/urn%3Ax%3A1%2F2")).status == 200
    assert (await api.get(f"{ADMIN}/email.send")).json["version"] == 1
    assert (await api.delete(f"{DATA}/email.send/1.0.0")).status == 200
    for path in (f"{ADMIN}/email.send", f"{DATA}/email.send", f"{ADMIN}/email.send/versions"):
        assert (await api.get(path)).status == 404
    assert (await api.delete(f"{ADMIN}/email.send/1")).status == 404


async def test_nothing_is_left_after_the_last_schema(api: Api, standalone: Embedded) -> None:
    await registered(api)
    await configured(api, mode="strict")
    await api.delete(f"{ADMIN}/email.send/1")
    with observer(standalone) as db:
        assert set(db.hgetall("ojs:{meta}:job_schemas")) == {b"#", b"="}
        assert db.hget("ojs:{meta}:job_schemas", "=") == b"0"
        assert not db.exists("ojs:{meta}:job_schema_documents")


@pytest.mark.parametrize(
    ("version", "members", "status", "where"),
    [
        ("1", {}, 400, "schema"),
        ("1", {"schema": None}, 400, "schema"),
        ("x", {"schema": {}}, 400, "version"),
        ("01", {"schema": {}}, 400, "version"),
        ("1", {"schema": {}, "uri": ""}, 400, "uri"),
        ("1", {"schema": []}, 422, "schema"),
        ("1", {"schema": {"type": "strin"}}, 422, "schema"),
        ("1", {"schema": {"$ref": "https://example.com/x.json"}}, 422, "schema"),
        ("1", {"schema": {"$ref": "file:///etc/passwd"}}, 422, "schema"),
        ("1", {"schema": {"pattern": "(?=a)b"}}, 422, "schema"),
    ],
)
async def test_an_invalid_registration_is_refused(
    api: Api, version: str, members: dict[str, Any], status: int, where: str
) -> None:
    reply = await api.call("PUT", f"{ADMIN}/email.send/{version}", members)
    assert reply.status == status, reply.body
    assert reply.json["error"]["details"]["field"] == where
    assert (await api.get(f"{ADMIN}/email.send")).status == 404


async def test_a_version_is_registered_once_however_it_is_spelled(api: Api) -> None:
    await registered(api, version="2")
    reply = await api.call("PUT", f"{ADMIN}/email.send/2.0.0", {"schema": PAIR})
    assert (reply.status, reply.json["error"]["code"]) == (409, "duplicate")
    body = {"type": "other", "version": 1, "uri": "urn:ojs:schema:email.send:2.0.0", "schema": {}}
    assert (await api.post(DATA, body)).status == 409


async def test_the_latest_version_follows_semantic_versioning(api: Api) -> None:
    for version in ("2.0.0-rc.2", "10", "2", "9.9.9"):
        await registered(api, version=version, schema=True)
    versions = (await api.get(f"{ADMIN}/email.send/versions")).json["versions"]
    assert [each["version"] for each in versions] == [10, "9.9.9", 2, "2.0.0-rc.2"]


async def test_a_strict_type_refuses_args_and_says_where(strict: Api) -> None:
    await registered(strict, version="2")
    body = {"type": "email.send", "args": [{"to": "nobody", "n": "3"}]}
    reply = await strict.post("/ojs/v1/jobs", body)
    assert reply.status == 422
    error = reply.json["error"]
    assert (error["code"], error["details"]["catalog"]) == (
        "validation_error",
        "SCHEMA_VALIDATION_FAILED",
    )
    assert {each["pointer"] for each in error["details"]["errors"]} == {"/args/0/to", "/args/0/n"}
    assert "email.send@2" in error["message"]
    assert all(isinstance(each, str) for each in error["details"]["validation_errors"])
    await strict.enqueue(type="email.send", args=[{"to": "a@b.example"}])


async def test_an_edit_of_the_args_is_compared_too(strict: Api) -> None:
    await registered(strict, version="2")
    job = await strict.enqueue(type="email.send", args=[{"to": "a@b.example"}])
    path = f"/ojs/v1/jobs/{job['id']}"
    refused = await strict.call("PATCH", path, {"args": [{"to": 7}]})
    assert refused.status == 422
    assert (await strict.get(path)).json["job"]["args"] == [{"to": "a@b.example"}]
    assert (await strict.call("PATCH", path, {"meta": {"a": 1}})).status == 200
    changed = await strict.call("PATCH", path, {"args": [{"to": "c@d.example"}]})
    assert (changed.status, changed.json["job"]["args"]) == (200, [{"to": "c@d.example"}])


async def test_a_job_is_compared_with_its_own_version(strict: Api) -> None:
    await registered(strict, version="1", schema=PAIR)
    await registered(strict, version="2.0", uri="urn:two")
    pair, order = ["a", 1], [{"to": "a@b.example"}]
    for members in ({"version": 1}, {"version": "1.0.0"}):
        await strict.enqueue(type="email.send", args=pair, **members)
    for members in ({}, {"version": 2}, {"schema": "urn:two"}):
        reply = await strict.post("/ojs/v1/jobs", {"type": "email.send", "args": pair, **members})
        assert reply.status == 422, members
        await strict.enqueue(type="email.send", args=order, **members)
    # No schema is registered for these versions.
    for version in (3, "v3"):
        await strict.enqueue(type="email.send", args=[], version=version)


async def test_by_default_args_that_do_not_match_are_accepted_with_warnings(any_api: Api) -> None:
    await registered(any_api)
    reply = await any_api.post("/ojs/v1/jobs", {"type": "email.send", "args": [{}]})
    assert reply.status == 201
    assert reply.json["job"]["state"] == "available"
    assert reply.json["warnings"] == [
        'Schema validation warning: /args/0: "to" is a required property'
    ]
    reply = await any_api.post("/ojs/v1/jobs", {"type": "email.send", "args": []})
    assert "warnings" not in reply.json


async def test_the_mode_of_a_type_overrides_the_default(strict: Api) -> None:
    await registered(strict)
    assert (await configured(strict, mode="warn"))["mode"] == "warn"
    body = {"type": "email.send", "args": [{}]}
    assert (await strict.post("/ojs/v1/jobs", body)).json["warnings"]
    await configured(strict, mode="off")
    assert "warnings" not in (await strict.post("/ojs/v1/jobs", body)).json
    assert (await configured(strict, mode=""))["mode"] == "strict"
    assert (await strict.post("/ojs/v1/jobs", body)).status == 422
    assert (await strict.call("PUT", f"{ADMIN}/email.send", {"mode": "x"})).status == 400
    assert (await strict.call("PUT", f"{ADMIN}/absent", {"mode": "off"})).status == 404


async def test_a_batch_with_refused_args_stores_nothing(strict: Api) -> None:
    await registered(strict)
    good, bad = ({"type": "email.send", "args": [each]} for each in ({"to": "a@b.example"}, {}))
    reply = await strict.post("/ojs/v1/jobs/batch", {"jobs": [good, bad]})
    assert (reply.status, reply.json["error"]["details"]["index"]) == (422, 1)
    assert (await strict.get("/ojs/v1/jobs")).json["jobs"] == []
    reply = await strict.post("/ojs/v1/jobs/bulk", {"jobs": [good, bad]})
    assert [each["status"] for each in reply.json["items"]] == ["created", "failed"]
    assert reply.json["items"][1]["error"]["details"]["pointer"] == "/args/0"
    await configured(strict, mode="warn")
    reply = await strict.post("/ojs/v1/jobs/batch", {"jobs": [good, bad]})
    assert reply.status == 201
    assert [each.split(":")[0] for each in reply.json["warnings"]] == ["jobs[1]"]


async def test_a_workflow_with_refused_args_is_not_created(strict: Api) -> None:
    await registered(strict)
    steps = [{"type": "test.echo", "args": []}, {"type": "email.send", "args": [{}]}]
    reply = await strict.post("/ojs/v1/workflows", {"type": "chain", "steps": steps})
    assert (reply.status, reply.json["error"]["details"]["pointer"]) == (422, "/args/0")
    assert (await strict.get("/ojs/v1/jobs")).json["jobs"] == []
    await configured(strict, mode="warn")
    reply = await strict.post("/ojs/v1/workflows", {"type": "chain", "steps": steps})
    assert reply.status == 201
    assert [each.split(":")[0] for each in reply.json["warnings"]] == ["steps[1]"]


async def test_an_occurrence_with_refused_args_is_recorded_as_failed(
    strict: Api, standalone: Embedded
) -> None:
    job = {"type": "email.send", "args": [{}]}
    body = {"name": "nightly", "schedule": "* * * * *", "job_template": job, **job}
    assert (await strict.post("/ojs/v1/cron", body)).status == 201
    await registered(strict)
    assert (await strict.post("/ojs/v1/cron", {**body, "name": "other"})).status == 422
    assert (await strict.post("/ojs/v1/cron/nightly/trigger")).status == 422
    with observer(standalone) as db:
        age_cron(db, strict.app.store.keys.meta, "nightly", 60_001)
    await fire_due(RedisCronStore(strict.app.store), 10)
    assert (await strict.get("/ojs/v1/jobs")).json["jobs"] == []
    past = (await strict.get("/ojs/v1/cron/nightly/history")).json["history"][0]
    assert past["outcome"] == "failed"
    assert past["error"] == "the args do not match their schema at /args/0"


async def test_a_minor_version_may_not_break_the_one_before(api: Api) -> None:
    await registered(api, version="1.0.0")
    narrower = json.loads(json.dumps(ORDER))
    narrower["prefixItems"][0]["required"].append("n")
    reply = await api.call("PUT", f"{ADMIN}/email.send/1.1.0", {"schema": narrower})
    assert reply.status == 422
    details = reply.json["error"]["details"]
    assert details["breaking_changes"] == ["at '/prefixItems/0': required member 'n' was added"]
    assert "(2.0.0)" in reply.json["error"]["message"]
    await registered(api, version="2.0.0", schema=narrower)
    # 1.1.0 would come between 1.0.0, which it breaks, and 2.0.0, which may break it.
    await configured(api, compatibility="none")
    await registered(api, version="1.1.0", schema=narrower)


async def test_only_operators_of_all_queues_register_schemas(standalone: Embedded) -> None:
    async with open_app(standalone, access=access_of()) as app:
        api = Api(app)
        keys = {"key-viewer": 403, "key-producer": 403, "mail": 403, "key-operator": 201}
        for key, status in keys.items():
            reply = await api.post(DATA, {"type": "a", "schema": {}}, headers=bearer(key))
            assert reply.status == status, key
        assert (await api.get(DATA)).status == 401
        for key in keys:
            assert (await api.get(f"{DATA}/a", headers=bearer(key))).status == 200, key
        assert (await api.get(f"{ADMIN}/a", headers=bearer("key-producer"))).status == 403
        for path in (f"{DATA}/a/1", f"{ADMIN}/a/1"):
            assert (await api.delete(path, headers=bearer("mail"))).status == 403
