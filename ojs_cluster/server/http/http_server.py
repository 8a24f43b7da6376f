"""One process's HTTP service: hypercorn's connections under our own accept loop and drain.

hypercorn's ``worker_serve`` is not used, for three reasons. An unexpected error in one connection
cancels all others. It stops accepting as soon as readiness turns false, so a load balancer has no
time to notice. Its accept loop cannot hand a connection to the fast lane first.
"""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ASGIFramework, LifespanState
from hypercorn.utils import wrap_app

from ojs_cluster.http.access.certificate_subject import subject_of
from ojs_cluster.http.body_memory import BodyMemoryBudget, BodyReservation
from ojs_cluster.http.fast_lane.server import FastLane
from ojs_cluster.server.config.settings import ListenSettings
from ojs_cluster.server.http.connections import ConnectionLimits, Connections
from ojs_cluster.server.http.hypercorn_connection import (
    MOST_HEADERS_BYTES,
    MOST_STREAMS,
    Admits,
    BoundedServer,
)
from ojs_cluster.server.http.send_timeouts import SendTimeouts, TimedConnection
from ojs_cluster.server.processes.child_process import leaf_exceptions
from ojs_cluster.server.tls import Tls, TlsStream

log = logging.getLogger("ojs.http")

SendAll = Callable[[bytes], Awaitable[None]]

_LIFESPAN_SHUTDOWN_S = 5.0
_BODY_MEMORY_BYTES = 64 * 1024 * 1024
_LAST_REQUESTS_S = 0.1
"""How long idle connections stay open after the port is closed: requests may be on their way."""


@dataclass(frozen=True, slots=True)
class DrainTimes:
    """How a drain proceeds, in seconds.

    Attributes:
        delay_s: the process still accepts, while readiness already reports 503.
        grace_s: for requests in flight after the process stops accepting.
    """

    delay_s: float
    grace_s: float


def drain_times(listen: ListenSettings) -> DrainTimes:
    """Return the drain times: the last tenth of the timeout, at most a second, is for closing."""
    margin = min(1.0, listen.shutdown_timeout_s / 10)
    return DrainTimes(listen.shutdown_delay_s, listen.shutdown_timeout_s - margin)


def hypercorn_config(listen: ListenSettings) -> Config:
    """Return hypercorn's configuration with the settings that a job server needs."""
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.loglevel = "WARNING"
    config.backlog = listen.backlog
    # 1000 by default, which would close busy keep-alive connections of workers.
    config.keep_alive_max_requests = 2**62
    config.keep_alive_timeout = listen.idle_timeout_s
    # hypercorn's read_timeout runs while a request is answered, which would cut long polls. The
    # application bounds the time of bodies, `connections` that of heads.
    config.read_timeout = None
    # Above this hypercorn answers 431 without a body. Between the limits the dispatcher answers.
    config.h11_max_incomplete_size = 2 * listen.max_header_bytes
    config.h2_max_header_list_size = MOST_HEADERS_BYTES
    config.h2_max_concurrent_streams = MOST_STREAMS
    config.include_server_header = False
    return config


class ResumedStream:
    """A stream of which the first bytes have been read: it gives them again, then goes on.

    It has what hypercorn's ``TCPServer`` uses of a stream, which ``tests/server/test_hypercorn.py``
    pins. A ``trio.abc.Stream`` would have to promise more. hypercorn tells a stream with TLS by its
    ``do_handshake``, so that is ``ResumedTlsStream``.
    """

    def __init__(
        self, stream: trio.SocketStream, read: bytes, send_all: SendAll | None = None
    ) -> None:
        """Return ``read`` first, then the bytes of ``stream``; send with ``send_all`` if given."""
        self.receive_some = _Rest(stream, read).receive_some
        self.socket = stream.socket
        self.send_all = send_all or stream.send_all
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose


class ResumedTlsStream:
    """As ``ResumedStream``, over TLS whose handshake is done."""

    def __init__(self, stream: TlsStream, read: bytes, send_all: SendAll | None = None) -> None:
        """As for ``ResumedStream``."""
        self.receive_some = _Rest(stream, read).receive_some
        self.transport_stream = stream.transport_stream
        self.do_handshake = stream.do_handshake
        self.selected_alpn_protocol = stream.selected_alpn_protocol
        self.send_all = send_all or stream.send_all
        self.aclose = stream.aclose


