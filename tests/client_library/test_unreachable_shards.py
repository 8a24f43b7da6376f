"""A worker tells a lost lease from a master that does not answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from ojs_client import Client, RunningJob
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from tests.client_library.conftest import Server
from tests.client_library.faults import Watched
from tests.client_library.workers import new_worker, serving_jobs, until
from tests.http.api import open_app, serving
from tests.support.servers import own_server

# With the long times of other tests the client would give up before the server.
_TIMES = {"connect_timeout_s": 1.0, "reply_timeout_s": 1.0, "call_timeout_s": 2.0}


def port_of(store: Store, shard: Shard) -> int:
    """The port of the master that has the shard."""
    address = store.redis.topology.owner(shard.slot)
    assert address is not None
    return address.port


@pytest.mark.parametrize("loop", ["asyncio", pytest.param("trio", marks=pytest.mark.soak)])
async def test_a_handler_goes_on_while_the_master_of_its_job_does_not_answer(
    tmp_path: Path, loop: str
) -> None:
    checked: list[str] = []

    async def note(path: str, body: Any) -> None:
        if path.endswith("heartbeat") and "job_id" in body:
            checked.append(body["job_id"])

    with own_server(tmp_path) as redis:
        async with open_app(redis, redis=_TIMES) as app, serving(app, lane=True) as port:
            store = app.store
            queues = [f"q{n}" for n in range(50)]
            ports = {queue: port_of(store, store.keys.shard_of_queue(queue)) for queue in queues}
            near = queues[0]
            away = next(queue for queue in queues if ports[queue] != ports[near])
            (victim,) = (node for node in redis.masters() if node.port == ports[away])

            async def scenario(client: Client) -> None:
                worker = new_worker(
                    client,
                    queues=[near, away],
                    concurrency=2,
                    lease=60,
                    heartbeat=0.3,
                    transport=Watched(after=note),
                )
                running: list[RunningJob] = []
                go = anyio.Event()

                @worker.handler("t.long")
                async def long(job: RunningJob) -> str:
                    running.append(job)
                    await go.wait()
                    return "done"

                async with serving_jobs(worker):
                    jobs = [await client.enqueue("t.long", queue=queue) for queue in (near, away)]
                    await until(lambda: len(running) == 2)
                    redis.pause(victim)
                    try:
                        await until(lambda: len(checked) >= 2)
                        assert set(checked) == {jobs[1].id}
                        assert not any(job.lease_lost for job in running)
                    finally:
                        redis.resume(victim)
                    go.set()
                    for job in jobs:
                        assert await client.result(job.id, wait=60) == "done"

            await Server(app, f"http://127.0.0.1:{port}", loop).run(scenario)
