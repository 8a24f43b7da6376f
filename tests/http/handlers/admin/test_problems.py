"""The problems of the cluster for programs: their names, times and pages, in English."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import pytest
import trio

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.features.webhooks.deliveries import Outcome
from ojs_cluster.store.ground.job_fields import STARTED
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.ui import incidents
from ojs_cluster.ui.languages.language import Language, speak
from ojs_cluster.webhooks.settings import WebhookSettings
from tests.http.api import Api, open_app

PATH = "/ojs/v1/admin/problems"
SHARED_S = 120


async def problem(api: Api, rule: str) -> dict[str, Any]:
    """Wait for the problem of a rule: what they are found by is shared for some seconds."""
    with trio.fail_after(SHARED_S):
        while True:
            reply = await api.get(PATH)
            assert reply.status == 200, reply.body
            found = [each for each in reply.json["items"] if each["rule"] == rule]
            if found:
                assert reply.json["total"] == len(reply.json["items"])
                return dict(found[0])
            await trio.sleep(0.1)


async def test_problems_have_stable_names_times_and_pages(any_api: Api) -> None:
    await any_api.enqueue(options={"queue": "p.q"})
    await any_api.post("/ojs/v1/queues/p.q/pause")
    started = await any_api.post(
        "/ojs/v1/admin/system/maintenance", {"enabled": True, "reason": "work"}
    )
    speak(Language("xx", "Other", "ltr", ".", ","))

    maintenance, paused = (
        await problem(any_api, "maintenance"),
        await problem(any_api, "queue_paused"),
    )

    assert maintenance == {
        "id": "maintenance",
        "rule": "maintenance",
        "severity": "critical",
        "state": "open",
        "text": "Maintenance mode is on: fetch requests are refused",
        "action": "Switch it off when the work is done.",
        "since": started.json["started_at"],
        "link": "ui/operations",
    }
    assert (paused["id"], paused["severity"]) == ("queue_paused", "warning")
    assert (paused["text"], paused["link"]) == ("Queue p.q is paused", "ui/queues/p.q")
    severities = [each["severity"] for each in (await any_api.get(PATH)).json["items"]]
    assert severities == sorted(severities), "critical ones come first"


async def test_problems_of_all_queues_need_a_key_for_all_queues(standalone: Embedded) -> None:
    async with open_app(standalone, api_keys=("one",)) as app:
        api = Api(app)
        assert (await api.get(PATH)).status == 401
        assert (await api.get(PATH, headers={"Authorization": "Bearer one"})).status == 200


async def test_a_process_that_does_not_look_for_problems_says_so(api: Api) -> None:
    object.__setattr__(api.app, "find_problems", None)
    reply = await api.get(PATH)
    assert reply.status >= 400
    assert "does not look for problems" in reply.error["message"]


async def fetch(api: Api, count: int) -> list[dict[str, Any]]:
    body = {"queues": ["default"], "count": count, "worker_id": "w1"}
    return list((await api.post("/ojs/v1/workers/fetch", body)).json["jobs"])


async def nack(api: Api, job: dict[str, Any]) -> None:
    body = {"job_id": job["id"], "lease_id": job["lease_id"], "error": {"message": "no"}}
    assert (await api.post("/ojs/v1/workers/nack", body)).status == 200


async def test_types_that_fail_and_discarded_jobs_are_named(any_api: Api) -> None:
    """A few failures, or a small part of all, may be chance."""
    api = any_api
    for job_type, failed, completed in (("bad", 10, 20), ("rare", 9, 0), ("good", 10, 30)):
        for _ in range(failed + completed):
            await api.enqueue(type=job_type, options={"retry": {"max_attempts": 1}})
        for number, job in enumerate(await fetch(api, failed + completed)):
            if number < failed:
                await nack(api, job)
            else:
                body = {"job_id": job["id"], "lease_id": job["lease_id"]}
                assert (await api.post("/ojs/v1/workers/ack", body)).status == 200
    await api.app.store.job_counts.flush(api.app.store)

    fails, discarded = await problem(api, "type_fails"), await problem(api, "jobs_discarded")

    assert fails["id"] == "type_fails:bad"
    assert "10 of 30 attempts" in fails["text"]
    assert "(33 %)" in fails["text"]
    assert fails["link"] == "ui/types/bad"
    items = (await api.get(PATH)).json["items"]
    assert [each["id"] for each in items].count("type_fails:bad") == 1
    assert sum(each["rule"] == "type_fails" for each in items) == 1
    assert discarded["text"].startswith("29 jobs were discarded in the last hour: ")
    assert discarded["link"] == "ui/jobs?state=discarded"


async def test_discarded_jobs_of_a_queue_that_soon_removes_them_are_named(api: Api) -> None:
    store = api.app.store
    config = {"retention": {"discarded": "PT5M"}}
    assert (await api.call("PUT", "/ojs/v1/queues/default/config", config)).status == 200
    await api.enqueue(type="brief", options={"retry": {"max_attempts": 1}})
    [job] = await fetch(api, 1)
    await nack(api, job)
    await store.job_counts.flush(store)
    await api.delete(f"/ojs/v1/admin/jobs/{job['id']}")  # as retention does

    assert (await problem(api, "jobs_discarded"))["text"].startswith("1 job was discarded")


async def test_a_job_that_runs_much_longer_than_others_is_named(any_api: Api) -> None:
    api, store = any_api, any_api.app.store
    for _ in range(20):
        job = await api.active(type="quick")
        body = {"job_id": job["id"], "lease_id": job["lease_id"]}
        assert (await api.post("/ojs/v1/workers/ack", body)).status == 200
    await store.job_counts.flush(store)
    hung, other, fresh = [await api.active(type=t) for t in ("quick", "rare", "quick")]
    began_ms = store.clock.now_ms() - 780_000
    for job in (hung, other):
        shard = store.keys.shard_of_id(job["id"])
        await store.redis.call(shard.slot, "HSET", shard.job(job["id"]), STARTED, began_ms)

    hangs = await problem(api, "job_hangs")

    assert hangs["id"] == f"job_hangs:{hung['id']}"
    assert hangs["text"].startswith("A job of the type quick has run for 13")
    assert hangs["link"] == f"ui/jobs/{hung['id']}"
    items = (await api.get(PATH)).json["items"]
    assert sum(each["rule"] == "job_hangs" for each in items) == 1, fresh


async def heartbeat(api: Api, name: str, host: str) -> None:
    body = {"worker_id": name, "hostname": host}
    assert (await api.post("/ojs/v1/workers/heartbeat", body)).status == 200


async def crash(api: Api, name: str, host: str) -> None:
    """Let a worker begin, and end without a word a second later, five minutes ago."""
    await heartbeat(api, name, host)
    store = api.app.store
    shard = store.keys.shard_of_worker(name)
    silent = store.clock.now_ms() - 300_000
    times = "last_seen", silent, "last_heartbeat", silent, "first_seen", silent - 1000
    await store.redis.call(shard.slot, "HSET", shard.worker(name), *times)
    await store.redis.call(shard.slot, "ZADD", shard.workers, silent, name)


async def test_a_host_whose_workers_end_at_once_is_named(
    any_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that live are seen later than those that have ended. They hide none of them."""
    monkeypatch.setattr(incidents, "_MAX_WORKERS", 10)
    for number in range(12):
        await heartbeat(any_api, f"alive-{number}", f"host-{number}")
    for host, count in (("crash", 5), ("calm", 4)):
        for number in range(count):
            await crash(any_api, f"{host}-{number}", host)
    restarts = await problem(any_api, "workers_restart")
    assert restarts["id"] == "workers_restart:crash"
    assert "crash end soon after they begin: 5 in the last 10 minutes" in restarts["text"]
    items = (await any_api.get(PATH)).json["items"]
    assert sum(each["rule"] == "workers_restart" for each in items) == 1


