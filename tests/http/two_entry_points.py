"""Two servers that differ only in their entry points, and clients that send both the same bytes.

Each server has its own Redis, and both get the same requests in the same order. So their responses
must be the same except for ids and times. The servers run in a thread of their own, because the
clients are blocking sockets, which hypothesis can drive.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from queue import Queue
from typing import Any, Final

import h11
import orjson
import trio

from ojs_cluster.http.request_body.limits import BodyLimits
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import open_app, serving
from tests.support.certificates import Certificates
from tests.support.servers import own_server

MAX_BODY: Final = 2000
LAST: Final = (
    b"GET /ojs/v1/jobs/01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee HTTP/1.1\r\nHost: x\r\n"
    b"X-Request-Id: the-last\r\nConnection: close\r\n\r\n"
)
"""Ends a conversation: its response shows that the server has read all requests before it."""

_DEADLINE_S: Final = 30.0
_START_S: Final = 120.0
_CHANGING: Final = [
    (re.compile(rb"date: [^\r]{29}"), b"date: <date>"),
    (re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), b"<id>"),
    (re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), b"<time>"),
    (re.compile(rb"lease_[0-9a-f]{18}"), b"<lease>"),
    (re.compile(rb"req_[0-9a-f]{32}"), b"<request>"),
]
_PAGE: Final = re.compile(
    rb'(content-length: )(\d+)(\r\n(?:[^\r\n]+\r\n)*\r\n[^\r]*?"next_cursor":")([\w-]+)(")'
)


@dataclass(frozen=True, slots=True)
class TwoEntryPoints:
    """The ports of two servers: one with hypercorn alone, and one with the fast lane before it.

    Clients connect to the second one over ``tls``, if it is set.
    """

    hypercorn: int
    lane: int
    tls: ssl.SSLContext | None = None

    def answers(self, *pieces: bytes) -> tuple[bytes, bytes]:
        """Return the responses of both servers to these pieces, without ids and times."""
        first = converse(self.hypercorn, pieces)
        second = converse(self.lane, pieces, self.tls)
        return masked(first), masked(second)


@contextlib.contextmanager
def two_entry_points(
    directory: Path, *, tls: Certificates | None = None, lane: bool = True
) -> Iterator[TwoEntryPoints]:
    """Start both servers, each on an empty Redis; stop them after the block.

    With ``tls`` the second one is served over it, and without its fast lane if that is not wanted.
    """
    with (
        own_server(directory / "hypercorn", cluster=False) as first,
        own_server(directory / "lane", cluster=False) as second,
    ):
        started: Queue[tuple[TwoEntryPoints, trio.lowlevel.TrioToken, trio.Event] | BaseException]
        started = Queue()
        # A daemon: one that does not start must not keep the whole run from its end.
        arguments = (first, second, tls, lane, started)
        thread = threading.Thread(target=_run, args=arguments, daemon=True)
        thread.start()
        found = started.get(timeout=_START_S)
        if isinstance(found, BaseException):
            raise found
        entry_points, token, stop = found
        try:
            yield entry_points
        finally:
            token.run_sync_soon(stop.set)
            thread.join(_DEADLINE_S)
            assert not thread.is_alive()


def _run(
    first: Embedded,
    second: Embedded,
    tls: Certificates | None,
    lane: bool,
    started: Queue[object],
) -> None:
    async def main() -> None:
        # A body that does not end is waited for until its client ends, however slow the machine.
        settings: dict[str, Any] = {"bodies": BodyLimits(MAX_BODY, timeout_s=60.0, linger_s=60.0)}
        secured = {name[4:].lower(): path for name, path in tls.env.items()} if tls else {}
        async with (
            open_app(first, **settings) as one,
            open_app(second, **settings) as two,
            serving(one, lane=False, idle_s=60) as hypercorn,
            serving(two, lane=lane, idle_s=60, listening=secured) as other,
        ):
            stop = trio.Event()
            entry_points = TwoEntryPoints(hypercorn, other, None if tls is None else tls.client())
            started.put((entry_points, trio.lowlevel.current_trio_token(), stop))
            await stop.wait()

    try:
        trio.run(main)
    except BaseException as error:
        started.put(error)
        raise


def converse(port: int, pieces: Sequence[bytes], tls: ssl.SSLContext | None = None) -> bytes:
    """Send the pieces on one connection and give all that comes back until it is closed.

    If they end in the middle of a request, the client ends its side, which it cannot over TLS.
    """
    with contextlib.ExitStack() as stack:
        sock = socket.create_connection(("127.0.0.1", port), timeout=_DEADLINE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname="127.0.0.1")
        stack.enter_context(sock)
        with contextlib.suppress(ConnectionError):
            for number, piece in enumerate(pieces):
                if number:
                    time.sleep(0.0002)  # most pieces are then read one by one
                sock.sendall(piece)
            if ends_in(b"".join(pieces)) is End.MIDDLE:
                sock.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := sock.recv(65_536):
                received += data
        return received


def _without_cursor(page: re.Match[bytes]) -> bytes:
    """A page whose cursor tells only of the index, shard and queue that it leads to.

    The rest is the time of an entry and how many of the same time were passed over, of any length.
    """
    header, length, between, cursor, end = page.groups()
    place = orjson.loads(base64.urlsafe_b64decode(cursor + b"=" * (-len(cursor) % 4)))
    shown = b"<cursor %b>" % orjson.dumps(place[:3])
    return b"%b%d%b%b%b" % (header, int(length) - len(cursor), between, shown, end)


def masked(answer: bytes) -> bytes:
    """The answer without ids and times, all of which have a fixed length, and times in cursors."""
    answer = _PAGE.sub(_without_cursor, answer)
    for pattern, instead in _CHANGING:
        answer = pattern.sub(instead, answer)
    return answer


class End(Enum):
    """Where some bytes leave a server that reads them."""

    CLOSED = 1
    """The connection ends after its answers."""
    MIDDLE = 2
    """In a request: it waits for more."""
    BETWEEN = 3
    """Between two requests. If the client closes its side there, a server may omit the response,
    so this case is not compared."""


def ends_in(data: bytes) -> End:
    """What h11 makes of these bytes."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=131_072)
    connection.receive_data(data)
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return End.CLOSED
        if event is h11.NEED_DATA:
            between = connection.their_state is h11.IDLE and not connection.trailing_data[0]
            return End.BETWEEN if between else End.MIDDLE
        if isinstance(event, h11.EndOfMessage):
            connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE:
                return End.CLOSED
            connection.start_next_cycle()
