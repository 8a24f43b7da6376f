"""One API process: opens the store, serves HTTP on inherited sockets, drains at a stop signal.

It accepts connections when the store is open, or after some seconds without Redis: liveness must
not depend on Redis. Until the store is open, ``Gate`` answers liveness probes and refuses all other
requests. It does not accept at once, because another process on the same sockets may serve already,
and clients would be refused for no reason.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import trio
from hypercorn.typing import ASGIFramework

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.http.app import App, body_memory_budget_for
from ojs_cluster.http.dispatch import passes_api_key_check
from ojs_cluster.http.fast_lane.server import FastLane
from ojs_cluster.http.hypercorn.asgi import read_head, send_response
from ojs_cluster.http.hypercorn.quart_app import create_quart_app
from ojs_cluster.http.routes import ROUTES
from ojs_cluster.http.settings import HttpSettings
from ojs_cluster.http.starting import starting_response
from ojs_cluster.http.traffic import Traffic
from ojs_cluster.server.api_keys import ApiKeys
from ojs_cluster.server.audit import make_audit
from ojs_cluster.server.config.load import Settings
from ojs_cluster.server.config.settings import ListenSettings
from ojs_cluster.server.http.connections import ConnectionLimits, max_connections_possible
from ojs_cluster.server.http.http_server import drain_times, hypercorn_config, lifespan, serve
from ojs_cluster.server.processes.child_process import ChildProcess, run_child_process
from ojs_cluster.server.processes.store_opening import open_store_when_ready
from ojs_cluster.server.telemetry import tracing
from ojs_cluster.server.tls import Tls
from ojs_cluster.store.fetch.long_poll import Waiters

log = logging.getLogger("ojs.http")

_OPENING_S = 2.0
"""Seconds for which connections wait in the sockets' queues; less than a probe's usual timeout."""


class Gate:
    """An ASGI application that answers for another one until that one is ready.

    While the process drains, it announces to HTTP/1.1 clients that their connection closes. So no
    client sends its next request into a connection that is about to end.
    """

    def __init__(self, stop: trio.Event) -> None:
        self._stop = stop
        self._target: ASGIFramework | None = None
        self.opened = trio.Event()

    @property
    def is_open(self) -> bool:
        """Whether requests reach the application."""
        return self._target is not None

    def open(self, target: ASGIFramework) -> None:
        """Pass every further request to the application."""
        self._target = target
        self.opened.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http" and scope["http_version"] == "1.1":
            send = partial(self._send, send)
        if self._target is not None:
            await self._target(scope, receive, send)
        elif scope["type"] == "http":
            await send_response(starting_response(read_head(scope)), send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1013})

    async def _send(self, send: Any, message: Any) -> None:
        # Checked when the response starts, not the request: a long poll may begin long before the
        # drain. A client that reused the connection would lose its request, and hypercorn would
        # wait for it until the grace period ends.
        if message["type"] == "http.response.start" and self._stop.is_set():
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)


async def work(child: ChildProcess) -> None:
    """Serve until ``child.stop``.

    Raises:
        StartRefused: the data in Redis cannot be used as configured.
    """
    settings = child.settings
    config = hypercorn_config(settings.listen)
    counters = child.shared_memory(Traffic.size(ROUTES, settings.listen.workers))
    traffic = Traffic(ROUTES, counters, child.slot)
    audit = make_audit(settings, child.name, traffic)
    keys = ApiKeys(settings.access, os.environ, audit)
    await keys.load(child.stop)
    http = http_settings(settings)
    body_memory = body_memory_budget_for(http)
    gate = Gate(child.stop)
    lane = fast_lane(settings.listen, child.stop)
    tls = Tls(settings.listen) if settings.listen.tls_cert else None
    sockets = [socket.socket(fileno=fd) for fd in child.listen_fds]
    times = drain_times(settings.listen)
    served = trio.Event()

    async with trio.open_nursery() as nursery:

        async def serve_all() -> None:
            with trio.move_on_after(_OPENING_S):
                await _first_of(gate.opened, child.stop)
            await serve(
                gate,
                config,
                sockets,
                stop=child.stop,
                times=times,
                lane=lane,
                tls=tls,
                write_timeout_s=settings.listen.write_timeout_s,
                limits=connection_limits(settings.listen),
                h2c=settings.listen.h2c,
                admits=partial(passes_api_key_check, http, keys.access),
                body_memory=body_memory,
            )
            served.set()
            if not gate.is_open:
                nursery.cancel_scope.cancel()  # without connections the store is not needed

        nursery.start_soon(keys.watch)
        nursery.start_soon(serve_all)
        async with contextlib.AsyncExitStack() as stack:
            store = await open_store_when_ready(stack, settings)
            await store.partitions.publish_default(store)
            spans = await stack.enter_async_context(tracing(child))
            app = App(
                store=store,
                waiters=Waiters(),
                settings=http,
                shared_body_memory=body_memory,
                access=keys.access,
                traffic=traffic,
                audit=audit,
                tracing=spans,
            )
            quart = create_quart_app(app)
            await stack.enter_async_context(lifespan(quart, config))
            gate.open(quart)
            if lane is not None:
                lane.open(app)
            # Objects that exist now live as long as the process: the collector can skip them.
            gc.freeze()
            nursery.start_soon(_drain, child.stop, app)
            nursery.start_soon(audit.run, store)
            child.ready()
            await served.wait()
            await audit.finish(store)
        nursery.cancel_scope.cancel()


def fast_lane(listen: ListenSettings, stop: trio.Event) -> FastLane | None:
    """Return the fast lane of this process, or None when it is switched off."""
    if not listen.fast_lane:
        return None
    return FastLane(
        stop=stop, idle_timeout_s=listen.idle_timeout_s, head_timeout_s=listen.head_timeout_s
    )


def connection_limits(listen: ListenSettings) -> ConnectionLimits:
    """Return the limits on connections, reduced to what the limit on open files allows."""
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
    """Return the settings of the HTTP layer, with those that it shares with other sections."""
    return replace(
        settings.http,
        limits=settings.limits,
        max_head=settings.listen.max_header_bytes,
        body_timeout_s=settings.listen.read_timeout_s,
    )


async def _first_of(*events: trio.Event) -> None:
    async def wait(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for event in events:
            nursery.start_soon(wait, event)


async def _drain(stop: trio.Event, app: App) -> None:
    await stop.wait()
    app.drain()


if __name__ == "__main__":
    sys.exit(run_child_process(work))
