"""Speak WebSocket over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import wsproto
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

from tests.http.api import Stream, dial

DEADLINE_S = 60.0


@dataclass(slots=True)
class Socket:
    """An open WebSocket, or a refused one."""

    stream: Stream
    protocol: wsproto.WSConnection
    status: int = 101
    subprotocol: str | None = None
    extensions: list[Any] = field(default_factory=list)
    body: bytes = b""
    close_code: int | None = None
    _messages: list[Any] = field(default_factory=list)
    _text: str = ""

    async def send(self, message: Any) -> None:
        """Send JSON, or bytes of a text frame as they are."""
        text = message if isinstance(message, str) else json.dumps(message)
        await self.stream.send_all(self.protocol.send(TextMessage(data=text)))

    async def next(self) -> Any:
        """Return the next message; None when the server has closed the connection."""
        with trio.fail_after(DEADLINE_S):
            while not self._messages:
                if self.close_code is not None:
                    return None
                await self._receive()
        return self._messages.pop(0)

    async def until(self, kind: str) -> list[Any]:
        """Return messages up to one of an event of this type."""
        found: list[Any] = []
        while not found or found[-1].get("event") != kind:
            message = await self.next()
            assert message is not None, found
            found.append(message)
        return found

    async def ask(self, message: Any) -> Any:
        """Send a message and return the next one."""
        await self.send(message)
        return await self.next()

    async def _receive(self) -> None:
        data = bytes(await self.stream.receive_some(65_536))
        self.protocol.receive_data(data or None)
        for event in self.protocol.events():
            if isinstance(event, AcceptConnection):
                self.subprotocol, self.extensions = event.subprotocol, event.extensions
                self.status = 101
            elif isinstance(event, RejectConnection):
                self.status = event.status_code
            elif isinstance(event, RejectData):
                self.body += event.data
                if event.body_finished:
                    self.close_code = 0
            elif isinstance(event, TextMessage):
                self._text += event.data
                if event.message_finished:
                    self._messages.append(json.loads(self._text))
                    self._text = ""
            elif isinstance(event, Ping):
                await self.stream.send_all(self.protocol.send(event.response()))
            elif isinstance(event, CloseConnection):
                self.close_code = int(event.code)


@asynccontextmanager
async def websocket(
    port: int,
    headers: Mapping[str, str] | None = None,
    *,
    subprotocols: list[str] | None = None,
    path: str = "/ojs/v1/ws",
    host: str = "",
) -> AsyncIterator[Socket]:
    """Open a WebSocket, and yield it when it is accepted or refused."""
    with trio.fail_after(DEADLINE_S):
        stream = await dial(port)
    async with stream:
        protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        request = Request(
            host=host or f"127.0.0.1:{port}",
            target=path,
            subprotocols=subprotocols or [],
            extensions=[PerMessageDeflate()],
            extra_headers=[(n.encode(), v.encode()) for n, v in (headers or {}).items()],
        )
        opened = Socket(stream, protocol, status=0)
        with trio.fail_after(DEADLINE_S):
            await stream.send_all(protocol.send(request))
            while not opened.status or (opened.status != 101 and opened.close_code is None):
                await opened._receive()
        yield opened
