"""The bytes of clients that manage webhooks: CLI and admin UI."""

from __future__ import annotations

import json
from typing import Any

from tests.clients.wire import Answer, Wire

PATH = "/ojs/v1/webhooks/subscriptions"
# ojs-cli, internal/client/client.go:56: the headers of every request; net/http adds the others.
CLI = {
    "User-Agent": "Go-http-client/1.1",
    "Content-Type": "application/openjobspec+json",
    "Accept": "application/openjobspec+json",
    "Accept-Encoding": "gzip",
}
# ojs-admin-ui, src/api/client.ts:37 (request), in a browser.
UI = {
    "Content-Type": "application/json",
    "Accept": "*/*",
    "User-Agent": "Mozilla/5.0",
    "Sec-Fetch-Mode": "cors",
}


async def send(
    wire: Wire, headers: dict[str, str], method: str, path: str, body: Any = None
) -> Answer:
    encoded = None if body is None else json.dumps(body, separators=(",", ":")).encode()
    return await wire.send(method, path, headers, encoded)


# ojs-cli, cmd/ojs/commands/webhooks.go:58 (create), :80 (list), :136 (get), :196 (delete).
async def test_the_cli_manages_subscriptions(wire: Wire) -> None:
    body = {"url": "https://example.com/hooks", "events": ["job.completed", "job.failed"]}
    created = await send(wire, CLI, "POST", PATH, body)
    assert created.status == 201
    subscription_id = created.json["id"]
    with_secret = {**body, "secret": "a secret of the user"}
    assert (await send(wire, CLI, "POST", PATH, with_secret)).status == 201

    listed = (await send(wire, CLI, "GET", f"{PATH}?limit=25")).json
    assert listed["total"] == 2
    row = listed["subscriptions"][0]
    assert (row["id"], row["url"], row["events"]) == (subscription_id, *body.values())
    assert (row["active"], row["created_at"][-1]) == (True, "Z")

    shown = (await send(wire, CLI, "GET", f"{PATH}/{subscription_id}")).json
    assert (shown["id"], shown["url"], shown["active"]) == (subscription_id, body["url"], True)

    assert (await send(wire, CLI, "DELETE", f"{PATH}/{subscription_id}")).status == 200
    assert (await send(wire, CLI, "GET", f"{PATH}/{subscription_id}")).status == 404


# ojs-cli, cmd/ojs/commands/webhooks.go:211 (test) and :242 (rotate-secret), without a body.
async def test_the_cli_tests_and_rotates(wire: Wire) -> None:
    body = {"url": "https://localhost:1/hooks", "events": ["job.completed"]}
    subscription_id = (await send(wire, CLI, "POST", PATH, body)).json["id"]

    tested = await send(wire, CLI, "POST", f"{PATH}/{subscription_id}/test")
    assert (tested.status, tested.json["success"], tested.json["status_code"]) == (200, False, 0)

    rotated = await send(wire, CLI, "POST", f"{PATH}/{subscription_id}/rotate-secret")
    assert (rotated.status, rotated.json["new_secret"][:6]) == (200, "whsec_")


# ojs-admin-ui, src/api/client.ts:301-329 and src/api/types.ts:314 (WebhookSubscription).
async def test_the_admin_ui_manages_subscriptions(wire: Wire) -> None:
    events = ["job.completed", "worker.stale", "queue.paused"]
    created = await send(wire, UI, "POST", PATH, {"url": "https://example.com/w", "events": events})
    assert (created.status, created.json["events"]) == (201, events)
    target = f"{PATH}/{created.json['id']}"

    page = (await send(wire, UI, "GET", f"{PATH}?page=1&per_page=25")).json
    assert [each["id"] for each in page["items"]] == [created.json["id"]]
    assert (page["pagination"]["page"], page["pagination"]["per_page"]) == (1, 25)

    toggled = await send(wire, UI, "PUT", target, {"active": False})
    assert (toggled.status, toggled.json["active"]) == (200, False)
    shown = (await send(wire, UI, "GET", target)).json
    assert (shown["active"], shown["metadata"], shown["url"]) == (
        False,
        {},
        "https://example.com/w",
    )
    assert "secret" not in shown

    tested = await send(wire, UI, "POST", f"{target}/test")
    assert (tested.status, tested.json["status"]) == (200, 0)
    assert tested.json["response_time_ms"] >= 0
    assert (await send(wire, UI, "DELETE", target)).status == 200
