"""Streams and WebSockets of a tenant have no events of others."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ojs_cluster.core.access.scopes import Keyring, Principal, digest
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app, serving
from tests.http.push.reading import events
from tests.http.push.sockets import websocket

KEYS = {"all": Principal("all"), "beta": Principal("beta", tenant="beta")}
ACCESS = Keyring({digest(secret): principal for secret, principal in KEYS.items()}, {})
BETA = [
    {"Authorization": "Bearer beta"},
    {"Authorization": "Bearer all", "X-OJS-Tenant": "beta"},
]


async def enqueue(api: Api, tenant: str) -> str:
    headers = {"Authorization": "Bearer all", "X-OJS-Tenant": tenant}
    job = {"type": "t", "args": [], "options": {"queue": "q"}}
    reply = await api.post("/ojs/v1/jobs", job, headers=headers)
    assert reply.status == 201
    return str(reply.json["job"]["id"])


@pytest.mark.parametrize("headers", BETA, ids=["by key", "by header"])
@pytest.mark.parametrize("target", ["/ojs/v1/events/stream", "/ojs/v1/queues/q/events"])
async def test_a_stream_has_the_events_of_its_tenant(
    standalone: Embedded, headers: Mapping[str, str], target: str
) -> None:
    access = AccessControl(ACCESS)
    async with open_app(standalone, access=access) as app, serving(app) as port:
        api = Api(app)
        other = await enqueue(api, "acme")
        async with events(port, f"/ojs/v1/jobs/{other}/events", headers) as stream:
            assert stream.status == 404
        async with events(port, target, headers) as stream:
            await enqueue(api, "acme")
            mine = await enqueue(api, "beta")
            found = await stream.take(1)
            assert [event.data["job_id"] for event in found] == [mine]
            last = found[-1].id
        await enqueue(api, "acme")
        mine = await enqueue(api, "beta")
        async with events(port, target, {**headers, "Last-Event-ID": last}) as stream:
            assert [event.data["job_id"] for event in await stream.take(1)] == [mine]


@pytest.mark.parametrize("headers", BETA, ids=["by key", "by header"])
async def test_a_websocket_has_the_events_of_its_tenant(
    standalone: Embedded, headers: Mapping[str, str]
) -> None:
    access = AccessControl(ACCESS)
    async with open_app(standalone, access=access) as app, serving(app) as port:
        api = Api(app)
        other = await enqueue(api, "acme")
        async with websocket(port, headers) as socket:
            refused = await socket.ask({"action": "subscribe", "channel": f"job:{other}"})
            assert refused["type"] == "error"
            for channel in ("all", "queue:q"):
                reply = await socket.ask({"action": "subscribe", "channel": channel})
                assert reply["type"] == "subscribed"
            hidden = await enqueue(api, "acme")
            mine = await enqueue(api, "beta")
            found = [await socket.next() for _ in range(2)]
            assert all(mine in str(message) for message in found), found
            assert hidden not in str(found)
