"""Call the API: in this process through the dispatcher, or over a real socket."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import trio

from ojs_cluster.http.access.audit import Audit
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.admission import passes_api_key_check
from ojs_cluster.http.app import App
from ojs_cluster.http.dispatch import prepare, run
from ojs_cluster.http.fast_lane.routes import is_fast
from ojs_cluster.http.fast_lane.server import FastLane
from ojs_cluster.http.hypercorn.quart_app import OJSQuart, create_quart_app
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.settings import HttpSettings
from ojs_cluster.http.traffic import Traffic
from ojs_cluster.redis.deadline import start_deadline
from ojs_cluster.server.config.load import load
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.http.http_server import DrainTimes, hypercorn_config, serve
from ojs_cluster.server.http.listener import open_listener
from ojs_cluster.server.processes.api_process import Gate, connection_limits
from ojs_cluster.server.tls import Tls
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store
from ojs_cluster.ui.problems.for_api import ProblemsForApi
from tests.http.openapi.answers import check_answer
from tests.support.access import accepts
from tests.support.certificates import Certificates
from tests.support.driven import driven
from tests.support.patience import LONG_S, patient_client

SHARDS = 8
OJS_TYPE = "application/openjobspec+json"


async def dispatch(app: App, request: Request) -> Response:
    """Answer a complete request on the readable path."""
    return await run(app, prepare(app, request), request)


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as a client sees it; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    response: Response

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


@dataclass(frozen=True, slots=True)
class Api:
    """Calls the dispatcher directly; requests for fast routes are driven as by the fast lane."""

    app: App

    async def call(
        self,
        method: str,
        target: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        peer: str = "",
    ) -> Reply:
        """Send one request. ``body`` may be bytes, sent as they are, or a value, sent as JSON."""
        path, _, query = target.partition("?")
        if not isinstance(body, bytes):
            body = b"" if body is None else json.dumps(body).encode()
        given = {"content-type": OJS_TYPE} if body else {}
        given |= {name.lower(): value for name, value in (headers or {}).items()}
        request = Request(method, path, query, given, body, peer=peer)
        if is_fast(method, path):
            prepared = prepare(self.app, request)
            response = await driven(run(self.app, prepared, request, start_deadline()))
        else:
            response = await dispatch(self.app, request)
        check_answer(method, path, response)
        seen = {name.lower(): value for name, value in response.headers}
        return Reply(response.status, seen, response.body, response)

    async def get(self, target: str, **kwargs: Any) -> Reply:
        return await self.call("GET", target, **kwargs)

    async def post(self, target: str, body: Any = None, **kwargs: Any) -> Reply:
        return await self.call("POST", target, body, **kwargs)

    async def delete(self, target: str, **kwargs: Any) -> Reply:
        return await self.call("DELETE", target, **kwargs)

    async def enqueue(self, **members: Any) -> dict[str, Any]:
        """Enqueue one job and return its envelope. Keywords are members of the request."""
        reply = await self.post("/ojs/v1/jobs", {"type": "test.echo", "args": [], **members})
        assert reply.status == 201, reply.body
        job: dict[str, Any] = reply.json["job"]
        return job

    async def fetch(self, *queues: str, **members: Any) -> list[dict[str, Any]]:
        """Fetch from queues, by default from ``default``, and return the jobs."""
        body = {"queues": list(queues) or ["default"], **members}
        reply = await self.post("/ojs/v1/workers/fetch", body)
        assert reply.status == 200, reply.body
        jobs: list[dict[str, Any]] = reply.json["jobs"]
        return jobs

    async def active(self, queue: str = "default", **members: Any) -> dict[str, Any]:
        """Enqueue a job, fetch it as worker ``w1`` and return it as fetched."""
        options = {"queue": queue, **members.pop("options", {})}
        await self.enqueue(options=options, **members)
        return (await self.fetch(queue, worker_id="w1"))[0]


@asynccontextmanager
async def open_app(
    backend: Embedded,
    *,
    store: StoreSettings | None = None,
    audit: Audit | None = None,
    redis: Mapping[str, Any] | None = None,
    access: AccessControl | None = None,
    **settings: Any,
) -> AsyncIterator[App]:
    """An App on a real backend. Keywords are fields of HttpSettings.

    Its keys are ``access``, or those of ``api_keys``; without either it needs no key. ``audit``
    runs as in an API process. ``redis`` has fields of ClientSettings, whose timeouts
    are long by default.
    """
    if access is None:
        keys = settings.pop("api_keys", None)
        access = accepts(keys or (), allow_insecure=keys is None)
    settings.setdefault("health_timeout_s", LONG_S)
    client = patient_client(backend, **(redis or {}))
    traffic = Traffic()
    audit = audit or Audit(traffic=traffic)
    async with open_store(client, store, shards=SHARDS) as opened:
        await opened.background.once("audit", partial(audit.run, opened), 0)
        await opened.background.once("webhooks", partial(opened.webhooks.run, opened), 0)
        await opened.background.once("schemas", partial(opened.schemas.run, opened), 0)
        yield App(
            opened,
            HttpSettings(**settings),
            access,
            traffic=traffic,
            audit=audit,
            find_problems=ProblemsForApi().find,
        )


class _ErrorCollector(logging.Handler):
    """Collects records of the error level."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


