"""Stop or kill each master in turn under load, and check what clients of other shards see.

A stopped master accepts connections but does not answer; a killed one refuses them. Clients use
queues on other masters, through the load balancer. None of their requests may fail. Scheduled jobs
must become available and lost leases must end during the outage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import pytest
import trio

from ojs_cluster.keys import Keyspace
from ojs_cluster.server.embedded.servers import EmbeddedNode
from tests.support.deployment import Deployment
from tests.support.load import eventually
from tests.support.servers import observer, wait_until

Fault = Literal["stop", "kill"]
PATIENCE_S = 120.0
REMEMBERED_S = 60.0
"""How long a process remembers the names of queues, in seconds. The outage of one test is longer.
"""
KEYS = Keyspace(64)


@dataclass(slots=True)
class Clients:
    """Clients of some queues, and their errors."""

    http: httpx.AsyncClient
    queues: list[str]
    done: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    stopping: bool = False

    async def run(self, queue: str) -> None:
        """Enqueue, fetch and ack one job after the other."""
        self.done[queue] = 0
        while not self.stopping:
            await self.post("/ojs/v1/jobs", self._job(queue))
            body = {"queues": [queue], "worker_id": f"w-{queue}", "count": 1, "wait_ms": 2000}
            for job in (await self.post("/ojs/v1/workers/fetch", body)).get("jobs", []):
                ack = {"job_id": job["id"], "lease_id": job["lease_id"]}
                await self.post("/ojs/v1/workers/ack", ack)
                self.done[queue] += 1
            await trio.sleep(0.02)

    async def new_queues(self, names: Iterator[str]) -> None:
        """Enqueue jobs in queues that no process has seen before."""
        while not self.stopping:
            await self.post("/ojs/v1/jobs", self._job(next(names)))
            await trio.sleep(0.5)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request once; any other result than success is an error."""
        try:
            answer = await self.http.post(path, json=body)
        except httpx.HTTPError as error:
            self.errors.append(f"{path}: {error!r}")
            return {}
        if not answer.is_success:
            self.errors.append(f"{path}: {answer.status_code} {answer.text}")
            return {}
        found: dict[str, Any] = answer.json()
        return found

    async def progress(self, count: int) -> None:
        """Return when each queue has completed this many more jobs."""
        wanted = {queue: self.done.get(queue, 0) + count for queue in self.queues}
        await eventually(
            lambda: all(self.done.get(queue, 0) >= n for queue, n in wanted.items()),
            timeout_s=PATIENCE_S,
            what=f"{count} jobs of each queue; errors: {self.errors[:3]}",
        )

    async def scheduled_and_lost(self, queue: str) -> None:
        """Check that a scheduled job and a job of a lost worker become available.

        No worker fetches from the queue, so only the leader of its shard can do this.
        """
        before = await self._available(queue)
        await self.post("/ojs/v1/jobs", self._job(queue))
        body = {"queues": [queue], "count": 1000, "visibility_timeout_ms": 1000}
        held = (await self.post("/ojs/v1/workers/fetch", body)).get("jobs", [])
        assert len(held) == before + 1, (before, len(held), self.errors[:5])
        await self.post("/ojs/v1/jobs", self._job(queue, scheduled_at="+PT1S"))
        wanted = len(held) + 1
        with trio.move_on_after(PATIENCE_S):
            while await self._available(queue) < wanted:  # noqa: ASYNC110 - asks each time
                await trio.sleep(0.1)
            body = {"queues": [queue], "worker_id": "idle", "count": 100}
            for job in (await self.post("/ojs/v1/workers/fetch", body)).get("jobs", []):
                ack = {"job_id": job["id"], "worker_id": "idle", "lease_id": job["lease_id"]}
                await self.post("/ojs/v1/workers/ack", ack)
            return
        raise AssertionError(f"{queue} has not {wanted} jobs again; errors: {self.errors[:5]}")

    async def _available(self, queue: str) -> int:
        answer = await self.http.get(f"/ojs/v1/queues/{queue}/stats")
        if answer.status_code not in (200, 404):
            self.errors.append(f"stats of {queue}: {answer.status_code} {answer.text}")
        return int(answer.json()["queue"]["available"]) if answer.status_code == 200 else 0

    @staticmethod
    def _job(queue: str, **options: Any) -> dict[str, Any]:
        retry = {"max_attempts": 50}
        return {"type": "t", "args": [], "options": {"queue": queue, "retry": retry, **options}}


