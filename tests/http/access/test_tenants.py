"""Tenants: the header and the API keys that name them, and the isolation of every route."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import trio

from ojs_cluster.core.access.scopes import Keyring, Principal, digest
from ojs_cluster.core.jobs.tenant import MAX_TENANT_LENGTH
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.routing.router import _TENANT_ACCESS, Route, TenantAccess
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, Reply, open_app, until
from tests.http.every_route import body_of

SECRET: Final = "only-for-acme"
"""In the args of each job of the tenant acme: no other tenant may read it."""
DEFINITION: Final[dict[str, Any]] = {"type": "t", "args": [SECRET], "options": {"queue": "q"}}
KEYS: Final = {
    "key-of-acme": Principal("acme", tenant="acme"),
    "key-of-beta": Principal("beta", tenant="beta"),
    "key-of-all": Principal("all"),
}


def named(tenant: str) -> dict[str, str]:
    return {"X-OJS-Tenant": tenant}


def bearer(secret: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}", **more}


@pytest.fixture
async def keyed(standalone: Embedded) -> AsyncIterator[Api]:
    keyring = Keyring({digest(secret): KEYS[secret] for secret in KEYS}, {})
    async with open_app(standalone, access=AccessControl(keyring)) as app:
        yield Api(app)


async def made_for(api: Api, tenant: str, **options: Any) -> str:
    """Enqueue a job of a tenant; returns its id."""
    body = {**DEFINITION, "options": {"queue": "q", **options}}
    reply = await api.post("/ojs/v1/jobs", body, headers=named(tenant))
    assert reply.status == 201, reply.body
    return str(reply.json["job"]["id"])


async def fetched(api: Api, tenant: str | None = None, **more: Any) -> list[Any]:
    body = {"queues": ["q"], "worker_id": "w", "count": 10, **more}
    headers = {} if tenant is None else named(tenant)
    reply = await api.post("/ojs/v1/workers/fetch", body, headers=headers)
    assert reply.status == 200, reply.body
    return [job["meta"].get("tenant_id") for job in reply.json["jobs"]]


async def test_the_header_becomes_part_of_the_meta(any_api: Api) -> None:
    body = {**DEFINITION, "meta": {"a": [1]}}
    one = await any_api.post("/ojs/v1/jobs", body, headers=named("acme"))
    assert one.json["job"]["meta"] == {"a": [1], "tenant_id": "acme"}
    stored = await any_api.get(f"/ojs/v1/jobs/{one.json['job']['id']}")
    assert stored.json["job"]["meta"] == {"a": [1], "tenant_id": "acme"}
    many = {"jobs": [DEFINITION, {**DEFINITION, "meta": {"tenant_id": "acme"}}]}
    batch = await any_api.post("/ojs/v1/jobs/batch", many, headers=named("acme"))
    assert [job["meta"] for job in batch.json["jobs"]] == 2 * [{"tenant_id": "acme"}]
    bulk = await any_api.post("/ojs/v1/jobs/bulk", many, headers=named("acme"))
    ids = [item["job"]["id"] for item in bulk.json["items"]]
    for job_id in ids:
        job = await any_api.get(f"/ojs/v1/jobs/{job_id}", headers=named("acme"))
        assert job.json["job"]["meta"] == {"tenant_id": "acme"}
    plain = await any_api.post("/ojs/v1/jobs", DEFINITION)
    assert (plain.status, plain.json["job"]["meta"]) == (201, {})


@pytest.mark.parametrize(
    ("tenant", "status"),
    [
        *(("a", 201), ("A.b_c:d-9", 201), ("x" * MAX_TENANT_LENGTH, 201)),
        *(("x" * (MAX_TENANT_LENGTH + 1), 400), ("", 400), ("-a", 400), ("a b", 400)),
        *(("a/b", 400), ("é", 400), ("a, b", 400)),
    ],
)
async def test_a_tenant_has_the_form_of_the_spec(api: Api, tenant: str, status: int) -> None:
    by_header = await api.post("/ojs/v1/jobs", DEFINITION, headers=named(tenant))
    by_body = await api.post("/ojs/v1/jobs", {**DEFINITION, "meta": {"tenant_id": tenant}})
    assert by_header.status == status
    if status == 400:
        assert by_header.error["details"]["field"] == "headers.x-ojs-tenant"
    # Without the header, the meta is free: another value names no tenant.
    assert (by_body.status, by_body.json["job"]["meta"]) == (201, {"tenant_id": tenant})
    assert await fetched(api, "acme") == []


async def test_a_header_and_a_body_that_disagree_are_400_and_store_nothing(api: Api) -> None:
    other = {**DEFINITION, "meta": {"tenant_id": "beta"}}
    escaped = json.dumps(other).replace("tenant_id", "\\u0074enant_id").encode()
    metadata = {**DEFINITION, "options": {"queue": "q", "metadata": {"tenant_id": "beta"}}}
    wrong: list[tuple[str, Any]] = [
        *(("/ojs/v1/jobs", other), ("/ojs/v1/jobs", escaped), ("/ojs/v1/jobs", metadata)),
        ("/ojs/v1/jobs", {**DEFINITION, "meta": {"tenant_id": 5}}),
        ("/ojs/v1/jobs/batch", {"jobs": [DEFINITION, other]}),
        ("/ojs/v1/workflows", {"type": "group", "jobs": [DEFINITION, other]}),
        ("/ojs/v1/cron", {"name": "c", "cron": "0 3 * * *", "job_template": other}),
    ]
    for path, body in wrong:
        reply = await api.post(path, body, headers=named("acme"))
        assert reply.status == 400, (path, body)
        assert reply.error["details"]["field"].endswith("meta.tenant_id"), reply.error
    assert await fetched(api) == []


async def test_a_bound_key_needs_no_header_and_may_name_no_other_tenant(keyed: Api) -> None:
    job = await keyed.post("/ojs/v1/jobs", DEFINITION, headers=bearer("key-of-acme"))
    assert job.json["job"]["meta"] == {"tenant_id": "acme"}
    same = bearer("key-of-acme", **named("acme"))
    assert (await keyed.post("/ojs/v1/jobs", DEFINITION, headers=same)).status == 201
    other = bearer("key-of-acme", **named("beta"))
    refused = await keyed.post("/ojs/v1/jobs", DEFINITION, headers=other)
    assert (refused.status, refused.error["code"]) == (403, "permission_denied")
    path = f"/ojs/v1/jobs/{job.json['job']['id']}"
    found = {secret: (await keyed.get(path, headers=bearer(secret))).status for secret in KEYS}
    assert found == {"key-of-acme": 200, "key-of-beta": 404, "key-of-all": 200}
    named_by_all = bearer("key-of-all", **named("beta"))
    assert (await keyed.get(path, headers=named_by_all)).status == 404


async def test_a_fetch_of_a_tenant_gets_its_jobs_in_the_order_of_the_queue(any_api: Api) -> None:
    for _ in range(30):
        await made_for(any_api, "beta")
    low = await made_for(any_api, "acme", priority=-5)
    first = await made_for(any_api, "acme")
    second = await made_for(any_api, "acme")
    urgent = await made_for(any_api, "acme", priority=9)
    await any_api.post("/ojs/v1/jobs", DEFINITION)
    body = {"queues": ["q"], "worker_id": "w", "count": 10}
    reply = await any_api.post("/ojs/v1/workers/fetch", body, headers=named("acme"))
    assert [job["id"] for job in reply.json["jobs"]] == [urgent, first, second, low]
    assert await fetched(any_api, "acme") == []
    assert await fetched(any_api, count=50) == [
        *(30 * ["beta"]),
        None,
    ]


async def test_a_fetch_may_name_its_tenant_in_the_body(api: Api) -> None:
    await made_for(api, "beta")
    await made_for(api, "acme")
    body = {"queues": ["q"], "worker_id": "w", "count": 5, "tenant": "acme"}
    reply = await api.post("/ojs/v1/workers/fetch", body)
    assert [job["meta"] for job in reply.json["jobs"]] == [{"tenant_id": "acme"}]
    refused = await api.post("/ojs/v1/workers/fetch", body, headers=named("beta"))
    assert refused.status == 400


async def test_a_waiting_fetch_gets_the_job_of_its_tenant(any_api: Api) -> None:
    got: dict[str, list[Any]] = {}

    async def wait(tenant: str) -> None:
        got[tenant] = await fetched(any_api, tenant, wait_ms=20_000)

    async def both_wait() -> bool:
        return len(any_api.app.waiters._waiting.get("q", {})) == 2

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "acme")
            nursery.start_soon(wait, "beta")
            await until(both_wait)
            await made_for(any_api, "beta")
            await made_for(any_api, "beta")
            await made_for(any_api, "acme")
    assert set(got["acme"]) == {"acme"}
    assert set(got["beta"]) == {"beta"}


async def test_retries_and_promotions_keep_the_tenant(any_api: Api) -> None:
    retry = {"max_attempts": 3, "initial_interval_ms": 1, "jitter": False}
    job_id = await made_for(any_api, "acme", retry=retry)
    assert await fetched(any_api, "acme") == ["acme"]
    error = {"code": "c", "message": "m"}
    nack = {"job_id": job_id, "worker_id": "w", "error": error}
    assert (await any_api.post("/ojs/v1/workers/nack", nack)).status == 200
    assert await fetched(any_api, "beta", wait_ms=50) == []
    assert await fetched(any_api, "acme", wait_ms=20_000) == ["acme"]
    nack["requeue"] = True  # type: ignore[assignment]
    assert (await any_api.post("/ojs/v1/workers/nack", nack)).status == 200
    assert await fetched(any_api, "acme") == ["acme"]
    await made_for(any_api, "acme", delay_until="+PT0.05S")
    assert await fetched(any_api, "acme", wait_ms=20_000) == ["acme"]


async def test_the_jobs_of_a_workflow_have_its_tenant(any_api: Api) -> None:
    flow = {"type": "chain", "steps": [DEFINITION, {**DEFINITION, "meta": {"b": 1}}]}
    made = await any_api.post("/ojs/v1/workflows", flow, headers=named("acme"))
    assert made.status == 201
    for step in range(2):
        body = {"queues": ["q"], "worker_id": "w", "wait_ms": 20_000}
        reply = await any_api.post("/ojs/v1/workers/fetch", body, headers=named("acme"))
        job = reply.json["job"]
        assert job["meta"] == {**({"b": 1} if step else {}), "tenant_id": "acme"}
        await any_api.post("/ojs/v1/workers/ack", {"job_id": job["id"]}, headers=named("acme"))
    mixed = {"type": "chain", "steps": [DEFINITION, {**DEFINITION, "meta": {"tenant_id": "b"}}]}
    assert (await any_api.post("/ojs/v1/workflows", mixed)).status == 400


async def test_a_cron_job_has_the_tenant_of_its_request(any_api: Api) -> None:
    schedule = {"name": "nightly", "cron": "0 3 * * *", "job_template": DEFINITION}
    made = await any_api.post("/ojs/v1/cron", schedule, headers=named("acme"))
    assert made.json["cron"]["meta"] == {"tenant_id": "acme"}
    fired = await any_api.post("/ojs/v1/cron/nightly/trigger", headers=named("acme"))
    assert fired.json["job"]["meta"]["tenant_id"] == "acme"
    assert (await any_api.post("/ojs/v1/cron", schedule, headers=named("beta"))).status == 403
    for tenant, names in (("acme", ["nightly"]), ("beta", [])):
        listed = await any_api.get("/ojs/v1/cron", headers=named(tenant))
        assert [cron["name"] for cron in listed.json["crons"]] == names
    changed = await any_api.call(
        "PATCH", "/ojs/v1/cron/nightly", {"cron": "0 4 * * *"}, headers=named("acme")
    )
    assert changed.json["cron"]["meta"] == {"tenant_id": "acme"}


async def test_an_edit_keeps_the_tenant(api: Api) -> None:
    job_id, plain = await made_for(api, "acme"), await api.post("/ojs/v1/jobs", DEFINITION)
    path, headers = f"/ojs/v1/jobs/{job_id}", named("acme")
    changed = await api.call("PATCH", path, {"meta": {"a": 1}, "priority": 7}, headers=headers)
    assert changed.json["job"]["meta"] == {"a": 1, "tenant_id": "acme"}
    for target in (path, f"/ojs/v1/jobs/{plain.json['job']['id']}"):
        reply = await api.call("PATCH", target, {"meta": {"tenant_id": "beta"}})
        assert reply.status == 400
    assert await fetched(api, "acme") == ["acme"]


async def test_equal_jobs_of_two_tenants_are_no_duplicates(api: Api) -> None:
    first = await made_for(api, "acme", unique={"keys": ["type", "args"]})
    second = await made_for(api, "beta", unique={"keys": ["type", "args"]})
    assert first != second
    body = {**DEFINITION, "options": {"queue": "q", "unique": {"keys": ["type", "args"]}}}
    again = await api.post("/ojs/v1/jobs", body, headers=named("acme"))
    assert again.status == 409


async def test_lists_and_counts_show_the_jobs_of_the_tenant(any_api: Api) -> None:
    ids = {tenant: [await made_for(any_api, tenant) for _ in range(3)] for tenant in ("a", "b")}
    await any_api.post("/ojs/v1/jobs", DEFINITION)
    for target in ("/ojs/v1/jobs", "/ojs/v1/jobs?queue=q", "/ojs/v1/jobs?query=type:t"):
        listed = await any_api.get(target, headers=named("a"))
        assert sorted(job["id"] for job in listed.json["jobs"]) == sorted(ids["a"]), target
    assert await fetched(any_api, "b", count=1) == ["b"]
    for tenant, available, active in (("a", 3, 0), ("b", 2, 1), ("c", 0, 0)):
        queue = await any_api.get("/ojs/v1/queues/q", headers=named(tenant))
        assert queue.json["queue"]["name"] == "q"
        shown = queue.json["queue"]
        assert (shown["available"], shown["active"]) == (available, active), tenant
        stats = await any_api.get("/ojs/v1/queues/q/stats", headers=named(tenant))
        assert stats.json["stats"]["available"] == available
    whole = await any_api.get("/ojs/v1/queues/q")
    assert whole.json["queue"]["available"] == 6


async def test_events_show_those_of_the_tenant(any_api: Api) -> None:
    ours, theirs = await made_for(any_api, "acme"), await made_for(any_api, "beta")
    await any_api.post("/ojs/v1/queues/q/pause")
    await any_api.post("/ojs/v1/queues/q/resume")
    assert sorted(await fetched(any_api)) == ["acme", "beta"]
    for job_id in (ours, theirs):
        await any_api.post("/ojs/v1/workers/ack", {"job_id": job_id})
    listed = await any_api.get("/ojs/v1/events", headers=named("acme"))
    assert [event["type"] for event in listed.json["events"]] == [
        *("job.enqueued", "job.started", "job.completed"),
    ]
    assert theirs.encode() not in listed.body


def test_every_route_declares_how_it_treats_tenants() -> None:
    undecided = [
        route
        for route in ROUTES
        if not (route.open or route.access.tenants or route.queue_access in _TENANT_ACCESS)
    ]
    assert undecided == []


async def things_of_acme(api: Api) -> dict[str, str]:
    """Make one thing of each kind for the tenant acme; returns the ids of jobs and workflow."""
    headers = named("acme")
    job = await made_for(api, "acme")
    active = await made_for(api, "acme")
    dead = await made_for(
        api, "acme", queue="dead", retry={"max_attempts": 1, "on_exhaustion": "dead_letter"}
    )
    body = {"queues": ["dead"], "worker_id": "w1"}
    await api.post("/ojs/v1/workers/fetch", body, headers=headers)
    error = {"code": "c", "message": SECRET}
    failed = await api.post("/ojs/v1/workers/nack", {"job_id": dead, "error": error})
    assert failed.json["state"] == "discarded"
    flow = await api.post(
        "/ojs/v1/workflows", {"type": "chain", "steps": [DEFINITION]}, headers=headers
    )
    schedule = {"name": "nightly", "cron": "0 3 * * *", "job_template": DEFINITION}
    made = await api.post("/ojs/v1/cron", schedule, headers=headers)
    assert (flow.status, made.status) == (201, 201), made.body
    return {"job": job, "active": active, "dead": dead, "flow": flow.json["workflow"]["id"]}


def target_of(route: Route, ids: dict[str, str]) -> str:
    template = route.template
    if "workflows" in template:
        path = template.replace("{id}", ids["flow"])
    elif "dead-letter" in template:
        path = template.replace("{id}", ids["dead"])
    elif "cron" in template:
        path = template.replace("{name}", "nightly")
    else:
        path = template.replace("{id}", ids["job"]).replace("{name}", "q")
    return re.sub(r"\{\w+\}", "x", path)


async def state_of_acme(api: Api, ids: dict[str, str]) -> list[tuple[int, Any]]:
    found = []
    for target in (
        *(f"/ojs/v1/jobs/{ids[name]}" for name in ("job", "active", "dead")),
        *(f"/ojs/v1/jobs/{ids['job']}/progress", f"/ojs/v1/dead-letter/{ids['dead']}"),
        *(f"/ojs/v1/workflows/{ids['flow']}", "/ojs/v1/cron/nightly"),
    ):
        reply = await api.get(target, headers=named("acme"))
        found.append((reply.status, reply.json))
    return found


def leaks(reply: Reply, ids: dict[str, str], named_ids: str) -> bool:
    """Whether a response tells something about the jobs of acme that the request has not named."""
    text = reply.body.decode()
    return SECRET in text or any(each in text for each in ids.values() if each not in named_ids)


@pytest.mark.parametrize("key", [None, "key-of-beta"], ids=["by header", "by key"])
async def test_no_route_shows_or_changes_what_another_tenant_has(
    standalone: Embedded, key: str | None
) -> None:
    """The whole route table, asked by beta about the jobs of acme."""
    keyring = Keyring({digest(secret): KEYS[secret] for secret in KEYS}, {})
    async with open_app(standalone, access=AccessControl(keyring)) as app:
        api = _AsAll(app)
        ids = await things_of_acme(api)
        before = await state_of_acme(api, ids)
        asker = bearer("key-of-all", **named("beta")) if key is None else bearer(key)
        for route in ROUTES:
            if route.open or route.test_hook or route.template.endswith("/ws"):
                continue
            target = target_of(route, ids)
            takes_body = route.method != "GET"
            body = body_of(route, ids["job"]) if takes_body else None
            if isinstance(body, dict) and body.get("filter") == {}:
                body["filter"] = {"queue": "q"}
            with trio.fail_after(60):
                reply = await Api.call(api, route.method, target, body, headers=asker)
            if reply.response.stream is not None:
                reply.response.stream.close()
            where = f"{route.method} {target}: {reply.status} {reply.body[:300]!r}"
            assert reply.status < 500, where
            if route.access_of_tenants is TenantAccess.REFUSED:
                assert reply.status == 403, where
            elif route.access_of_tenants is TenantAccess.PATH:
                assert reply.status == 404, where
            assert not leaks(reply, ids, f"{target} {body}"), where
            assert await state_of_acme(api, ids) == before, where


class _AsAll(Api):
    """Calls the API with the key that may access all tenants."""

    async def call(self, method: str, target: str, body: Any = None, **more: Any) -> Reply:  # type: ignore[override]
        headers = {**bearer("key-of-all"), **(more.pop("headers", None) or {})}
        return await super().call(method, target, body, headers=headers, **more)