_error_log = logging.getLogger("tests.http.hypercorn")


@dataclass(slots=True)
class EntryPoints:
    """The entry points that ``serving`` opens. Test files that cover both of them set it."""

    lane: bool = False
    tls: Certificates | None = None
    alpn: str | None = None
    """The protocol that an HTTP/2 client offers in its handshake."""


entry_points = EntryPoints()


@asynccontextmanager
async def serving(
    app: App,
    *,
    quart: OJSQuart | None = None,
    idle_s: float = 60.0,
    lane: bool | FastLane | None = None,
    stop: trio.Event | None = None,
    grace_s: float = 2.0,
    listening: Mapping[str, Any] | None = None,
) -> AsyncIterator[int]:
    """Serve ``app`` as an API process does on a free loopback port, which is yielded.

    Args:
        app: the application.
        quart: its Quart application; None for a new one.
        idle_s: after how many seconds an idle connection is closed.
        lane: the fast lane before hypercorn, or whether there is one; None for ``entry_points``.
        stop: begins the drain when it is set, as does the end of the block.
        grace_s: how many seconds requests have in a drain.
        listening: fields of ListenSettings.

    Raises:
        AssertionError: hypercorn or Quart has reported an error.
    """
    errors = _ErrorCollector()
    _error_log.addHandler(errors)
    given = {
        "OJS_ALLOW_INSECURE_NO_AUTH": "1",
        **(entry_points.tls.env if entry_points.tls else {}),
    }
    listen = replace(load(given).listen, idle_timeout_s=idle_s, **(listening or {}))
    config = hypercorn_config(listen)
    config.errorlog = _error_log
    stop = trio.Event() if stop is None else stop
    gate = Gate(stop)
    quart = quart or create_quart_app(app)
    gate.open(quart)
    through = lane if isinstance(lane, FastLane) else None
    if through is None and (entry_points.lane if lane is None else lane):
        through = FastLane(stop=stop, idle_timeout_s=idle_s, head_timeout_s=listen.head_timeout_s)
    if through is not None:
        through.open(app, quart if isinstance(quart, OJSQuart) else None)
    listener = open_listener("127.0.0.1", 0, listen.backlog, listen.write_timeout_s)
    port: int = listener.getsockname()[1]
    times = DrainTimes(delay_s=0, grace_s=grace_s)
    tls = Tls(listen) if listen.tls_cert else None
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                serve,
                gate,
                config,
                [listener],
                stop=stop,
                times=times,
                lane=through,
                tls=tls,
                limits=connection_limits(listen),
                h2c=listen.h2c,
                admits=partial(
                    passes_api_key_check,
                    app.settings,
                    app.access,
                    open_prefixes=getattr(
                        quart, "page_prefixes", ()
                    ),  # a test may give an ASGI app
                ),
                body_memory=app.body_memory,
                write_timeout_s=listen.write_timeout_s,
            )
        )
        try:
            yield port
        finally:
            app.drain()
            stop.set()
    _error_log.removeHandler(errors)
    assert not errors.messages


Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


async def dial(port: int, *, alpn: str | None = None) -> Stream:
    """Connect to the server of ``serving``. A TLS handshake begins with the first byte.

    ``alpn`` is the only protocol that the handshake offers; by default it offers none.
    """
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    if entry_points.tls is None:
        return stream
    context = entry_points.tls.client()
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)


async def until(condition: Any, *, timeout_s: float = 60.0) -> Any:
    """Await ``condition()`` until it is true, and return its value."""
    with trio.fail_after(timeout_s):
        while True:
            value = await condition()
            if value:
                return value
            await trio.sleep(0.02)
