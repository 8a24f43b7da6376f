"""Whether the stream of a key goes on, and how much the key may open and send."""

from __future__ import annotations

import pytest

from ojs_cluster.core.access.scopes import ALL_SCOPES, Keyring, Principal, Scope, digest
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.push import sse
from ojs_cluster.http.websocket import session as ws_session
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app, serving
from tests.http.push.reading import events
from tests.http.push.sockets import websocket
from tests.support.access import accepts

ONE = {"Authorization": "Bearer one"}


def only(principal: Principal) -> Keyring:
    return Keyring({digest("one"): principal}, {})


@pytest.mark.parametrize(
    "changed",
    [Principal("one", tenant="beta"), Principal("one", ALL_SCOPES - {Scope.DATA_READ})],
    ids=["another tenant", "another scope"],
)
async def test_a_stream_ends_when_its_key_has_other_access(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch, changed: Principal
) -> None:
    monkeypatch.setattr(sse, "CHECK_S", 0.05)
    access = accepts(["one"])
    async with (
        open_app(standalone, access=access) as app,
        serving(app) as port,
        events(port, "/ojs/v1/events/stream", ONE) as stream,
    ):
        access.replace(only(changed))
        assert await stream.rest() == []


async def test_each_key_has_its_own_number_of_streams(standalone: Embedded) -> None:
    access = accepts(["one", "two"])
    async with open_app(standalone, access=access, push_per_client=1) as app, serving(app) as port:
        two = {"Authorization": "Bearer two"}
        async with websocket(port, ONE) as first, websocket(port, two) as second:
            assert (first.status, second.status) == (101, 101)


async def test_messages_count_against_the_request_rate_of_the_key(standalone: Embedded) -> None:
    access = AccessControl(only(Principal("one", requests_per_second=1.0)))
    async with (
        open_app(standalone, access=access) as app,
        serving(app) as port,
        websocket(port, ONE) as socket,
    ):
        replies = [await socket.ask({"action": "ping"}) for _ in range(50)]
    assert "rate_limited" in [reply.get("code") for reply in replies]


async def test_a_client_that_offers_no_protocol_gets_none(standalone: Embedded) -> None:
    async with open_app(standalone) as app, serving(app) as port, websocket(port) as socket:
        assert (socket.status, socket.subprotocol) == (101, None)


async def test_the_channels_of_a_connection_are_bounded(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws_session, "MAX_CHANNELS", 1)
    async with open_app(standalone) as app, serving(app) as port, websocket(port) as socket:
        await Api(app).enqueue(options={"queue": "q"})
        channels = [{"action": "subscribe", "channel": name} for name in ("all", "queue:q")]
        assert (await socket.ask(channels[0]))["type"] == "subscribed"
        refused = await socket.ask(channels[1])
        assert (refused["code"], refused["channel"]) == ("invalid_request", "queue:q")
        await socket.ask({"action": "unsubscribe", "channel": "all"})
        assert (await socket.ask(channels[1]))["type"] == "subscribed"


@pytest.mark.parametrize("state", ["completed", "cancelled"])
async def test_an_end_before_the_stream_has_its_own_time_and_state(
    standalone: Embedded, state: str
) -> None:
    async with open_app(standalone) as app, serving(app) as port:
        api = Api(app)
        job = await api.active()
        if state == "completed":
            await api.post("/ojs/v1/workers/ack", {"job_id": job["id"]})
        else:
            await api.delete(f"/ojs/v1/jobs/{job['id']}")
        ended = (await api.get(f"/ojs/v1/jobs/{job['id']}")).json["job"]
        async with events(port, f"/ojs/v1/jobs/{job['id']}/events") as stream:
            [event] = await stream.rest()
    before = "active" if state == "completed" else None  # a cancelled job does not store it
    assert (event.data["from"], event.data["to"]) == (before, state)
    assert event.data["timestamp"] == ended[f"{state}_at"]