class _Rest:
    """The reading side of both resumed streams."""

    def __init__(self, stream: trio.SocketStream | TlsStream, read: bytes) -> None:
        self._stream = stream
        self._read = read

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return the bytes that were read before, then those of the stream."""
        if self._read:
            await trio.lowlevel.checkpoint()
            given, self._read = self._read[:max_bytes], self._read[max_bytes or len(self._read) :]
            return given
        return await self._stream.receive_some(max_bytes)


@asynccontextmanager
async def lifespan(app: ASGIFramework, config: Config) -> AsyncIterator[None]:
    """Run an ASGI application's start-up before the block and its shutdown after it.

    Raises:
        hypercorn.utils.LifespanFailureError: its start-up failed.
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
    admits: Admits = _admit_all,
    body_memory: BodyMemoryBudget | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``stop`` is set, then drain and return; listening sockets are closed.

    Connections that wait to be accepted when the drain begins are served like open ones. The drain
    closes idle connections, closes those with a request in flight after its response, and cuts the
    rest after the grace period.

    Args:
        app: the ASGI application.
        config: of hypercorn.
        sockets: listening sockets.
        stop: begins the drain.
        times: of the drain.
        lane: serves each connection first, until it hands it to hypercorn.
        tls: each connection begins with a handshake, which delays no other.
        write_timeout_s: a client that reads nothing for this long is disconnected
            (``send_timeouts``).
        limits: on the connections.
        h2c: allow HTTP/2 in clear text.
        admits: the key check of HTTP/2 requests; a connection may send only few that it refuses.
        room: the body memory budget, which counts incomplete heads.
        task_status: started once the process accepts connections.
    """
    context = WorkerContext(None)
    patience = SendTimeouts(write_timeout_s)
    open_now = Connections(limits or ConnectionLimits(idle_s=config.keep_alive_timeout))
    served = partial(_connection, _wrapped(app), config, context, patience, lane, tls, open_now)
    connection = partial(served, h2c, admits, body_memory or BodyMemoryBudget(_BODY_MEMORY_BYTES))
    # Copies: the accept loop closes its own, and waiting connections are accepted after that.
    copies = [trio.socket.from_stdlib_socket(sock.dup()) for sock in sockets]
    async with AsyncExitStack() as held, trio.open_nursery() as maintenance:
        for sock in sockets:
            held.enter_context(sock)
        maintenance.start_soon(open_now.close_idle)
        if lane is not None:
            maintenance.start_soon(lane.idle_connections.run)
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for copy in copies:
                    listener = trio.SocketListener(copy)
                    accepting.start_soon(_accept, listener, open_now, connection, connections)
                if lane is not None:
                    accepting.start_soon(lane.close_idle)
                task_status.started()
                await stop.wait()
                await trio.sleep(times.delay_s)
                accepting.cancel_scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + times.grace_s
            patience.end(connections.cancel_scope.deadline)  # hypercorn shields what it sends
            for sock in sockets:
                for stream in _close_emptied(sock):
                    connections.start_soon(connection, stream)
            await _end_idle(tls, lane)
            await context.terminated.set()
            open_now.drain()
        maintenance.cancel_scope.cancel()
    if connections.cancel_scope.cancelled_caught:
        log.warning("requests were cut at the end of the grace period")


async def _accept(
    listener: trio.SocketListener,
    open_now: Connections,
    connection: Callable[[trio.SocketStream], Awaitable[None]],
    connections: trio.Nursery,
) -> None:
    async def serve(accepted: trio.SocketStream) -> None:
        try:
            await connection(accepted)
        finally:
            open_now.ended()

    async with listener:
        while True:
            connections.start_soon(serve, await open_now.accept(listener))


async def _end_idle(tls: Tls | None, lane: FastLane | None) -> None:
    """Close idle connections, after a short time for requests that are on their way."""
    await trio.sleep(_LAST_REQUESTS_S)
    if tls is not None:
        tls.drain()
    if lane is not None:
        lane.drain()
        # hypercorn may have to answer what the lane still reads; it ends at `terminated`.
        await trio.sleep(_LAST_REQUESTS_S)


def _close_emptied(listener: socket.socket) -> list[trio.SocketStream]:
    """Close a listening socket; return the connections that waited in its queue.

    To their clients they are open, and requests may be on them.
    """
    streams = []
    with listener, suppress(OSError):  # the queue is empty, or no descriptor is left
        while True:
            accepted, _ = listener.accept()
            streams.append(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))
    return streams


async def _connection(
    app: AppWrapper,
    config: Config,
    context: WorkerContext,
    patience: SendTimeouts,
    lane: FastLane | None,
    tls: Tls | None,
    open_now: Connections,
    h2c: bool,
    admits: Admits,
    body_memory: BodyMemoryBudget,
    accepted: trio.SocketStream,
) -> None:
    with open_now.admit(accepted) as admitted:
        try:
            if not admitted:
                return
            stream = accepted if tls is None else await tls.secure(accepted)
            if stream is None:
                return
            # hypercorn serves HTTP/2. The lane does not read negotiated HTTP/2 first.
            is_h2 = isinstance(stream, trio.SSLStream) and stream.selected_alpn_protocol() == "h2"
            read = b"" if lane is None or is_h2 else await lane.serve(stream)
            if read is not None:
                reader = TimedConnection(stream, patience)
                resumed = _resumed(stream, read, reader.send_all)
                served = reader.serves(app)
                with BodyReservation(body_memory) as reservation:
                    server = BoundedServer(
                        served,
                        config,
                        context,
                        resumed,
                        h2c=h2c,
                        admits=admits,
                        reservation=reservation,
                        tls_subject=subject_of(stream),
                    )
                    await open_now.serve(server)
        except* Exception as group:
            report(group)
        finally:
            await trio.aclose_forcefully(accepted)


def report(group: BaseExceptionGroup[Exception]) -> None:
    """Log the error that ended a connection; other connections go on."""
    for error in leaf_exceptions(group):
        # Only the stack: hypercorn's exceptions quote the client's data, its key included, and a
        # client that sends nonsense must not fill the log.
        log.warning(
            "connection ended by an unexpected %s",
            type(error).__name__,
            extra={"stack": "".join(traceback.format_tb(error.__traceback__, limit=-2))},
        )


def _resumed(stream: trio.SocketStream | TlsStream, read: bytes, send_all: SendAll) -> Any:
    """Return the stream for hypercorn, which annotates only the TLS stream but takes both."""
    if isinstance(stream, trio.SocketStream):
        return ResumedStream(stream, read, send_all)
    return ResumedTlsStream(stream, read, send_all)


def _wrapped(app: ASGIFramework) -> AppWrapper:
    wrapped: AppWrapper = wrap_app(app, 0, "asgi")
    return wrapped
