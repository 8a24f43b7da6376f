"""The HTTP service of one process: hypercorn's connections with our own accept loop and drain.

hypercorn's ``worker_serve`` is not used, for three reasons. It cancels all connections when one
connection fails with an unexpected error. It stops accepting as soon as readiness turns false, so a
load balancer has no time to notice. It cannot pass a connection to the fast lane first.
"""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import trio
from hypercorn.config import Config
from hypercorn.typing import AppWrapper, ASGIFramework, LifespanState

from ojs_cluster.http.access.certificate_subject import subject_of
from ojs_cluster.http.fast_lane.server import FastLane
from ojs_cluster.http.request_body.memory import BodyMemoryBudget, BodyReservation
from ojs_cluster.server.config.settings import ListenSettings
from ojs_cluster.server.http.connections import ConnectionLimits, Connections, accept_now
from ojs_cluster.server.http.http2_protocol import MAX_HEADERS_BYTES, MAX_STREAMS
from ojs_cluster.server.http.hypercorn_connection import AdmitsRequest, BoundedServer
from ojs_cluster.server.http.hypercorn_internals import Lifespan, WorkerContext, wrap_app
from ojs_cluster.server.http.resumed_streams import resume
from ojs_cluster.server.http.send_timeouts import SendTimeouts, TimedConnection
from ojs_cluster.server.supervision.child_process import leaf_exceptions
from ojs_cluster.server.tls import Tls, TlsStream

log = logging.getLogger("ojs.http")

_LIFESPAN_SHUTDOWN_S = 5.0
MAX_MESSAGE_BYTES = 16 * 1024
"""Maximum size of a message from a WebSocket client."""
_PING_S = 20.0
"""Time in seconds between two pings of a WebSocket. The OJS specification allows at most 30."""
_BODY_MEMORY_BYTES = 64 * 1024 * 1024
_LAST_REQUESTS_S = 0.1
"""Time in seconds for which idle connections stay open after the port is closed. Clients may have
sent requests that have not arrived yet."""


@dataclass(frozen=True, slots=True)
class DrainTimes:
    """The times of a drain, in seconds.

    Attributes:
        delay_s: how long the process still accepts connections while readiness reports 503.
        grace_s: how long requests may then run before their connections are closed.
    """

    delay_s: float
    grace_s: float


def drain_times(listen: ListenSettings) -> DrainTimes:
    """Return the times of a drain.

    A tenth of the shutdown timeout, but at most one second, is kept for closing Redis and the
    process after the last request.
    """
    margin_s = min(1.0, listen.shutdown_timeout_s / 10)
    return DrainTimes(listen.shutdown_delay_s, listen.shutdown_timeout_s - margin_s)


def hypercorn_config(listen: ListenSettings) -> Config:
    """Return hypercorn's configuration with the settings that a job server needs."""
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.loglevel = "WARNING"
    config.backlog = listen.backlog
    # No maximum. With hypercorn's default of 1000 it would close busy connections of workers.
    config.keep_alive_max_requests = 2**62
    config.keep_alive_timeout = listen.idle_timeout_s
    # hypercorn's read_timeout also runs while a request is handled, which would end long polls. The
    # application limits the time to receive a body, and `Connections` the time to receive a head.
    config.read_timeout = None
    # hypercorn answers a larger head with 431 and no body. The dispatcher answers a head between
    # max_header_bytes and this limit with a complete error response.
    config.h11_max_incomplete_size = 2 * listen.max_header_bytes
    config.h2_max_header_list_size = MAX_HEADERS_BYTES
    config.h2_max_concurrent_streams = MAX_STREAMS
    config.include_server_header = False
    config.websocket_max_message_size = MAX_MESSAGE_BYTES
    config.websocket_ping_interval = _PING_S
    return config


@asynccontextmanager
async def lifespan(app: ASGIFramework, config: Config) -> AsyncIterator[None]:
    """Run an ASGI application's start-up before the block and its shutdown after it.

    Raises:
        hypercorn.utils.LifespanFailureError: the start-up of the application failed.
    """
    span = Lifespan(_wrapped(app), config, LifespanState({}))
    async with trio.open_nursery() as nursery:
        await nursery.start(span.handle_lifespan)
        await span.wait_for_startup()
        try:
            yield
        finally:
            with trio.move_on_after(_LIFESPAN_SHUTDOWN_S, shield=True):
                await span.wait_for_shutdown()
            nursery.cancel_scope.cancel()


