"""One API process: opens the store, serves HTTP on inherited sockets, drains at a stop signal.

The process accepts connections as soon as the store is open. If that takes longer than
``_OPENING_S``, the process accepts connections anyway, because liveness must not depend on Redis.
Until the store is open, ``Gate`` answers liveness probes and refuses all other requests. (Rejected:
to accept connections at once. Another process may serve the same sockets already, so clients would
be refused for no reason.)
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import sys
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.typing import ASGIFramework

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.http.admission import passes_api_key_check
from ojs_cluster.http.app import App, body_memory_budget_for
from ojs_cluster.http.fast_lane.server import FastLane
from ojs_cluster.http.hypercorn.asgi import read_head, send_response
from ojs_cluster.http.hypercorn.quart_app import create_quart_app
from ojs_cluster.http.problem_watch import watch_problems
from ojs_cluster.http.problems import Found
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.settings import HttpSettings
from ojs_cluster.http.starting import starting_response
from ojs_cluster.http.traffic import Traffic
from ojs_cluster.server.api_keys import ApiKeys
from ojs_cluster.server.audit import make_audit
from ojs_cluster.server.config.load import Settings, shown_variables
from ojs_cluster.server.config.settings import ListenSettings
from ojs_cluster.server.http.connections import ConnectionLimits, max_connections_possible
from ojs_cluster.server.http.http_server import drain_times, hypercorn_config, lifespan, serve
from ojs_cluster.server.processes.store_opening import open_store_when_ready
from ojs_cluster.server.supervision.child_process import (
    ChildProcess,
    StartRefused,
    run_child_process,
)
from ojs_cluster.server.telemetry import tracing
from ojs_cluster.server.tls import Tls
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.long_poll import Waiters
from ojs_cluster.store.ground.process_state.suspect_schemas import SuspectSchemas
from ojs_cluster.store.operators.migrations.layout import wait_until_outdated
from ojs_cluster.store.operators.operations.processes import describe_process, report_process

if TYPE_CHECKING:
    from ojs_cluster.ui.problems.for_api import ProblemsForApi

log = logging.getLogger("ojs.http")

_OPENING_S = 2.0
"""Maximum time in seconds for which new connections wait until the store is open. It is shorter
than the usual timeout of a liveness probe."""
_WEBSOCKET_TRY_AGAIN_LATER = 1013


class Gate:
    """An ASGI application that answers requests until the real application is ready.

    While the process drains, the gate adds ``Connection: close`` to HTTP/1.1 responses. So no
    client sends its next request on a connection that is about to close.
    """

    def __init__(self, stop: trio.Event, cors_origins: tuple[str, ...] = ()) -> None:
        self._stop = stop
        self._cors_origins = cors_origins
        self._app: ASGIFramework | None = None
        self.opened = trio.Event()

    @property
    def is_open(self) -> bool:
        """Whether requests reach the application."""
        return self._app is not None

    def open(self, app: ASGIFramework) -> None:
        """Pass every further request to ``app``."""
        self._app = app
        self.opened.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http" and scope["http_version"] == "1.1":
            send = partial(self._send, send)
        if self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            response = starting_response(read_head(scope), self._cors_origins)
            await send_response(response, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _WEBSOCKET_TRY_AGAIN_LATER})

    async def _send(self, send: Any, message: Any) -> None:
        # The drain may begin while a request runs, such as a long poll. So `stop` is checked when
        # the response starts. Without the header, the client could send its next request on a
        # connection that closes, and hypercorn would wait for it until the grace period ends.
        if message["type"] == "http.response.start" and self._stop.is_set():
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)


async def work(child: ChildProcess) -> None:
    """Serve until ``child.stop``.

    Raises:
        StartRefused: the data in Redis cannot be used as configured.
    """
    await _ApiProcess(child).run()


class _ApiProcess:
    """The objects of one API process: its HTTP service and, once Redis answers, its application."""

    def __init__(self, child: ChildProcess) -> None:
        settings = child.settings
        self._child = child
        self._config = hypercorn_config(settings.listen)
        self._traffic, self._suspects = _map_shared_memory(child)
        self._audit = make_audit(settings, child.name, self._traffic)
        self._api_keys = ApiKeys(settings.access, os.environ, self._audit)
        self._http = http_settings(settings)
        self._body_memory = body_memory_budget_for(self._http)
        self._gate = Gate(child.stop, self._http.cors_origins)
        self._lane = fast_lane(settings.listen, child.stop)
        self._drained = trio.Event()
        self._refusal: StartRefused | None = None

    async def run(self) -> None:
        """Serve until the child process has to stop, then drain.

        Raises:
            StartRefused: the data in Redis cannot be used as configured, or not any more.
        """
        child = self._child
        await self._api_keys.load(child.stop)
        tls = Tls(child.settings.listen) if child.settings.listen.tls_cert else None
        sockets = [socket.socket(fileno=fd) for fd in child.listen_fds]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._api_keys.watch)
            nursery.start_soon(self._serve, sockets, tls, nursery.cancel_scope)
            async with contextlib.AsyncExitStack() as stack:
                store = await open_store_when_ready(stack, child.settings)
                store.schemas.suspects = self._suspects
                await store.partitions.publish_default(store)
                await store.webhooks.start(store, nursery)
                await store.schemas.start(store, nursery)
                await store.queue_defaults.start(store, nursery)
                app = await self._start_app(stack, store)
                nursery.start_soon(_drain, child.stop, app)
                nursery.start_soon(self._audit.run, store)
                nursery.start_soon(app.maintenance.run, store)
                nursery.start_soon(self._drain_when_outdated, store)
                nursery.start_soon(report_process, store, describe_process(store, "api"))
                nursery.start_soon(watch_problems, app)
                child.ready()
                await self._drained.wait()
                await self._audit.finish(store)
            nursery.cancel_scope.cancel()
        if self._refusal is not None:
            raise self._refusal

    async def _drain_when_outdated(self, store: Store) -> None:
        """Drain when a later version has begun a migration that this version cannot serve."""
        reason = await wait_until_outdated(store)
        log.error("draining: %s", reason)
        self._refusal = StartRefused(str(reason))
        self._child.stop.set()

    async def _serve(
        self, sockets: list[socket.socket], tls: Tls | None, process_scope: trio.CancelScope
    ) -> None:
        """Serve HTTP until the drain has ended.

        Args:
            sockets: listening sockets.
            tls: the TLS handshakes; None to serve without TLS.
            process_scope: cancelled after a drain that began before the store was open. The
                process has no connections any more and does not need the store.
        """
        child, listen = self._child, self._child.settings.listen
        with trio.move_on_after(_OPENING_S):
            await _first_of(self._gate.opened, child.stop)
        await serve(
            self._gate,
            self._config,
            sockets,
            stop=child.stop,
            times=drain_times(listen),
            lane=self._lane,
            tls=tls,
            write_timeout_s=listen.write_timeout_s,
            limits=connection_limits(listen),
            h2c=listen.h2c,
            admits=partial(
                passes_api_key_check,
                self._http,
                self._api_keys.access,
                open_prefixes=child.settings.ui.prefixes,
            ),
            body_memory=self._body_memory,
        )
        self._drained.set()
        if not self._gate.is_open:
            process_scope.cancel()

    async def _start_app(self, stack: contextlib.AsyncExitStack, store: Store) -> App:
        """Start the application on the open store and pass requests to it.

        The end of ``stack`` stops the application.
        """
        app = App(
            store=store,
            waiters=Waiters(),
            settings=self._http,
            shared_body_memory=self._body_memory,
            access=self._api_keys.access,
            traffic=self._traffic,
            audit=self._audit,
            configuration=shown_variables(os.environ),
            tracing=await stack.enter_async_context(tracing(self._child)),
            find_problems=_find_problems,
        )
        quart = create_quart_app(app)
        if self._child.settings.ui.mode != "off":
            # Imported here, because most processes serve no dashboard.
            from ojs_cluster.ui.quart_views import add_dashboard

            settings = self._child.settings
            proxies = TrustedProxies(settings.listen.trusted_proxies)
            add_dashboard(quart, app, settings.ui, proxies, settings.oidc)
        await stack.enter_async_context(lifespan(quart, self._config))
        self._gate.open(quart)
        if self._lane is not None:
            self._lane.open(app, quart)
        # The objects that exist now live until the process ends, so the garbage collector need
        # not check them.
        gc.freeze()
        return app


async def _find_problems(app: App) -> Found:
    return await _problems_for_api().find(app)


@cache
def _problems_for_api() -> ProblemsForApi:
    # Imported here, because most processes look for no problems.
    from ojs_cluster.ui.problems.for_api import ProblemsForApi

    return ProblemsForApi()


def _map_shared_memory(child: ChildProcess) -> tuple[Traffic, SuspectSchemas]:
    """Return what the API processes share: the counters of requests, and the suspect schemas.

    The suspect schemas come first, because their place does not depend on the routes, which the
    supervisor does not know.
    """
    processes = child.settings.listen.workers
    size = SuspectSchemas.size(processes)
    memory = child.shared_memory(size + Traffic.size(ROUTES, processes))
    if memory is None:
        return Traffic(ROUTES, process=child.index), SuspectSchemas()
    shared = memoryview(memory)
    suspects = SuspectSchemas(shared[:size], child.index)
    return Traffic(ROUTES, shared[size:], child.index), suspects


def fast_lane(listen: ListenSettings, stop: trio.Event) -> FastLane | None:
    """Return the fast lane of this process, or None when it is switched off."""
    if not listen.fast_lane:
        return None
    return FastLane(
        stop=stop, idle_timeout_s=listen.idle_timeout_s, head_timeout_s=listen.head_timeout_s
    )


def connection_limits(listen: ListenSettings) -> ConnectionLimits:
    """Return the limits on connections; the limit on open files may reduce their number."""
    possible = max_connections_possible(listen.max_connections)
    if possible < listen.max_connections:
        log.warning(
            "OJS_MAX_CONNECTIONS is %d; the limit on open files allows %d",
            listen.max_connections,
            possible,
        )
    return ConnectionLimits(
        max_connections=possible,
        max_per_client=listen.max_connections_per_client,
        proxies=TrustedProxies(listen.trusted_proxies),
        idle_s=listen.idle_timeout_s,
        head_s=listen.head_timeout_s,
    )


def http_settings(settings: Settings) -> HttpSettings:
    """Return the settings of the HTTP layer, with values of other sections."""
    return replace(
        settings.http,
        limits=settings.limits,
        max_head=settings.listen.max_header_bytes,
        bodies=replace(settings.bodies, timeout_s=settings.listen.read_timeout_s),
    )


async def _first_of(*events: trio.Event) -> None:
    """Wait until any of the events is set."""

    async def wait(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(wait, event)


async def _drain(stop: trio.Event, app: App) -> None:
    """Drain ``app`` when ``stop`` is set: its readiness becomes false and its long polls end."""
    await stop.wait()
    app.drain()


if __name__ == "__main__":
    sys.exit(run_child_process(work))
