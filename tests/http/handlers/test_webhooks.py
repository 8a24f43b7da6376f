"""Webhook subscriptions over HTTP (spec: ojs-webhooks 6)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import pytest
import trio

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.webhooks import MAX_METADATA
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.ground.process_state.subscriptions import MAX_SUBSCRIPTIONS
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.webhooks.settings import WebhookSettings
from tests.http.access.test_scopes import access_of, bearer
from tests.http.api import Api, open_app
from tests.support.receiver import (
    Received,
    Receiver,
    receiving,
    status,
    verify_ojs,
    verify_standard,
)
from tests.support.servers import observer

PATH = "/ojs/v1/webhooks/subscriptions"
URL = "https://hooks.example/ojs"
LOCAL = StoreSettings(
    webhooks=WebhookSettings(allow_cidrs=(ip_network("127.0.0.1/32"),), allow_http=True)
)
METADATA: list[Any] = [[], "x", 1, {"m": "x" * MAX_METADATA}]


@pytest.fixture
async def local(standalone: Embedded) -> AsyncIterator[Api]:
    """An API whose webhooks may reach 127.0.0.1 without TLS."""
    async with open_app(standalone, store=LOCAL, test_hooks=True) as app:
        yield Api(app)


async def made(api: Api, **members: Any) -> dict[str, Any]:
    reply = await api.post(PATH, {"url": URL, "events": ["job.completed"], **members})
    assert reply.status == 201, reply.body
    found: dict[str, Any] = reply.json
    return found


async def test_the_life_of_a_subscription(any_api: Api) -> None:
    api = any_api
    body = {
        "url": URL,
        "events": ["job.completed", "job.*", "job.completed"],
        "filter": {"queues": ["payments"], "job_types": ["a.b"]},
        "metadata": {"n": 12345678901234567890, "owner": "team"},
    }
    created = await api.post(PATH, body)
    assert created.status == 201
    new = created.json
    assert created.headers["location"] == f"{PATH}/{new['id']}"
    assert new["id"].startswith("sub_")
    assert new["secret"].startswith("whsec_")
    assert (new["events"], new["active"]) == (["job.completed", "job.*"], True)
    assert new["filter"] == body["filter"]
    assert new["metadata"] == body["metadata"]

    shown = (await api.get(f"{PATH}/{new['id']}")).json
    assert {name: new[name] for name in shown if name != "subscription"} == {
        name: value for name, value in shown.items() if name != "subscription"
    }
    listed = (await api.get(PATH)).json
    assert listed["subscriptions"] == listed["items"] == [shown["subscription"]]
    assert (listed["total"], listed["pagination"]["total"]) == (1, 1)

    for method in ("PATCH", "PUT"):
        reply = await api.call(method, f"{PATH}/{new['id']}", {"active": False, "filter": None})
        assert reply.status == 200
        assert (reply.json["active"], reply.json["url"]) == (False, URL)
        assert "filter" not in reply.json

    rotated = (await api.post(f"{PATH}/{new['id']}/rotate-secret")).json
    assert rotated["secret"] == rotated["new_secret"] != new["secret"]
    assert rotated["previous_secret_expires_at"] > rotated["updated_at"]

    texts = [await api.get(PATH), await api.get(f"{PATH}/{new['id']}")]
    texts.append(await api.call("PATCH", f"{PATH}/{new['id']}", {"active": True}))
    for secret in (new["secret"], rotated["secret"]):
        assert all(secret not in reply.body.decode() for reply in texts)

    assert (await api.delete(f"{PATH}/{new['id']}")).status == 200
    for method, target in (
        *(("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/test")),
        ("POST", "/rotate-secret"),
    ):
        reply = await api.call(
            method, f"{PATH}/{new['id']}{target}", {} if method != "GET" else None
        )
        assert (reply.status, reply.error["code"]) == (404, "not_found")
    assert (await api.get(PATH)).json["subscriptions"] == []


@pytest.mark.parametrize(
    ("members", "field"),
    [
        *(({"url": None}, "url"), ({"events": None}, "events"), ({"events": []}, "events")),
        ({"url": "http://hooks.example/"}, "url"),
        *(({"url": f"https://{host}/"}, "url") for host in ("127.0.0.1", "10.0.0.1", "[::1]")),
        ({"events": ["job.completed", "no spaces"]}, "events[1]"),
        *(({"events": [text]}, "events[0]") for text in ("", "Job.x", "*.x", "job.**", "a" * 65)),
        ({"events": ["job.completed"] * 51}, "events"),
        ({"filter": {"queues": ["q", "not a queue"]}}, "filter.queues[1]"),
        ({"filter": {"job_types": [""]}}, "filter.job_types[0]"),
        ({"filter": {"queue": ["q"]}}, "filter"),
        ({"filter": {"queues": ["q"] * 51}}, "filter.queues"),
        *(({"secret": text}, "secret") for text in ("x" * 15, "x" * 256, "ä" * 20, "x\n" * 10)),
        *(({"metadata": value}, "metadata") for value in METADATA),
    ],
)
async def test_a_wrong_value_is_named(api: Api, members: dict[str, Any], field: str) -> None:
    body = {"url": URL, "events": ["job.completed"], **members}
    reply = await api.post(PATH, body)
    assert (reply.status, reply.error["details"]["field"]) == (400, field), reply.body
    assert (await api.get(PATH)).json["total"] == 0


async def test_a_misspelt_condition_leaves_the_filter_as_it_is(api: Api) -> None:
    new = await made(api, filter={"queues": ["payments"]})
    reply = await api.call("PATCH", f"{PATH}/{new['id']}", {"filter": {"queue": ["payments"]}})
    assert (reply.status, reply.error["details"]["field"]) == (400, "filter")
    shown = (await api.get(f"{PATH}/{new['id']}")).json
    assert shown["filter"] == {"queues": ["payments"]}


async def test_the_secret_of_a_client_is_used_and_replaced_only_by_a_rotation(api: Api) -> None:
    secret = "whk_a_secret_of_the_client"
    new = await made(api, secret=secret)
    assert new["secret"] == secret
    reply = await api.call("PATCH", f"{PATH}/{new['id']}", {"secret": "x" * 30})
    assert (reply.status, reply.error["details"]["field"]) == (400, "secret")
    reply = await api.post(f"{PATH}/{new['id']}/rotate-secret", {"secret": "y" * 30})
    assert reply.json["secret"] == "y" * 30
    for _ in range(2):
        assert (await api.post(f"{PATH}/{new['id']}/rotate-secret")).status == 200
    reply = await api.post(f"{PATH}/{new['id']}/rotate-secret")
    assert (reply.status, reply.error["code"]) == (409, "conflict")


async def test_subscriptions_and_what_they_select_are_bounded(api: Api) -> None:
    long = [f"{'q' * 120}{number}" for number in range(50)]
    names = {"queues": long, "job_types": long}
    await made(api, filter=names)
    reply = await api.post(PATH, {"url": URL, "events": ["*"], "filter": names})
    assert (reply.status, reply.error["details"]["field"]) == (400, "events")
    for _ in range(MAX_SUBSCRIPTIONS - 1):
        await made(api, active=False)
    reply = await api.post(PATH, {"url": URL, "events": ["job.failed"], "active": False})
    assert reply.status == 400
    assert str(MAX_SUBSCRIPTIONS) in reply.error["message"]
    page = (await api.get(f"{PATH}?page=2&per_page=30")).json
    assert (len(page["items"]), page["pagination"]["has_more"]) == (30, True)


@pytest.mark.parametrize(
    "events", [["worker.started"], ["webhook.*"], ["rate.*"], ["job.compleeted", "worker.*"]]
)
async def test_a_subscription_that_would_get_no_event_is_refused(
    api: Api, events: list[str]
) -> None:
    reply = await api.post(PATH, {"url": URL, "events": events})
    assert (reply.status, reply.error["details"]["field"]) == (422, "events")
    new = await made(api, events=[*events, "cron.*"])
    reply = await api.call("PATCH", f"{PATH}/{new['id']}", {"events": events})
    assert reply.status == 422
    assert (await api.get(f"{PATH}/{new['id']}")).json["events"] == [*events, "cron.*"]


async def test_concurrent_changes_are_all_kept(api: Api) -> None:
    new = await made(api)
    target = f"{PATH}/{new['id']}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(api.call, "PATCH", target, {"events": ["job.failed"]})
        nursery.start_soon(api.call, "PATCH", target, {"metadata": {"a": 1}})
        nursery.start_soon(api.call, "PATCH", target, {"filter": {"queues": ["q"]}})
    shown = (await api.get(target)).json
    assert (shown["events"], shown["metadata"]) == (["job.failed"], {"a": 1})
    assert shown["filter"] == {"queues": ["q"]}


async def test_a_damaged_record_hides_no_other(api: Api, standalone: Embedded) -> None:
    new = await made(api)
    with observer(standalone) as redis:
        key = api.app.store.keys.meta.webhooks
        redis.hset(key, "sub_x", b"{")
        redis.hset(key, b"\xff", b"\xff")
    assert [each["id"] for each in (await api.get(PATH)).json["items"]] == [new["id"]]
    assert (await api.get(f"{PATH}/sub_x")).status == 404
    assert (await made(api))["id"] != new["id"]
    assert (await api.delete(f"{PATH}/sub_x")).status == 200


async def test_a_test_delivery_carries_both_signatures(local: Api) -> None:
    async with receiving() as receiver:
        new = await made(local, url=receiver.url())
        reply = await local.post(f"{PATH}/{new['id']}/test")
    assert reply.status == 200
    assert reply.json["success"] is True
    assert (reply.json["status_code"], reply.json["status"]) == (200, 200)
    assert reply.json["response_body"] == "OK"
    assert reply.json["response_time_ms"] > 0
    [got] = receiver.received
    assert got.event["type"] == got.headers["x-ojs-event-type"] == "webhook.test"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["user-agent"].startswith("OJS-Webhook/1.0")
    assert got.headers["x-ojs-subscription-id"] == new["id"]
    assert got.headers["x-ojs-delivery-id"] == got.headers["webhook-id"]
    assert got.headers["webhook-id"] == reply.json["delivery_id"]
    assert verify_ojs(got, new["secret"])
    assert verify_standard(got, new["secret"])
    assert not verify_ojs(got, "another secret..")
    assert not verify_standard(Received("", got.headers, got.body + b" "), new["secret"])


async def test_during_a_rotation_both_secrets_sign(local: Api) -> None:
    async with receiving() as receiver:
        new = await made(local, url=receiver.url())
        rotated = (await local.post(f"{PATH}/{new['id']}/rotate-secret")).json
        await local.post(f"{PATH}/{new['id']}/test")
    [got] = receiver.received
    for secret in (new["secret"], rotated["secret"]):
        assert verify_ojs(got, secret)
        assert verify_standard(got, secret)
    newest = got.headers["x-ojs-signature"].partition(",")[0]
    assert verify_ojs(
        Received("", {**got.headers, "x-ojs-signature": newest}, got.body), rotated["secret"]
    )


async def test_what_goes_wrong_is_told(local: Api) -> None:
    async def gone(_: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return status(410)

    async with receiving(Receiver(answer=gone)) as receiver:
        new = await made(local, url=receiver.url())
        reply = await local.post(f"{PATH}/{new['id']}/test")
        assert (reply.status, reply.json["success"], reply.json["status_code"]) == (200, False, 410)
    reply = await local.post(f"{PATH}/{new['id']}/test")
    assert (reply.json["success"], reply.json["status_code"]) == (False, 0)
    assert reply.json["error"] == "connection failed: Connection refused"


async def test_a_name_of_the_machine_itself_is_refused(standalone: Embedded) -> None:
    settings = StoreSettings(webhooks=WebhookSettings(allow_http=True))
    async with open_app(standalone, store=settings) as app, receiving() as receiver:
        api = Api(app)
        new = await made(api, url=receiver.url("localhost"))
        reply = await api.post(f"{PATH}/{new['id']}/test")
        assert reply.json["error"] == "the host has an address that is not public"
        assert receiver.connections == 0


async def test_only_administrators_reach_webhooks(standalone: Embedded) -> None:
    async with open_app(standalone, access=access_of()) as app:
        api = Api(app)
        body = {"url": URL, "events": ["job.completed"]}
        for key, read, write in (
            *(("producer", 403, 403), ("worker", 403, 403), ("viewer", 200, 403)),
            *(("operator", 200, 201), ("admin", 200, 201)),
        ):
            headers = bearer(f"key-{key}")
            assert (await api.get(PATH, headers=headers)).status == read
            assert (await api.post(PATH, body, headers=headers)).status == write
        # A subscription sees the events of every queue.
        assert (await api.post(PATH, body, headers=bearer("mail"))).status == 403
        assert (await api.get(PATH, headers=bearer("mail"))).status == 403
        assert QueuePatterns(["mail-*"]).admits("mail-x")


async def test_no_secret_reaches_the_audit(api: Api) -> None:
    new = await made(api)
    await api.post(f"{PATH}/{new['id']}/rotate-secret", {"secret": "z" * 40})
    await api.delete(f"{PATH}/{new['id']}")
    entries: list[Any] = []
    with trio.fail_after(60):
        while len(entries) < 3:
            entries = (await api.get("/ojs/v1/admin/audit")).json["entries"]
    assert [each["action"] for each in entries] == [
        *("webhook.delete", "webhook.rotate_secret", "webhook.create"),
    ]
    assert new["secret"] not in json.dumps(entries)
    assert "z" * 40 not in json.dumps(entries)
    assert all(new["id"] in json.dumps(each) for each in entries)


async def test_deliveries_are_listed_shown_and_retried(any_api: Api) -> None:
    api = any_api
    new = await made(api, url="https://hooks.example/", events=["job.enqueued"])
    other = await made(api, events=["job.enqueued"])
    job = await api.enqueue()
    store = api.app.store
    [shard] = store.keys.partitions("default", 1)
    path = "/ojs/v1/webhooks/deliveries"
    listed = (await api.get(path)).json
    assert listed["items"] == listed["deliveries"]
    assert {each["subscription_id"] for each in listed["items"]} == {new["id"], other["id"]}
    assert {each["status"] for each in listed["items"]} == {"pending"}

    [one] = (await api.get(f"{path}?subscription_id={new['id']}")).json["items"]
    assert (one["event_type"], one["attempts"], one["status_code"]) == ("job.enqueued", 0, None)
    assert one["last_attempt_at"] is None
    number = one["id"].removeprefix("del_").partition("-")[0]
    reply = await api.post(f"{path}/{one['id']}/retry")
    assert (reply.status, reply.error["code"]) == (409, "conflict")
    await deliveries.record(store, shard, new["id"], number, "dead", status=400)

    shown = (await api.get(f"{path}/{one['id']}")).json
    assert shown["event"]["data"]["job_id"] == job["id"]
    assert (shown["delivery"]["status"], shown["delivery"]["status_code"]) == ("dead", 400)
    assert [each["id"] for each in (await api.get(f"{path}?status=dead")).json["items"]] == [
        one["id"]
    ]
    for each in (
        (await api.get(f"{PATH}/{new['id']}")).json,
        (await api.get(PATH)).json["items"][0],
    ):
        assert (each["failure_count"], each["dead_count"], each["success_count"]) == (1, 1, 0)
        assert each["last_delivery_status"] == 400
        assert each["last_delivery_at"].endswith("Z")

    assert (await api.post(f"{path}/{one['id']}/retry")).json["status"] == "pending"
    assert (await api.get(f"{path}?status=dead")).json["items"] == []
    assert (await api.get(f"{path}?status=lost")).error["details"]["field"] == "status"
    assert len((await api.get(f"{path}?status=")).json["items"]) == 2
    for unknown in ("x", "del_1-0", "del_1-99999"):
        assert (await api.get(f"{path}/{unknown}")).status == 404
        assert (await api.post(f"{path}/{unknown}/retry")).status == 404
