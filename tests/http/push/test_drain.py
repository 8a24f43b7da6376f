"""A stop of the process with open streams of each kind, whether their clients read or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from ojs_cluster.http.app import App
from ojs_cluster.http.hypercorn.quart_app import create_quart_app
from ojs_cluster.http.push import progress_stream
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.http.send_timeouts import TimedConnection
from ojs_cluster.ui.quart_views import add_dashboard
from ojs_cluster.ui.settings import UiSettings
from tests.http.api import Api, open_app, serving, until
from tests.http.push.reading import events
from tests.http.push.test_fan_out import _async, narrow

__all__ = ["narrow"]
KINDS = ("events", "progress", "dashboard", "redacted dashboard")


@asynccontextmanager
async def served(backend: Embedded, kind: str) -> AsyncIterator[tuple[App, int]]:
    """Serve an application with a dashboard. A drain ends by itself, or the test fails."""
    ui = UiSettings(mode="full", redact=frozenset({"args"} if kind.startswith("redacted") else ()))
    async with open_app(backend) as app:
        quart = create_quart_app(app)
        add_dashboard(quart, app, ui)
        async with serving(
            app, quart=quart, grace_s=3600.0, listening={"write_timeout_s": 3600.0}
        ) as port:
            yield app, port


async def target_of(kind: str, api: Api) -> tuple[str, str]:
    """Return the path of a stream, and the id of a job in progress."""
    job = await api.active()
    if kind == "progress":
        return f"/ojs/v1/jobs/{job['id']}/progress/stream", job["id"]
    return "/ui/events/stream" if "dashboard" in kind else "/ojs/v1/events/stream", job["id"]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_open_stream_ends(standalone: Embedded, kind: str) -> None:
    async with served(standalone, kind) as (app, port):
        target, _ = await target_of(kind, Api(app))
        async with events(port, target) as stream:
            await until(lambda: _async(app.push.count == 1))
            began = trio.current_time()
            app.drain()
            assert [event.kind for event in await stream.rest()] == ["server.shutdown"]
            print(f"{kind}: {trio.current_time() - began:.1f} s")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_whose_client_reads_nothing_ends(
    standalone: Embedded, kind: str, narrow: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_stream, "READ_EVERY_S", 0.01)
    async with served(standalone, kind) as (app, port):
        api = Api(app)
        target, job_id = await target_of(kind, api)
        sends = sends_of_client(monkeypatch)
        async with events(port, target):
            await until(lambda: _is_blocked(api, job_id, sends, narrow))
            app.drain()
            await until(lambda: _async(app.push.count == 0))


def sends_of_client(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return what connections are sending now."""
    sends: list[bytes] = []
    send_all = TimedConnection.send_all

    async def noted(self: TimedConnection, data: bytes) -> None:
        sends.append(data)
        try:
            await send_all(self, data)
        finally:
            sends.remove(data)

    monkeypatch.setattr(TimedConnection, "send_all", noted)
    return sends


async def _is_blocked(api: Api, job_id: str, sends: list[bytes], complete: list[bool]) -> bool:
    """Cause events, and return whether the client blocks its stream."""
    before = list(sends)
    job: dict[str, Any] = {"type": "t" * 200, "args": [], "options": {"queue": "q"}}
    await api.post("/ojs/v1/jobs/batch", {"jobs": [job] * 100})
    for number in range(5):
        data = {"n": number, "text": "x" * 10_000}
        await api.call("PUT", f"/ojs/v1/jobs/{job_id}/progress", {"progress": 0.5, "data": data})
        await trio.sleep(0.05)
    return False in complete or (bool(before) and before == sends)
