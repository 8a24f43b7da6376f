"""The dashboard over HTTP/2, where requests share a connection: login, pages, forms and events."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import h2.settings
import trio

from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.hypercorn.quart_app import create_quart_app
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.ui.quart_views import add_dashboard
from ojs_cluster.ui.settings import UiSettings
from tests.http.api import Api, open_app, serving
from tests.http.push.test_http2 import Connection
from tests.ui.dashboard import KEYRING, KEYS, OWN

FORM = {"content-type": "application/x-www-form-urlencoded"}


class Browser:
    """A browser with one HTTP/2 connection, which keeps its cookie."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.connection = Connection(stream)
        self.connection.h2.initiate_connection()
        self.cookie = ""
        self._next_id = 1

    def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> int:
        """Send a request; return the number of its stream."""
        number, self._next_id = self._next_id, self._next_id + 2
        sent = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)]
        sent += [(name.lower(), value) for name, value in (OWN | dict(headers)).items()]
        if self.cookie:
            sent.append(("cookie", self.cookie))
        self.connection.h2.send_headers(number, sent, end_stream=body is None)
        if body is not None:
            self.connection.h2.send_data(number, body, end_stream=True)
        return number

    async def get(self, path: str, **headers: str) -> tuple[int, dict[bytes, bytes], bytes]:
        """Return the status, the head and the body of a page."""
        return await self.answer(self.send("GET", path, headers))

    async def post(self, path: str, **fields: str) -> tuple[int, dict[bytes, bytes], bytes]:
        """Send a form; return the response as ``get`` does."""
        return await self.answer(self.send("POST", path, FORM, urlencode(fields).encode()))

    async def answer(self, number: int) -> tuple[int, dict[bytes, bytes], bytes]:
        """Return the response on a stream."""
        connection = self.connection
        await connection.receive(lambda: number in connection.ended)
        head = connection.heads[number]
        if b"set-cookie" in head:
            self.cookie = head[b"set-cookie"].partition(b";")[0].decode()
        return int(head[b":status"]), head, connection.bodies.get(number, b"")


async def test_the_dashboard_works_over_http2(standalone: Embedded) -> None:
    async with (
        open_app(standalone) as admin_app,
        open_app(standalone, access=AccessControl(KEYRING)) as app,
    ):
        quart = create_quart_app(app)
        add_dashboard(quart, app, UiSettings(mode="full"))
        api = Api(admin_app)
        job = await api.enqueue(type="mail.send", options={"queue": "mail"})
        async with (
            serving(app, quart=quart, listening={"h2c": True}) as port,
            await trio.open_tcp_stream("127.0.0.1", port) as stream,
        ):
            browser = Browser(stream)
            status, head, _ = await browser.get("/ui/jobs")
            assert (status, head[b"location"]) == (303, b"./login?next=jobs")
            status, head, _ = await browser.post("/ui/login", key="admin-key", next="jobs")
            assert (status, head[b"location"]) == (303, b"./jobs")
            assert browser.cookie.startswith("ojs_ui_session=")

            status, head, body = await browser.get("/ui/jobs")
            assert status == 200
            assert job["id"].encode() in body
            assert KEYS["admin-key"].name.encode() in body
            assert b"default-src 'none'" in head[b"content-security-policy"]
            assert b"connection" not in head
            status, _, body = await browser.get("/ui/static/app.js")
            assert (status, b"use strict" in body) == (200, True)

            status, head, _ = await browser.get("/ui/", **{"HX-Request": "true"})
            etag = head[b"etag"].decode()
            refresh = {"HX-Request": "true", "If-None-Match": etag}
            status, head, body = await browser.get("/ui/", **refresh)
            assert status in (200, 304)
            assert (status == 304) == (body == b"")

            # Requests at the same time, one of which never ends.
            events = browser.send("GET", "/ui/events/stream", {})
            numbers = [
                browser.send("GET", f"/ui/{name}", {}) for name in ("", "queues", "dead", "workers")
            ]
            for number in numbers:
                assert (await browser.answer(number))[0] == 200
            status, head, _ = await browser.post(f"/ui/jobs/{job['id']}/cancel", back="jobs")
            assert (status, head[b"location"]) == (303, b"../../jobs")
            shown = (await api.get(f"/ojs/v1/admin/jobs/{job['id']}")).json
            assert shown["state"] == "cancelled"
            connection = browser.connection
            await connection.receive(
                lambda: b"event: job.cancelled\n" in connection.bodies.get(events, b"")
            )
            assert events not in connection.ended


async def test_a_refresh_that_cannot_be_sent_holds_no_other_request(standalone: Embedded) -> None:
    """The client sends DATA for a refresh, and gives no room for the response."""
    async with open_app(standalone) as app:
        quart = create_quart_app(app)
        add_dashboard(quart, app, UiSettings(mode="full"))
        async with (
            serving(app, quart=quart, listening={"h2c": True}) as port,
            await trio.open_tcp_stream("127.0.0.1", port) as stream,
        ):
            browser = Browser(stream)
            protocol = browser.connection.h2
            protocol.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
            await browser.connection.receive(lambda: True)
            head = [(":method", "GET"), (":scheme", "http"), (":authority", "x")]
            refresh = [*head, (":path", "/ui/queues"), ("hx-request", "true")]
            protocol.send_headers(1, refresh)
            await browser.connection.receive(lambda: 1 in browser.connection.heads)
            assert 1 not in browser.connection.ended
            for _ in range(50):
                protocol.send_data(1, b"x")
            protocol.send_headers(3, [*head, (":path", "/ojs/v1/health")], end_stream=True)
            await browser.connection.receive(lambda: 3 in browser.connection.heads)
            assert browser.connection.heads[1][b":status"] == b"200"
            assert browser.connection.heads[3][b":status"] == b"200"
