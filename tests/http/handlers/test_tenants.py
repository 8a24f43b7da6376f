"""The tenants and their limits, as operators and producers see them."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.errors import BackendUnavailable
from tests.http.api import Api

JOB: dict[str, Any] = {"type": "t", "args": [], "options": {"queue": "q"}}
TENANTS = "/ojs/v1/admin/tenants"


def named(tenant: str) -> dict[str, str]:
    return {"X-OJS-Tenant": tenant}


async def put(api: Api, path: str, body: Any) -> Any:
    return await api.call("PUT", f"{TENANTS}/{path}", body)


async def test_a_tenant_over_its_limit_gets_429_with_what_the_spec_names(any_api: Api) -> None:
    reply = await put(any_api, "acme/limits", {"max_queue_depth": 2, "reason": "incident"})
    assert (reply.status, reply.json["limits"]) == (200, {"max_queue_depth": 2})
    assert reply.json["tenant"]["reason"] == "incident"
    batch = {"jobs": [JOB, JOB, JOB]}
    for _ in range(2):
        assert (await any_api.post("/ojs/v1/jobs", JOB, headers=named("acme"))).status == 201
    for path, body in (("jobs", JOB), ("jobs/batch", batch), ("jobs/bulk", batch)):
        refused = await any_api.post(f"/ojs/v1/{path}", body, headers=named("acme"))
        if path == "jobs/bulk":  # each job on its own
            assert {item["error"]["code"] for item in refused.json["items"]} == {
                "TENANT_LIMIT_EXCEEDED"
            }
            continue
        assert (refused.status, refused.error["code"]) == (429, "TENANT_LIMIT_EXCEEDED")
        assert refused.error["details"].items() >= {
            ("tenant_id", "acme"),
            ("limit", "max_queue_depth"),
            ("current", 2),
            ("maximum", 2),
        }
        assert refused.error["retryable"] is True
        assert int(refused.headers["retry-after"]) >= 1
        assert "x-ojs-queue-depth" not in refused.headers
    assert (await any_api.post("/ojs/v1/jobs", JOB, headers=named("beta"))).status == 201
    assert (await any_api.post("/ojs/v1/jobs", JOB)).status == 201
    stats = (await any_api.get(f"{TENANTS}/acme/stats")).json
    assert stats["total_jobs"] == 2
    assert stats["limits"] == {"max_queue_depth": {"limit": 2, "current": 2}}


async def test_the_history_of_a_cron_job_names_the_limit_of_its_tenant(api: Api) -> None:
    await put(api, "acme/limits", {"max_queue_depth": 0})
    cron = {"name": "daily", "cron": "@daily", "type": "t"}
    assert (await api.post("/ojs/v1/cron", cron, headers=named("acme"))).status == 201
    refused = await api.post("/ojs/v1/cron/daily/trigger", {}, headers=named("acme"))
    assert refused.error["code"] == "TENANT_LIMIT_EXCEEDED"
    [occurrence] = (await api.get("/ojs/v1/cron/daily/history")).json["history"]
    assert occurrence["reason"] == "tenant_limit"


async def test_a_repeated_bulk_request_shows_the_jobs_that_are_stored(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_args: Any) -> None:
        raise BackendUnavailable("dead", outcome="not_applied")

    async def repeat(count: int, key: str) -> tuple[int, list[str]]:
        headers = {**named("acme"), "Idempotency-Key": key}
        reply = await api.post("/ojs/v1/jobs/bulk", {"jobs": count * [JOB]}, headers=headers)
        return reply.status, [item["status"] for item in reply.json.get("items", [])]

    await put(api, "acme/limits", {"max_queue_depth": 2})
    with monkeypatch.context() as patched:
        patched.setattr("ojs_cluster.store.engine.enqueue.idempotency.end", die)
        assert await repeat(2, "k1") == (503, [])
    assert await repeat(2, "k1") == (201, ["created", "created"])
    await put(api, "acme/limits", {"max_queue_depth": 3})
    assert await repeat(2, "k2") == (207, ["created", "failed"])
    await put(api, "acme/limits", {"max_queue_depth": 5})
    assert await repeat(2, "k2") == (201, ["created", "created"])
    assert (await api.get(f"{TENANTS}/acme/stats")).json["total_jobs"] == 4


async def test_limits_are_changed_one_by_one_or_all_at_once(api: Api) -> None:
    rate = {"limit": 5, "period": "PT1M"}
    await put(api, "a/limits", {"max_queue_depth": 3})
    await put(api, "a/limits", {"max_enqueue_rate": rate})
    got = await api.get(f"{TENANTS}/a")
    assert got.json["tenant"]["limits"] == {"max_queue_depth": 3, "max_enqueue_rate": rate}
    assert "reason" not in got.json
    removed = await put(api, "a/limits", {"max_queue_depth": None})
    assert removed.json["limits"] == {"max_enqueue_rate": rate}
    assert (await put(api, "a", {"tenant_id": "a", "limits": {"max_scheduled": 1}})).status == 200
    assert (await api.get(f"{TENANTS}/a")).json["limits"] == {"max_scheduled": 1}
    new = await put(api, "b", {})
    assert (new.status, new.json["limits"], new.json["created_at"]) == (
        *(201, {}),
        new.json["updated_at"],
    )


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("a/limits", {"max_queue_depth": -1}, 400, "max_queue_depth"),
        ("a/limits", {"max_scheduled": 10**10}, 400, "max_scheduled"),
        ("a/limits", {"max_enqueue_rate": {"limit": 0, "period": "PT1S"}}, 400, None),
        ("a/limits", {"max_enqueue_rate": {"limit": 1, "period": "P2D"}}, 400, None),
        ("a/limits", {"max_enqueue_rate": {"limit": 1, "period": "x"}}, 400, None),
        ("a/limits", {"max_concurrency": 5}, 422, "max_concurrency"),
        ("a/limits", {"depth": 5}, 400, "depth"),
        ("a/limits", {"reason": "x" * 201}, 400, "reason"),
        ("a/limits", {"fairness_weight": 0.009}, 400, "fairness_weight"),
        ("a", {"fairness_weight": 101}, 400, "fairness_weight"),
        ("a", {"fairness_weight": "3"}, 400, "fairness_weight"),
        ("a", {"limits": {"fairness_weight": 3}}, 400, "limits.fairness_weight"),
        ("a", {"priority_boost": 5}, 422, "priority_boost"),
        ("a", {"limits": {"max_concurrency": 5}}, 422, "limits.max_concurrency"),
        ("a", {"tenant_id": "b"}, 400, "tenant_id"),
        ("-a", {}, 400, "id"),
    ],
)
async def test_what_cannot_be_set_is_refused(
    api: Api, path: str, body: Any, status: int, field: str | None
) -> None:
    reply = await put(api, path, body)
    assert reply.status == status, reply.body
    assert field in (None, reply.error["details"]["field"])
    assert (await api.get(TENANTS)).json["total"] == 0


async def test_known_tenants_are_listed_page_by_page(any_api: Api) -> None:
    await put(any_api, "quiet", {})
    job = (await any_api.post("/ojs/v1/jobs", JOB, headers=named("busy"))).json["job"]["id"]
    listed = (await any_api.get(TENANTS)).json
    by_id = {tenant["tenant_id"]: tenant for tenant in listed["items"]}
    assert {name: tenant["total_jobs"] for name, tenant in by_id.items()} == {"quiet": 0, "busy": 1}
    assert by_id["busy"]["jobs"]["available"] == 1
    assert listed["pagination"]["total"] == listed["total"] == 2
    pages = [(await any_api.get(f"{TENANTS}?per_page=1&page={n}")).json["items"] for n in (1, 2)]
    assert sorted(page[0]["tenant_id"] for page in pages) == ["busy", "quiet"]
    refused = await any_api.delete(f"{TENANTS}/busy")
    assert (refused.status, refused.error["details"]["unfinished"]) == (409, 1)
    await any_api.post(f"/ojs/v1/jobs/{job}/cancel")
    for tenant in ("busy", "quiet"):
        assert (await any_api.delete(f"{TENANTS}/{tenant}")).status == 200
    assert (await any_api.get(TENANTS)).json["items"] == []
    assert (await any_api.delete(f"{TENANTS}/quiet")).status == 404
    assert (await any_api.get(f"{TENANTS}/quiet")).status == 404
    assert (await any_api.get(f"{TENANTS}/busy")).status == 200  # its cancelled job is stored
    await any_api.post("/ojs/v1/jobs", JOB, headers=named("busy"))
    assert (await any_api.get(TENANTS)).json["total"] == 1


async def test_a_request_for_a_tenant_sees_only_its_own_numbers(api: Api) -> None:
    await api.post("/ojs/v1/jobs", JOB, headers=named("acme"))
    for path in ("", "/stats", "/jobs"):
        assert (await api.get(f"{TENANTS}/acme{path}", headers=named("acme"))).status == 200
        assert (await api.get(f"{TENANTS}/acme{path}", headers=named("beta"))).status == 404
    assert (await api.get(TENANTS, headers=named("acme"))).status == 403
    refused = await api.call("PUT", f"{TENANTS}/acme/limits", {}, headers=named("acme"))
    assert refused.status == 403


async def test_a_fair_share_is_a_setting_of_the_queue(any_api: Api) -> None:
    config = "/ojs/v1/admin/queues/q/config"
    for tenant in ("acme", "acme", "acme", "beta"):
        await any_api.post("/ojs/v1/jobs", JOB, headers=named(tenant))
    assert "fair_share" not in (await any_api.get(config)).json
    changed = await any_api.call("PUT", config, {"fair_share": True})
    assert (changed.status, changed.json["config"]["fair_share"]) == (200, True)
    jobs = await any_api.fetch("q", worker_id="w", count=2)
    assert sorted(job["meta"]["tenant_id"] for job in jobs) == ["acme", "beta"]
    for off in (None, False):
        changed = await any_api.call("PUT", config, {"fair_share": off})
        assert "fair_share" not in changed.json["config"]
    assert (await any_api.call("PUT", config, {"fair_share": "yes"})).status == 400


async def test_the_weight_of_a_tenant_stays_until_it_is_replaced(api: Api) -> None:
    body = {"fairness_weight": 10, "limits": {"max_scheduled": 5}}
    assert (await put(api, "acme", body)).json["fairness_weight"] == 10
    assert (await put(api, "acme/limits", {"max_scheduled": 6})).json["fairness_weight"] == 10
    stats = (await api.get(f"{TENANTS}/acme/stats")).json
    assert stats["fairness"] == {"weight": 10}
    changed = (await put(api, "acme/limits", {"fairness_weight": 2.5})).json
    assert (changed["fairness_weight"], changed["limits"]) == (2.5, {"max_scheduled": 6})
    assert (await put(api, "acme/limits", {"fairness_weight": None})).json["fairness_weight"] == 1
    await put(api, "acme", {"fairness_weight": 3})
    assert (await put(api, "acme", {})).json["tenant"]["fairness_weight"] == 1


async def test_a_list_of_tenants_has_the_members_that_the_admin_ui_reads(any_api: Api) -> None:
    for queue in ("a", "a", "b"):
        job = {**JOB, "options": {"queue": queue}}
        assert (await any_api.post("/ojs/v1/jobs", job, headers=named("acme"))).status == 201
    await any_api.fetch("a", worker_id="w1")
    await put(any_api, "idle/limits", {"max_queue_depth": 9})
    found = {each["id"]: each for each in (await any_api.get(TENANTS)).json["items"]}
    assert {name: each["name"] for name, each in found.items()} == {"acme": "acme", "idle": "idle"}
    stats = found["acme"]["stats"]
    assert (stats["queues"], stats["workers"]) == (2, 1)
    assert (stats["jobs"]["active"], stats["jobs"]["available"]) == (1, 2)
    assert (found["idle"]["stats"]["queues"], found["idle"]["limits"]) == (
        0,
        {"max_queue_depth": 9},
    )
    assert (await any_api.get(f"{TENANTS}/acme")).json["stats"] == stats
    own = (await any_api.get(f"{TENANTS}/acme", headers=named("acme"))).json
    assert (own["id"], "stats" in own) == ("acme", False), "the workers are those of all tenants"
