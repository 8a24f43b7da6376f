"""Streams over HTTP/2, where several share a connection."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import trio

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app, serving, until
from tests.http.push.test_sse import complete

DEADLINE_S = 60.0


class Connection:
    """An HTTP/2 connection in clear text."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.heads: dict[int, dict[bytes, bytes]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()

    async def get(self, stream_id: int, path: str) -> None:
        """Send a request, and return when the head of the response has arrived."""
        pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", path)]
        self.h2.send_headers(stream_id, pseudo, end_stream=True)
        await self.receive(lambda: stream_id in self.heads)

    async def receive(self, done: object) -> None:
        assert callable(done)
        with trio.fail_after(DEADLINE_S):
            await self.stream.send_all(self.h2.data_to_send())
            while not done():
                data = await self.stream.receive_some(65_536)
                assert data
                for event in self.h2.receive_data(bytes(data)):
                    self._note(event)
                await self.stream.send_all(self.h2.data_to_send())

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.heads[event.stream_id] = {bytes(n): bytes(v) for n, v in event.headers or ()}
        elif isinstance(event, h2.events.DataReceived):
            body = self.bodies.get(event.stream_id, b"")
            self.bodies[event.stream_id] = body + bytes(event.data or b"")
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)


async def test_streams_share_a_connection_and_end_alone(backend: Embedded) -> None:
    async with (
        open_app(backend) as app,
        serving(app, listening={"h2c": True}) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as stream,
    ):
        api, client = Api(app), Connection(stream)
        client.h2.initiate_connection()
        job = await api.enqueue(options={"queue": "q"})
        await client.get(1, f"/ojs/v1/jobs/{job['id']}/events")
        await client.get(3, "/ojs/v1/events/stream?channel=queue:q")
        await client.get(5, "/ojs/v1/queues/q")
        assert [client.heads[n][b":status"] for n in (1, 3, 5)] == [b"200"] * 3
        assert client.heads[1][b"content-type"] == b"text/event-stream"
        assert b"connection" not in client.heads[1]

        await complete(api, (await api.fetch("q"))[0])
        await client.receive(
            lambda: 1 in client.ended and b"event: job.completed\n" in client.bodies.get(3, b"")
        )
        assert b"event: job.completed\n" in client.bodies[1]
        assert 3 not in client.ended
        assert app.push.count == 1

        client.h2.reset_stream(3)
        await client.receive(lambda: True)
        await until(lambda: _async(app.push.count == 0))
        await client.get(7, "/ojs/v1/queues/q")
        assert client.heads[7][b":status"] == b"200"


async def _async(value: bool) -> bool:
    await trio.lowlevel.checkpoint()
    return value
