"""A stream while the master of its shard dies."""

from __future__ import annotations

from pathlib import Path

import trio

from ojs_cluster.redis.durability import Durability
from tests.http.api import Api, open_app, serving, until
from tests.http.push.reading import Event, events
from tests.redis.helpers import in_thread
from tests.redis.test_failover import cluster_recovered
from tests.support.servers import own_server

CALL_S = 60.0


async def test_a_stream_outlives_the_failover_of_its_master(tmp_path: Path) -> None:
    """Every job that the server has accepted is told, or the client is told of a gap."""
    accepted: list[str] = []
    found: list[Event] = []
    redis = {"durability": Durability.REPLICA, "call_timeout_s": CALL_S}
    with own_server(tmp_path, replicas=1) as servers:
        async with (
            open_app(servers, redis=redis) as app,
            serving(app) as port,
            events(port, "/ojs/v1/events/stream?types=job.enqueued") as stream,
            trio.open_nursery() as nursery,
        ):
            api = Api(app)
            slot = app.store.keys.shard_of_queue("default").slot
            address = app.store.redis.topology.owner(slot)
            assert address is not None
            [victim] = [node for node in servers.nodes if node.port == address.port]

            async def produce() -> None:
                while True:
                    reply = await api.post("/ojs/v1/jobs", {"type": "t", "args": []})
                    if reply.status == 201:
                        accepted.append(reply.json["job"]["id"])

            async def read() -> None:
                while (event := await stream.next()) is not None:
                    found.append(event)

            nursery.start_soon(produce)
            nursery.start_soon(read)
            await reach(found, 20)
            await in_thread(servers.kill, victim)
            await cluster_recovered([n for n in servers.nodes if n is not victim], victim)
            await reach(found, len(found) + 50)
            last = accepted[-1]
            await reach(found, 0, last)
            nursery.cancel_scope.cancel()

    told = [event.data["job_id"] for event in found if event.kind == "job.enqueued"]
    missing = set(accepted[: accepted.index(last)]) - set(told)
    assert not missing or any(event.kind == "system.gap" for event in found)
    assert len(told) == len(set(told))


async def reach(found: list[Event], count: int, job_id: str = "") -> None:
    """Wait until there are ``count`` events, and one of the job if it is named."""

    async def reached() -> bool:
        told = not job_id or any(event.data.get("job_id") == job_id for event in found)
        return told and len(found) >= count

    await until(reached)