async def attempt(api: Api, subscription_id: str, queue: str, *statuses: int) -> None:
    """Record deliveries of events of a queue, each with the status of its only attempt."""
    store = api.app.store
    shard = store.keys.shard_of_queue(queue)
    for status in statuses:
        await api.enqueue(options={"queue": queue})
        [delivery] = (await deliveries.next_due(store, shard, subscription_id, 1)).deliveries
        outcome: Outcome = "delivered" if status < 300 else "dead"
        assert await deliveries.record(
            *(store, shard, subscription_id, delivery.number, outcome), status=status
        )


async def test_a_receiver_that_fails_in_a_row_is_named_until_it_accepts(webhook_api: Api) -> None:
    """Failures before its last success do not count."""
    api, made = webhook_api, []
    for name in ("old", "new"):
        body = {"url": f"http://127.0.0.1:9/{name}", "events": ["job.enqueued"], "queues": [name]}
        created = await api.post("/ojs/v1/webhooks/subscriptions", body)
        assert created.status == 201, created.body
        made.append(created.json["id"])
    await attempt(api, made[0], "old", 500, 500, 200, 500, 200, 503)
    await attempt(api, made[1], "new", 200, 503, 503)
    failing = (await api.get(f"/ojs/v1/webhooks/subscriptions/{made[1]}")).json
    await attempt(api, made[1], "new", 503)
    fails = await problem(api, "webhook_fails")
    assert fails["id"] == f"webhook_fails:{made[1]}"
    assert fails["text"] == "The receiver 127.0.0.1 of a webhook refuses deliveries (503)"
    assert fails["since"] == failing["failing_since"]
    items = (await api.get(PATH)).json["items"]
    assert sum(each["rule"] == "webhook_fails" for each in items) == 1
    await attempt(api, made[1], "new", 204)
    with trio.fail_after(SHARED_S):
        while "webhook_fails:" in str((await api.get(PATH)).json):  # noqa: ASYNC110 - an API
            await trio.sleep(0.1)


@pytest.fixture
async def webhook_api(standalone: Embedded) -> AsyncIterator[Api]:
    allowed = WebhookSettings(allow_cidrs=(ip_network("127.0.0.1/32"),), allow_http=True)
    async with open_app(standalone, store=StoreSettings(webhooks=allowed)) as app:
        yield Api(app)
