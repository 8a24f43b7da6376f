"""Streams of shards whose master does not answer."""

from __future__ import annotations

import pytest
import trio

from ojs_cluster.http.push import sse
from ojs_cluster.http.websocket import session as ws_session
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.events import readers
from ojs_cluster.store.features.events.entries import Position
from ojs_cluster.store.features.events.shard_reader import ShardReader
from tests.http.api import Api, open_app, serving
from tests.http.push.reading import events, shards_read
from tests.http.push.sockets import websocket


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Return the shards that do not answer new readers; the test adds some."""
    shards: set[int] = set()
    newest = ShardReader._newest

    async def ask(reader: ShardReader) -> Position:
        if reader.shard.index in shards:
            await trio.sleep_forever()
        return await newest(reader)

    monkeypatch.setattr(ShardReader, "_newest", ask)
    monkeypatch.setattr(readers, "_READY_S", 0.2)
    monkeypatch.setattr(sse, "CHECK_S", 0.05)
    monkeypatch.setattr(ws_session, "CHECK_S", 0.05)
    return shards


async def test_a_stream_that_cannot_be_read_is_refused(
    standalone: Embedded, silent: set[int]
) -> None:
    async with open_app(standalone) as app, serving(app) as port:
        silent.add(app.store.keys.shard_of_queue("q").index)
        target = "/ojs/v1/events/stream?channel=queue:q"
        async with events(port, target) as stream:
            assert (stream.status, stream.headers["retry-after"]) == (503, "1")
        assert (app.push.count, shards_read(app.push.hub)) == (0, 0)
        silent.clear()
        async with events(port, target) as stream:
            assert stream.status == 200


async def test_a_client_reconnects_when_a_new_partition_cannot_be_read(
    standalone: Embedded, silent: set[int]
) -> None:
    async with open_app(standalone) as app, serving(app) as port:
        api = Api(app)
        await api.enqueue(options={"queue": "q"})
        async with events(port, "/ojs/v1/queues/q/events") as stream, websocket(port) as socket:
            await socket.ask({"action": "subscribe", "channel": "queue:q"})
            silent |= {shard.index for shard in app.store.keys.partitions("q", 4)}
            changed = await api.call("PUT", "/ojs/v1/admin/queues/q/config", {"partitions": 4})
            assert changed.status == 200

            assert await stream.rest() == []
            assert await socket.next() is None
            assert socket.close_code == 1013
        assert (app.push.count, shards_read(app.push.hub)) == (0, 0)