def owners(deployment: Deployment) -> dict[int, EmbeddedNode]:
    """Return the master of each shard, with the meta tag under -1."""
    with observer(deployment.backend) as redis:
        nodes = {node.port: node for node in deployment.backend.nodes}

        def owner(slot: int) -> EmbeddedNode:
            found = redis.nodes_manager.get_node_from_slot(slot)  # type: ignore[union-attr]
            return nodes[found.port]

        tags = {shard.index: shard.slot for shard in KEYS} | {-1: KEYS.meta.slot}
        return {index: owner(slot) for index, slot in tags.items()}


def names(prefix: str, served: dict[int, EmbeddedNode], away: EmbeddedNode) -> Iterator[str]:
    """Return names of queues whose shard is on another master."""
    number = 0
    while True:
        name = f"{prefix}-{number}"
        if served[KEYS.shard_of_queue(name).index] is not away:
            yield name
        number += 1


def masters_in_turn(deployment: Deployment) -> list[EmbeddedNode]:
    """Return the masters, that of the meta tag first."""
    meta = owners(deployment)[-1]
    return [meta, *(node for node in deployment.backend.masters() if node is not meta)]


async def outage(
    deployment: Deployment, away: EmbeddedNode, fault: Fault, *, seconds: float = 0.0
) -> Clients:
    """Take a master away under load for at least some seconds, and restore it."""
    backend = deployment.backend
    wait_until(lambda: whole(deployment), timeout_s=PATIENCE_S, what="every process serves")
    served = owners(deployment)
    healthy = names("q", served, away)
    queues = [next(healthy) for _ in range(6)]
    idle = next(healthy)
    async with (
        httpx.AsyncClient(base_url=deployment.url, timeout=PATIENCE_S) as http,
        trio.open_nursery() as nursery,
    ):
        clients = Clients(http, queues)
        for queue in queues:
            nursery.start_soon(clients.run, queue)
        await clients.scheduled_and_lost(idle)
        await clients.progress(5)
        assert clients.errors == []

        take_away, bring_back = (
            (backend.pause, backend.resume) if fault == "stop" else (backend.kill, backend.restart)
        )
        await trio.to_thread.run_sync(take_away, away)
        try:
            began = trio.current_time()
            new = names(f"new-{os.getpid()}-{began}", served, away)
            nursery.start_soon(clients.new_queues, new)
            await clients.progress(20)
            await clients.scheduled_and_lost(idle)
            while trio.current_time() - began < seconds:
                await clients.progress(5)
                await clients.scheduled_and_lost(idle)
            await clients.progress(5)
            seen, clients.stopping = list(clients.errors), True
        finally:
            # After a failed test the deployment must be usable for the next one.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(bring_back, away)
    clients.errors = seen
    wait_until(lambda: whole(deployment), timeout_s=PATIENCE_S, what="all is as before")
    return clients


def whole(deployment: Deployment) -> bool:
    """Return whether every process of every node sees every master.

    Any process of a node may accept a connection, so this opens many of them.
    """
    found = (
        httpx.get(f"{node.url}/ojs/v1/health", timeout=30).json()
        for node in deployment.nodes
        for _ in range(20)
    )
    return all(one.get("backend", {}).get("status") == "ok" for one in found)


@pytest.mark.parametrize(
    "fault",
    [pytest.param("stop", marks=pytest.mark.soak), "kill"],  # a stop takes minutes
)
async def test_clients_of_other_shards_see_no_error(
    deployment: Deployment, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, away in enumerate(masters_in_turn(deployment)):
        # The first outage lasts longer than a process remembers the name of a queue.
        seconds = REMEMBERED_S + 15 if (number, fault) == (0, "stop") else 0.0
        clients = await outage(deployment, away, fault, seconds=seconds)
        with capsys.disabled():
            jobs = sum(clients.done.values())
            print(f"\n{fault} of master {number}: {jobs} jobs, {len(clients.errors)} errors")
        assert clients.errors == []


@pytest.mark.parametrize("fault", [pytest.param("stop", marks=pytest.mark.soak), "kill"])
async def test_clients_of_other_shards_see_no_error_during_a_failover(
    replicated: Deployment, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    away = masters_in_turn(replicated)[0]
    clients = await outage(replicated, away, fault)
    with capsys.disabled():
        jobs = sum(clients.done.values())
        print(f"\n{fault} with replicas: {jobs} jobs, {len(clients.errors)} errors")
    assert clients.errors == []
