"""Pages in the fast lane, and refreshes that skip Quart: the same responses and checks."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest
import trio

from ojs_cluster.core.access.scopes import PRESETS, Keyring, Principal, digest
from ojs_cluster.http.fast_lane.connection import LaneConnection
from ojs_cluster.http.hypercorn.quart_app import create_quart_app
from ojs_cluster.http.hypercorn.refreshes import RefreshConnection, is_refresh
from ojs_cluster.http.messages import Response
from ojs_cluster.http.pages import BrowserRequest
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.ui.settings import UiSettings
from tests.support.servers import wait_until
from tests.ui.dashboard import KEYRING, Running, dashboard
from tests.ui.demo import Demo

REFRESH = {"HX-Request": "true"}
BODY = {"Content-Length": "0"}
"""A request that may have a body is left to Quart."""
BY_QUART = {**REFRESH, **BODY}
STATIC = (
    *("queues", "jobs", "jobs?state=discarded", "dead", "errors", "workers", "cron", "limits"),
    *("pools", "tenants"),
)
CHANGING = re.compile(r"[\d.,]+ ?(ms|s|min|h|d)\b|\d+|just now")


def _answer(client: httpx.Client, path: str, headers: dict[str, str]) -> tuple[Any, ...]:
    """Return all of a response that does not depend on its time."""
    answer = client.get(f"/ui/{path}", headers=headers)
    varying = ("date", "etag", "content-length")
    kept = sorted(pair for pair in answer.headers.multi_items() if pair[0] not in varying)
    return answer.status_code, kept, CHANGING.sub("", answer.text)


def _are_equal(client: httpx.Client, other: httpx.Client, path: str) -> bool:
    return all(
        _answer(client, path, headers) == _answer(other, path, {**headers, **BODY})
        for headers in (REFRESH, {})
    )


@pytest.mark.parametrize("lane", [True, False])
def test_a_page_is_answered_as_by_quart(running: Running, demo: Demo, lane: bool) -> None:
    pages = [
        *("", *STATIC, "types/email.send", "queues/media", f"jobs/{demo.jobs['discarded']}"),
        *("queues/unknown%2Fname", "jobs/unknown", "nothing", "cron/_new", "login", "jobs?page=x"),
        *(f"jobs/{demo.jobs['discarded']}.json", "queues/media/", "limits/partner:api"),
        *("static/app.js", "static/nothing.js"),
    ]
    for key in ("admin-key", "viewer-key", "email-key", None):
        with running.browser(key) as client, running.browser(key) as other:
            if not lane:
                _to_hypercorn(client)
            for path in pages:
                # What is shown may change between the two requests.
                equal = partial(_are_equal, client, other, path)
                wait_until(equal, what=f"equal pages: {key} {path}")


def _to_hypercorn(client: httpx.Client) -> None:
    """Let hypercorn serve the connection of a client, as after a form."""
    client.get("/ui/login", headers=BODY)


def test_the_fast_lane_serves_pages_and_a_refresh_skips_quart(running: Running, demo: Demo) -> None:
    """The test that compares both would also pass if Quart answered every request."""
    called: list[str] = []
    show, call = LaneConnection._show, RefreshConnection.__call__

    async def note_page(self: LaneConnection, head: Any, page: Any) -> bool:
        called.append(f"lane {head.path}")
        return await show(self, head, page)

    async def note_refresh(self: RefreshConnection, receive: Any, send: Any) -> None:
        called.append(f"hypercorn {self.scope['path']}")
        await call(self, receive, send)

    with pytest.MonkeyPatch.context() as patch, running.browser() as client:
        patch.setattr(LaneConnection, "_show", note_page)
        patch.setattr(RefreshConnection, "__call__", note_refresh)
        for path in ("queues", "static/app.js", "dead"):
            client.get(f"/ui/{path}")
            client.get(f"/ui/{path}", headers=REFRESH)
        assert called == [
            f"lane /ui/{path}" for path in ("queues", "static/app.js", "dead") for _ in "xx"
        ]
        called.clear()
        client.post("/ui/queues/email/resume", headers=REFRESH)
        client.get("/ui/queues", headers=REFRESH)
        client.get("/ui/queues")
        client.get("/ui/dead", headers=BY_QUART)
    assert called == ["hypercorn /ui/queues"]


def test_a_session_that_has_ended_gets_no_refresh(ui_redis: Embedded, demo: Demo) -> None:
    """A removed key, another key of the same name, and fewer scopes hold for the next refresh."""
    viewer = Principal("viewer", PRESETS["viewer"])
    with dashboard(ui_redis, UiSettings(mode="read"), keyring=KEYRING) as server:

        def accept(keys: dict[bytes, Principal]) -> None:
            async def change() -> None:
                server.app.access.replace(Keyring(keys, {}))

            server.run(change)

        with server.browser("viewer-key") as client:
            for path in ("", "queues"):
                accept(dict(KEYRING.by_digest))
                first = client.get(f"/ui/{path}", headers=REFRESH)
                assert first.status_code == 200
                known = {**REFRESH, "If-None-Match": first.headers["etag"]}
                accept({digest("viewer-key"): replace(viewer, scopes=PRESETS["producer"])})
                assert client.get(f"/ui/{path}", headers=known).status_code == 403
                accept({digest("viewer-key"): replace(viewer, expires_at_s=1.0)})
                assert client.get(f"/ui/{path}", headers=known).status_code == 401
                accept({digest("another-key"): viewer})
                refused = client.get(f"/ui/{path}", headers=known)
                assert refused.status_code == 401
                following = f"?next={path}" if path else ""
                assert refused.headers["hx-redirect"] == f"./login{following}"
                assert refused.content == b""
                accept({digest("viewer-key"): replace(viewer, requests_per_second=1e-4)})
                answers = [client.get(f"/ui/{path}", headers=known) for _ in range(3)]
                assert answers[-1].status_code == 429
        with server.browser(None) as stranger:
            assert stranger.get("/ui/", headers=REFRESH).status_code == 401


async def test_a_refresh_whose_client_disconnects_is_cancelled(running: Running) -> None:
    quart = create_quart_app(running.app)
    began, ended = trio.Event(), trio.Event()

    async def view(_request: BrowserRequest) -> Response:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def never(**_params: str) -> str:
        raise AssertionError("Quart answers")

    quart.add_url_rule("/ui/", "page", never)
    quart.views["page"] = view
    scope: Any = {
        **{"type": "http", "method": "GET", "path": "/ui/", "raw_path": b"/ui/"},
        **{"query_string": b"", "headers": [(b"hx-request", b"true")], "http_version": "1.1"},
        **{"scheme": "http", "root_path": "", "client": None, "server": None, "extensions": {}},
    }
    assert is_refresh(scope)
    to_app, receive = trio.open_memory_channel[Any](2)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with trio.open_nursery() as nursery:
        connection = RefreshConnection(quart, scope)
        nursery.start_soon(connection, receive.receive, send)
        await to_app.send({"type": "http.request", "body": b"", "more_body": False})
        with trio.fail_after(60):
            await began.wait()
            await to_app.send({"type": "http.disconnect"})
            await ended.wait()
    assert sent == []
