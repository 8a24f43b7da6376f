"""A receiver of webhooks on loopback addresses, which records what it gets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
import trio

WAIT_S = 60.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


@dataclass(frozen=True, slots=True)
class Received:
    """One request; header names in lower case."""

    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)


def status(code: int, *headers: str) -> bytes:
    """Return a response without a body."""
    lines = [f"HTTP/1.1 {code} X", "Content-Length: 0", *headers, "", ""]
    return "\r\n".join(lines).encode()


@dataclass
class Receiver:
    """What a receiver got. ``answer`` makes each response, by default 200."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    answer: Callable[[Received], Awaitable[bytes]] | None = None
    connections: int = 0
    keep_alive: bool = False
    """Whether a connection may carry several requests. An empty answer ends it."""
    _arrived: trio.Event = field(default_factory=trio.Event)

    def url(self, host: str = "127.0.0.1", path: str = "/hook") -> str:
        return f"http://{host}:{self.port}{path}"

    async def wait_for(self, count: int) -> list[Received]:
        """Wait until this many requests were received."""
        await self.until(lambda: len(self.received) >= count)
        return self.received

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on what was received holds."""
        with trio.fail_after(WAIT_S):
            while not condition():
                await self._arrived.wait()

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        try:
            async with stream:
                while await self._serve_one(stream) and self.keep_alive:
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            return  # the sender has given up

    async def _serve_one(self, stream: trio.abc.Stream) -> bool:
        """Serve one request; return whether another may follow."""
        connection = h11.Connection(h11.SERVER)
        head, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                break
        if head is None:
            return False
        headers = {name.decode(): value.decode() for name, value in head.headers}
        got = Received(head.target.decode(), headers, body)
        self.received.append(got)
        self._arrived.set()
        self._arrived = trio.Event()
        answer = OK if self.answer is None else await self.answer(got)
        await stream.send_all(answer)
        return bool(answer)


@asynccontextmanager
async def receiving(
    receiver: Receiver | None = None, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Serve a receiver on its port, or on a free one. It is down outside of the context."""
    receiver = receiver or Receiver()
    listeners = await trio.open_tcp_listeners(receiver.port, host=host)
    receiver.port = listeners[0].socket.getsockname()[1]
    served: list[trio.abc.Listener[Any]] = [*listeners]
    if tls is not None:
        served = [trio.SSLListener(listener, tls, https_compatible=True) for listener in listeners]

    async def serve(stream: trio.abc.Stream) -> None:
        try:
            await receiver.serve(stream)
        except ssl.SSLError:
            return

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, serve, served))
        yield receiver
        nursery.cancel_scope.cancel()


def verify_ojs(got: Received, secret: str) -> bool:
    """Verify a request as spec/ojs-webhooks.md 8.2 and 14.5 say, written from that text."""
    stamp = got.headers["x-ojs-timestamp"]
    expected = hmac.new(
        secret.encode(), f"{stamp}.".encode() + got.body, hashlib.sha256
    ).hexdigest()
    given = got.headers["x-ojs-signature"].split(",")
    return any(hmac.compare_digest(f"sha256={expected}", each) for each in given)


def verify_standard(got: Received, secret: str) -> bool:
    """Verify a request as Standard Webhooks 1.0 says, written from that text."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    message, stamp = got.headers["webhook-id"], got.headers["webhook-timestamp"]
    signed = message.encode() + b"." + stamp.encode() + b"." + got.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    given = got.headers["webhook-signature"].split(" ")
    return any(
        version == "v1" and hmac.compare_digest(expected, digest)
        for version, _, digest in (each.partition(",") for each in given)
    )
