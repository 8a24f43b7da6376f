"""An HTTP/2 client that can send frames which no library allows."""

from __future__ import annotations

from dataclasses import dataclass, field

import hpack
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, ResponseReceived, StreamEnded, StreamReset

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 2, 3, 4, 6, 8
END_STREAM, END_HEADERS = 0x1, 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"x")]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame; its content is not checked."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


@dataclass(slots=True)
class Heard:
    """What the server has sent: statuses and resets by stream, and the reason of a GOAWAY."""

    statuses: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    resets: dict[int, int] = field(default_factory=dict)
    goodbye: int | None = None
    closed: bool = False


class Http2Client:
    """Writes raw frames, and reads with h2."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        """Speak HTTP/2 on ``stream``; nothing is sent yet."""
        self.stream = stream
        self.heard = Heard()
        self.encoder = hpack.Encoder()
        self._reader = H2Connection(config=H2Configuration(client_side=True))
        self._reader.initiate_connection()
        self._reader.increment_flow_control_window(2**30)  # what is received is not the point

    async def open(self) -> None:
        """Send the preface and empty settings."""
        await self.stream.send_all(PREFACE + frame(SETTINGS, 0, 0))

    def head(self, stream: int, *headers: tuple[bytes, bytes], ends: bool = True) -> bytes:
        """Return a HEADERS frame that opens a stream, and register the stream with the reader."""
        self._reader.send_headers(
            stream,
            [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")],
            end_stream=ends,
        )
        block = self.encoder.encode(headers, huffman=False)
        return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream, block)

    async def listen(self, until: object = None) -> Heard:
        """Read until the server closes, or a stream has ended or was reset."""
        with trio.fail_after(120):
            while until is None or not (
                until in self.heard.ended or until in self.heard.resets or self.heard.closed
            ):
                try:
                    data = await self.stream.receive_some(65_536)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    data = b""
                if not data:
                    self.heard.closed = True
                    break
                for event in self._reader.receive_data(data):
                    self._note(event)
        return self.heard

    def _note(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            headers = dict(event.headers or ())
            self.heard.statuses[event.stream_id] = int(headers[b":status"])
        elif isinstance(event, StreamEnded):
            self.heard.ended.add(event.stream_id)
        elif isinstance(event, StreamReset):
            self.heard.resets[event.stream_id] = int(event.error_code)
        elif isinstance(event, ConnectionTerminated):
            self.heard.goodbye = int(event.error_code or ErrorCodes.NO_ERROR)