def _admit_all(_path: bytes, _key: bytes | None, _subject: str, _origin: bytes | None) -> bool:
    return True


async def serve(
    app: ASGIFramework,
    config: Config,
    sockets: Sequence[socket.socket],
    *,
    stop: trio.Event,
    times: DrainTimes,
    lane: FastLane | None = None,
    tls: Tls | None = None,
    write_timeout_s: float = 30.0,
    limits: ConnectionLimits | None = None,
    h2c: bool = False,
    admits: AdmitsRequest = _admit_all,
    body_memory: BodyMemoryBudget | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stop`` is set, then drain, close the listening sockets and return.

    The drain serves connections that still wait to be accepted. It closes idle connections at once,
    and every other connection after the response to its current request. At the end of the grace
    period it closes the remaining connections.

    Args:
        app: the ASGI application.
        config: the configuration of hypercorn.
        sockets: listening sockets.
        stop: the event that starts the drain.
        times: the times of the drain.
        lane: the fast lane, which serves each connection before hypercorn; None for none.
        tls: the TLS handshakes; None to serve without TLS.
        write_timeout_s: maximum time in seconds for which a client may read nothing
            (``send_timeouts``).
        limits: the limits on connections.
        h2c: whether to allow HTTP/2 without TLS.
        admits: the check of API keys that HTTP/2 connections use (``hypercorn_connection``).
        body_memory: the body memory budget, which also counts incomplete heads.
        task_status: reports the start as soon as the process accepts connections.
    """
    service = _Service(
        app=_wrapped(app),
        config=config,
        context=WorkerContext(None),
        send_timeouts=SendTimeouts(write_timeout_s),
        lane=lane,
        tls=tls,
        connections=Connections(limits or ConnectionLimits(idle_s=config.keep_alive_timeout)),
        h2c=h2c,
        admits=admits,
        body_memory=body_memory or BodyMemoryBudget(_BODY_MEMORY_BYTES),
    )
    await service.run(sockets, stop, times, task_status)


@dataclass(frozen=True, slots=True)
class _Service:
    """One call of ``serve``: the objects that its connections share.

    Attributes:
        app: the application.
        config: see ``serve``.
        context: hypercorn's state; its event ``terminated`` ends idle HTTP/1 connections.
        send_timeouts: the timeouts for clients that do not read.
        lane: see ``serve``.
        tls: see ``serve``.
        connections: the current connections.
        h2c: see ``serve``.
        admits: see ``serve``.
        body_memory: see ``serve``.
    """

    app: AppWrapper
    config: Config
    context: WorkerContext
    send_timeouts: SendTimeouts
    lane: FastLane | None
    tls: Tls | None
    connections: Connections
    h2c: bool
    admits: AdmitsRequest
    body_memory: BodyMemoryBudget

    async def run(
        self,
        sockets: Sequence[socket.socket],
        stop: trio.Event,
        times: DrainTimes,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Accept and serve connections until the drain has ended; see ``serve``."""
        async with AsyncExitStack() as stack, trio.open_nursery() as maintenance:
            for sock in sockets:
                stack.enter_context(sock)
            maintenance.start_soon(self.connections.close_idle)
            if self.lane is not None:
                maintenance.start_soon(self.lane.idle_connections.run)
            async with trio.open_nursery() as serving:
                async with trio.open_nursery() as accepting:
                    self._start_accepting(sockets, accepting, serving)
                    task_status.started()
                    await stop.wait()
                    await trio.sleep(times.delay_s)
                    accepting.cancel_scope.cancel()
                serving.cancel_scope.deadline = trio.current_time() + times.grace_s
                await self._drain(sockets, serving)
            maintenance.cancel_scope.cancel()
        if serving.cancel_scope.cancelled_caught:
            log.warning(
                "connections with unfinished requests were closed at the end of the grace period"
            )

    def _start_accepting(
        self, sockets: Sequence[socket.socket], accepting: trio.Nursery, serving: trio.Nursery
    ) -> None:
        """Start the tasks that accept connections.

        Args:
            sockets: listening sockets.
            accepting: the nursery of these tasks; its end stops accepting.
            serving: the nursery of the tasks that serve connections.
        """
        for sock in sockets:
            accepting.start_soon(self._accept, sock, serving)
        if self.lane is not None:
            accepting.start_soon(self.lane.close_idle)

    async def _accept(self, listener: socket.socket, serving: trio.Nursery) -> None:
        async def serve_counted(accepted: trio.SocketStream) -> None:
            try:
                await self._serve_connection(accepted)
            finally:
                self.connections.ended()

        while True:
            for accepted in await self.connections.accept(listener):
                serving.start_soon(serve_counted, accepted)

    async def _drain(self, sockets: Sequence[socket.socket], serving: trio.Nursery) -> None:
        """Close the port and idle connections; other connections close after their response.

        Args:
            sockets: listening sockets, which no task accepts from.
            serving: the nursery of the tasks that serve connections, with its deadline set.
        """
        # hypercorn shields its sends from the deadline of the nursery.
        self.send_timeouts.end(serving.cancel_scope.deadline)
        for sock in sockets:
            for stream in _accept_waiting_and_close(sock):
                serving.start_soon(self._serve_connection, stream)
        await trio.sleep(_LAST_REQUESTS_S)
        if self.tls is not None:
            self.tls.drain()
        if self.lane is not None:
            self.lane.drain()
            # The lane may still pass connections to hypercorn, which refuses their requests after
            # `terminated`. So that event is set later.
            await trio.sleep(_LAST_REQUESTS_S)
        await self.context.terminated.set()
        self.connections.drain()

    async def _serve_connection(self, accepted: trio.SocketStream) -> None:
        with self.connections.admit(accepted) as admitted:
            try:
                if not admitted:
                    return
                stream = accepted if self.tls is None else await self.tls.secure(accepted)
                if stream is None:
                    return
                already_read = b""
                # Only hypercorn can serve HTTP/2, so the lane does not read such a connection.
                if self.lane is not None and not _negotiated_http2(stream):
                    rest = await self.lane.serve(stream)
                    if rest is None:
                        return
                    already_read = rest
                await self._serve_with_hypercorn(stream, already_read)
            except* Exception as group:
                report(group)
            finally:
                accepted.socket.close()

    async def _serve_with_hypercorn(
        self, stream: trio.SocketStream | TlsStream, already_read: bytes
    ) -> None:
        timed = TimedConnection(stream, self.send_timeouts)
        with BodyReservation(self.body_memory) as reservation:
            server = BoundedServer(
                timed.wrap(self.app),
                self.config,
                self.context,
                resume(stream, already_read, timed.send_all),
                h2c=self.h2c,
                admits=self.admits,
                reservation=reservation,
                tls_subject=subject_of(stream),
            )
            await self.connections.serve(server)


def _negotiated_http2(stream: trio.SocketStream | TlsStream) -> bool:
    return isinstance(stream, trio.SSLStream) and stream.selected_alpn_protocol() == "h2"


def _accept_waiting_and_close(listener: socket.socket) -> list[trio.SocketStream]:
    """Close a listening socket; return the connections that waited in its queue.

    Their clients see open connections, and may already have sent requests.
    """
    streams = []
    with listener, suppress(OSError):  # the queue is empty, or the process has no descriptor left
        while True:
            streams.append(accept_now(listener))
    return streams


def report(group: BaseExceptionGroup[Exception]) -> None:
    """Log the errors that ended a connection; other connections continue."""
    for error in leaf_exceptions(group):
        # Not the message, because hypercorn's exceptions quote the client's data with its API key.
        # Only the last two stack frames, because a client that sends invalid data must not fill the
        # log.
        log.warning(
            "connection ended by an unexpected %s",
            type(error).__name__,
            extra={"stack": "".join(traceback.format_tb(error.__traceback__, limit=-2))},
        )


def _wrapped(app: ASGIFramework) -> AppWrapper:
    wrapped: AppWrapper = wrap_app(app, 0, "asgi")
    return wrapped
