"""Send the bytes that a client would send, and read the response as that client would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import h11
import trio

_READ: Final = 65_536
_DEADLINE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Wire:
    """A server on a loopback port. Each request gets a connection of its own."""

    port: int

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """Send one request with exactly these headers, in this order, and return the response.

        Args:
            method: the method.
            path: the raw path with its query.
            headers: the headers without ``Host`` and ``Content-Length``.
            body: the body; None for none, and then there is no ``Content-Length``.
        """
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        with trio.fail_after(_DEADLINE_S):
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            async with stream:
                await stream.send_all("\r\n".join([*lines, "", ""]).encode() + (body or b""))
                return await _read(stream, method, path)


async def _read(stream: trio.SocketStream, method: str, path: str) -> Answer:
    protocol = h11.Connection(h11.CLIENT)
    protocol.send(h11.Request(method=method, target=path, headers=[("Host", "x")]))
    protocol.send(h11.EndOfMessage())
    head, body = None, b""
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            protocol.receive_data(bytes(await stream.receive_some(_READ)))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            break
    assert head is not None
    names = {name.decode(): value.decode() for name, value in head.headers}
    return Answer(head.status_code, names, body)
