"""PUT and GET /ojs/v1/admin/queues/{name}/config."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.http.api import SHARDS, Api

DISCARD = {"on_exhaustion": "discard"}
CONFIG = "/ojs/v1/admin/queues/{}/config"


async def test_the_number_of_partitions_is_set_and_shown_before_a_queue_exists(
    any_api: Api,
) -> None:
    before = await any_api.get(CONFIG.format("hot"))
    assert (before.status, before.json["config"]) == (200, {"partitions": 1, **DISCARD})
    for count in (4, SHARDS, 2):
        put = await any_api.call("PUT", CONFIG.format("hot"), {"partitions": count})
        assert (put.status, put.json["config"]) == (200, {"partitions": count, **DISCARD})
        assert put.json == (await any_api.get(CONFIG.format("hot"))).json
    assert put.json == {
        "queue": "hot",
        "config": {"partitions": 2, **DISCARD},
        "partitions": 2,
        **DISCARD,
        "draining": SHARDS - 2,
    }
    assert (await any_api.get("/ojs/v1/queues/hot")).status == 404
    assert (await any_api.get(CONFIG.format("other"))).json["partitions"] == 1


async def test_jobs_go_through_a_queue_of_many_partitions(any_api: Api) -> None:
    await any_api.call("PUT", CONFIG.format("default"), {"partitions": SHARDS})
    made = {(await any_api.enqueue())["id"] for _ in range(10)}
    stats = (await any_api.get("/ojs/v1/queues/default/stats")).json
    assert stats["stats"]["available"] == 10
    got = await any_api.fetch(count=10, worker_id="w1")

    assert {job["id"] for job in got} == made
    assert await any_api.fetch() == []


async def test_limits_of_partitioned_queues_work_or_are_refused_with_a_reason(any_api: Api) -> None:
    config, limits = CONFIG.format("hot"), "/ojs/v1/admin/queues/hot/rate-limit"
    await any_api.call("PUT", config, {"partitions": 4})
    refused = await any_api.call("PUT", limits, {"concurrency": 2})
    assert (refused.status, refused.json["error"]["details"]["field"]) == (422, "concurrency")
    assert (
        "concurrency 2 cannot be divided among the 4 partitions" in refused.json["error"]["message"]
    )

    put = await any_api.call("PUT", limits, {"concurrency": 8})
    assert (put.status, put.json["concurrency"]["limit"]) == (200, 8)
    assert put.json == (await any_api.get(limits)).json
    refused = await any_api.call("PUT", config, {"partitions": 2})
    assert (refused.status, refused.json["error"]["details"]["field"]) == (422, "partitions")
    assert (await any_api.get(config)).json["partitions"] == 4
    assert (await any_api.delete(limits)).status == 200
    assert (await any_api.call("PUT", config, {"partitions": 2})).status == 200


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "partitions"),
        ({"partitions": None}, 400, "partitions"),
        ({"partitions": 0}, 400, "partitions"),
        ({"partitions": SHARDS + 1}, 400, "partitions"),
        ({"partitions": 1.5}, 400, "partitions"),
        ({"partitions": True}, 400, "partitions"),
        ({"partitions": "4"}, 400, "partitions"),
        ({"partition": 4}, 400, "partition"),
        ({"partitions": 4, "colour": "red"}, 400, "colour"),
        ({"partitions": 4, "producers": ["a"]}, 422, "producers"),
        ({"retention": {"completed": "1 day"}}, 400, "retention.completed"),
        ({"retention": {"completed": "PT0.1S"}}, 400, "retention.completed"),
        ({"retention": {"dead": "P1D"}}, 400, "retention"),
        ({"retention": {}}, 400, "retention"),
        ({"rate_limit": {"limit": 0, "period": "1m"}}, 422, "rate_limit.limit"),
        ({"rate_limit": {"limit": 9, "period": "soon"}}, 422, "rate_limit.period"),
        ({"rate_limit": {"limit": 9, "period": "PT1M", "burst": 3}}, 400, "rate_limit"),
        ({"rate_limit": 9}, 400, "rate_limit"),
        ({"default_retry": {"max_attempts": -1}}, 422, "default_retry.max_attempts"),
        ({"default_retry": {"non_retryable_errors": ["x" * 250] * 9}}, 400, "default_retry"),
        ({"concurrency": 0}, 400, "concurrency"),
        ({"concurrency": 10**9 + 1}, 400, "concurrency"),
        ({"concurrency": 10**20}, 400, "concurrency"),
        ({"default_timeout": 0}, 400, "default_timeout"),
        ({"visibility_timeout": 10**12}, 400, "visibility_timeout"),
        (b"[]", 400, "body"),
        (b"", 400, "body"),
    ],
)
async def test_an_unsupported_member_is_named_and_nothing_is_changed(
    api: Api, body: Any, status: int, field: str
) -> None:
    reply = await api.call("PUT", CONFIG.format("hot"), body)

    assert (reply.status, reply.error["details"]["field"]) == (status, field)
    assert (await api.get(CONFIG.format("hot"))).json["partitions"] == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"partitions": 8, "concurrency": 7}, "concurrency"),
        ({"partitions": 8, "rate_limit": {"limit": 7, "period": "PT1M"}}, "rate"),
        ({"partitions": 2, "concurrency": 8}, None),  # the old partitions are still open
        ({"max_size": 5, "partitions": 2, "concurrency": 1}, None),
    ],
)
async def test_settings_that_do_not_fit_together_change_nothing(
    any_api: Api, changes: dict[str, Any], field: str | None
) -> None:
    config = CONFIG.format("hot")
    await any_api.call("PUT", config, {"partitions": 4})
    before = (await any_api.get(config)).json
    refused = await any_api.call("PUT", config, changes)
    assert (refused.status, refused.error["details"].get("field")) == (422, field)
    assert (await any_api.get(config)).json == before


@pytest.mark.parametrize("maximum", ["queue_defaults.MAX_QUEUES", "partitions.MAX_ENTRIES"])
async def test_a_full_table_refuses_all_settings(
    api: Api, maximum: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.call("PUT", CONFIG.format("other"), {"partitions": 2, "default_timeout": 9})
    before = (await api.get(CONFIG.format("hot"))).json
    monkeypatch.setattr(f"ojs_cluster.store.ground.process_state.{maximum}", 1)
    changes = {"partitions": 4, "default_timeout": 9, "max_size": 5}
    for path in (CONFIG.format("hot"), "/ojs/v1/queues/hot"):
        refused = await api.call("PUT", path, changes)
        assert (refused.status, refused.error["code"]) == (400, "invalid_request")
        assert (await api.get(CONFIG.format("hot"))).json == before
        assert (await api.get("/ojs/v1/queues/hot")).status == 404
    kept = await api.call("PUT", CONFIG.format("other"), {"partitions": 4, "default_timeout": 8})
    assert (kept.status, kept.json["default_timeout"]) == (200, 8)


async def test_a_full_registry_refuses_all_settings(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.enqueue(options={"queue": "other"})
    store = api.app.store
    full = replace(store, settings=replace(store.settings, max_queues=1))
    changes = {"partitions": 4, "max_size": 5}
    refused = await Api(replace(api.app, store=full)).call("PUT", CONFIG.format("hot"), changes)
    assert (refused.status, refused.error["code"]) == (422, "too_many_queues")
    assert (await api.get(CONFIG.format("hot"))).json["partitions"] == 1


async def test_the_configuration_that_the_admin_ui_saves_holds(any_api: Api) -> None:
    config = CONFIG.format("mail")
    retention = {"completed": "24h", "discarded": "7d"}
    saved = {"concurrency": 9, "rate_limit": {"limit": 1, "period": "1h"}, "retention": retention}
    put = await any_api.call("PUT", config, saved)
    assert put.status == 200, put.body
    rate = {"limit": 1, "period": "PT1H"}
    assert put.json["config"].items() >= {"concurrency": 9, "rate_limit": rate}.items()
    for _ in range(2):
        await any_api.enqueue(options={"queue": "mail"})
    assert [len(await any_api.fetch("mail")) for _ in range(2)] == [1, 0]
    shown = (await any_api.get("/ojs/v1/admin/queues/mail")).json["configuration"]
    assert (shown["rate_limit"], shown["concurrency"]) == (rate, 9)
    assert shown["retention"] == {"completed": "PT24H", "discarded": "PT168H"}
    await any_api.call("PUT", config, {"rate_limit": None})
    assert "rate_limit" not in (await any_api.get(config)).json["config"]
    assert (await any_api.get(config)).json["config"]["concurrency"] == 9
    assert len(await any_api.fetch("mail")) == 1


async def test_a_rate_limit_that_partitions_cannot_share_is_refused(any_api: Api) -> None:
    config = {"partitions": 4, "rate_limit": {"limit": 3, "period": "PT1M"}}
    refused = await any_api.post("/ojs/v1/queues", {"name": "hot", "config": config})
    assert (refused.status, refused.error["details"]["field"]) == (422, "rate")
    assert (await any_api.get("/ojs/v1/queues/hot")).status == 404


async def test_a_name_that_no_queue_can_have_is_refused(api: Api) -> None:
    for method in ("GET", "PUT"):
        reply = await api.call(method, CONFIG.format("No_Queue"), {"partitions": 2})
        assert (reply.status, reply.error["details"]["field"]) == (400, "name")


async def test_new_jobs_have_the_defaults_of_their_queue_for_what_they_lack(api: Api) -> None:
    config = CONFIG.format("mail")
    settings = {
        "default_retry": {"max_attempts": 7, "initial_interval": "PT5S"},
        "default_timeout": 60,
        "visibility_timeout": 120,
        "retention": {"completed": "P1D", "cancelled": "PT60S"},
    }
    old = await api.enqueue(options={"queue": "mail"})
    put = await api.call("PUT", config, settings)
    shown = (await api.get(config)).json["config"]
    assert put.json["config"] == shown
    assert shown["default_retry"]["max_attempts"] == 7
    assert shown["retention"] == {"completed": "P1D", "cancelled": "PT60S"}
    new = await api.enqueue(options={"queue": "mail"})
    assert (new["max_attempts"], new["retry"]["initial_interval"]) == (7, "PT5S")
    assert (new["timeout_ms"], new["visibility_timeout_ms"]) == (60_000, 120_000)
    own = {"retry": {"max_attempts": 2}, "timeout_ms": 0, "visibility_timeout_ms": 9000}
    explicit = await api.enqueue(options={"queue": "mail", **own})
    assert (explicit["max_attempts"], explicit["timeout_ms"]) == (2, 0)
    assert explicit["visibility_timeout_ms"] == 9000
    assert "timeout_ms" not in (await api.get(f"/ojs/v1/jobs/{old['id']}")).json["job"]

    without = await api.call("PUT", config, {"default_timeout": None, "retention": None})
    assert without.json["config"].keys() == shown.keys() - {"default_timeout", "retention"}
    assert "timeout_ms" not in await api.enqueue(options={"queue": "mail"})


async def test_queues_without_defaults_of_their_own_have_those_of_the_policy(api: Api) -> None:
    policy = "/ojs/v1/queues/_default/config"
    await api.call("PUT", CONFIG.format("own"), {"default_timeout": 9})
    settings: dict[str, Any] = {"default_timeout": 7, "retention": {"completed": "PT2H"}}
    settings["visibility_timeout"] = 30
    put = await api.call("PUT", policy, settings)
    assert (put.status, put.json["queue"]) == (200, "_default")
    shown = (await api.get(policy)).json["config"]
    assert {name: shown[name] for name in settings} == settings
    for queue, timeout_s in (("plain", 7), ("own", 9)):
        job = await api.enqueue(options={"queue": queue})
        body = {"jobs": [{"type": "t", "args": [], "options": {"queue": queue}}]}
        batch = await api.post("/ojs/v1/jobs/batch", body)
        assert batch.json["jobs"][0]["timeout_ms"] == job["timeout_ms"] == timeout_s * 1000
        assert job["visibility_timeout_ms"] == 30_000
        config = (await api.get(CONFIG.format(queue))).json["config"]
        assert (config["default_timeout"], config["retention"]) == (
            timeout_s,
            {"completed": "PT2H"},
        )

    refused = await api.call("PUT", policy, {"default_timeout": 8, "max_size": 5})
    assert (refused.status, refused.error["details"]["field"]) == (422, "max_size")
    assert (await api.post("/ojs/v1/queues", {"name": "_default"})).status == 400
    await api.call("PUT", policy, {"default_timeout": None, "retention": None})
    assert "timeout_ms" not in await api.enqueue(options={"queue": "plain"})
    assert (await api.enqueue(options={"queue": "own"}))["timeout_ms"] == 9000
