"""Read streams of server-sent events over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import trio

from ojs_cluster.store.features.events.hub import EventHub
from tests.http.api import Stream, dial

DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event as ``EventSource`` dispatches it, with the id that it then has."""

    kind: str
    id: str
    raw: str

    @property
    def data(self) -> Any:
        return json.loads(self.raw)


@dataclass(slots=True)
class Events:
    """An open response, read by the rules of the HTML standard."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    stream: Stream
    protocol: h11.Connection
    lines: list[str] = field(default_factory=list)
    last_id: str = ""
    ended: bool = False
    comments: list[str] = field(default_factory=list)
    _rest: bytes = b""
    _found: list[Event] = field(default_factory=list)

    async def next(self) -> Event | None:
        """Return the next event, or None at the end of the response."""
        with trio.fail_after(DEADLINE_S):
            while not self._found:
                piece = await self.piece()
                if piece is None:
                    return None
                self._add(piece)
        return self._found.pop(0)

    async def take(self, count: int) -> list[Event]:
        """Return the next ``count`` events."""
        found = [await self.next() for _ in range(count)]
        assert None not in found, "the stream has ended"
        return [event for event in found if event is not None]

    async def until(self, kind: str) -> list[Event]:
        """Return the next events up to one of this type."""
        found: list[Event] = []
        while not found or found[-1].kind != kind:
            found += await self.take(1)
        return found

    async def rest(self) -> list[Event]:
        """Return all events up to the end of the response."""
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found

    async def piece(self) -> bytes | None:
        """Return the next bytes of the body, or None at its end."""
        while True:
            event = self.protocol.next_event()
            if event is h11.NEED_DATA:
                self.protocol.receive_data(bytes(await self.stream.receive_some(65_536)))
            elif isinstance(event, h11.Data):
                return bytes(event.data)
            else:
                assert isinstance(event, h11.EndOfMessage), event
                self.ended = True
                return None

    def _add(self, piece: bytes) -> None:
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for raw in whole:
            line = raw.decode()
            if line:
                self.lines.append(line)
                continue
            fields: dict[str, str] = {}
            for field_line in self.lines:
                name, _, value = field_line.partition(":")
                if name:
                    fields[name] = value.removeprefix(" ")
                else:
                    self.comments.append(value)
            self.lines.clear()
            self.last_id = fields.get("id", self.last_id)
            if "data" in fields:
                kind = fields.get("event", "message")
                self._found.append(Event(kind, self.last_id, fields["data"]))


def shards_read(hub: EventHub) -> int:
    """Return how many shards a hub reads."""
    return len(hub._pool)


@asynccontextmanager
async def events(
    port: int, target: str, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Events]:
    """Request a stream, and yield it when the head of the response has arrived."""
    with trio.fail_after(DEADLINE_S):
        stream = await dial(port)
    async with stream:
        protocol = h11.Connection(h11.CLIENT)
        given = {"Host": f"127.0.0.1:{port}", "Accept": "text/event-stream", **(headers or {})}
        request = h11.Request(method="GET", target=target, headers=list(given.items()))
        with trio.fail_after(DEADLINE_S):
            sent = protocol.send(request), protocol.send(h11.EndOfMessage())
            await stream.send_all(b"".join(piece or b"" for piece in sent))
            while (event := protocol.next_event()) is h11.NEED_DATA:
                protocol.receive_data(bytes(await stream.receive_some(65_536)))
        assert isinstance(event, h11.Response)
        names = {name.decode(): value.decode() for name, value in event.headers}
        opened = Events(event.status_code, names, b"", stream, protocol)
        if event.status_code != 200:
            with trio.fail_after(DEADLINE_S):
                while (piece := await opened.piece()) is not None:
                    opened.body += piece
        yield opened
