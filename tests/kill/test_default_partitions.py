"""Nodes restart with another ``OJS_QUEUE_PARTITIONS``, one after the other, under load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.core.partitions import DRAIN_MS, PROPAGATION_MS, PartitionLayout
from ojs_cluster.keys import Keyspace
from tests.support.deployment import Deployment, deploy
from tests.support.nodes import ApiNode
from tests.support.servers import observer, wait_until

KEYS = Keyspace(64)
META = KEYS.meta
PATIENCE_S = 240.0


class Operator:
    """A client of all nodes in turn."""

    def __init__(self, nodes: tuple[ApiNode, ...], stack: ExitStack) -> None:
        self._clients = [
            stack.enter_context(httpx.Client(base_url=node.url, timeout=60)) for node in nodes
        ]
        self._turn = 0

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        self._turn += 1
        client = self._clients[self._turn % len(self._clients)]
        return client.request(method, f"/ojs/v1{path}", json=body)

    def done(self, method: str, path: str, body: Any = None) -> Any:
        response = self.call(method, path, body)
        assert response.is_success, response.text
        return response.json()

    def put(self, queue: str, **options: Any) -> int:
        job = {"type": "t", "args": [], "options": {"queue": queue, **options}}
        return self.call("POST", "/jobs", job).status_code

    def fetch(self, queue: str, count: int = 50) -> list[dict[str, Any]]:
        body = {"queues": [queue], "count": count, "worker_id": "w"}
        jobs: list[dict[str, Any]] = self.done("POST", "/workers/fetch", body)["jobs"]
        return jobs


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Deployment]:
    with deploy(tmp_path, "valkey-standalone", nodes=2, workers=1, schedulers=1) as deployment:
        yield deployment


def restart(node: ApiNode, partitions: int) -> None:
    node.process.stop()
    node.process.env = {**node.process.env, "OJS_QUEUE_PARTITIONS": str(partitions)}
    node.start()


def is_default(running: Deployment, accept: Callable[[PartitionLayout, int], bool]) -> bool:
    """Tell whether the default layout is accepted, given its age in milliseconds."""
    with observer(running.backend) as db:
        entry = db.hget(META.partitions, "")
        seconds, micros = db.time()
    assert isinstance(entry, bytes)
    layout = PartitionLayout.parse(entry)
    return accept(layout, seconds * 1000 + micros // 1000 - layout.changed_at_ms)


def depths(running: Deployment, queue: str) -> list[int]:
    with observer(running.backend) as db:
        shards = KEYS.partitions(queue, 4)
        return [int(db.zcard(shard.queue_available(queue))) for shard in shards]


@pytest.fixture
def operator(running: Deployment) -> Iterator[Operator]:
    with ExitStack() as stack:
        yield Operator(running.nodes, stack)


def test_settings_hold_while_nodes_restart_with_another_number(
    running: Deployment, operator: Operator
) -> None:
    for queue in ("paused", "limited", "bounded", "dying"):
        assert operator.put(queue, retry={"max_attempts": 1}) == 201
    operator.done("POST", "/queues/paused/pause")
    operator.done("PUT", "/admin/queues/limited/config", {"concurrency": 2})
    operator.done("PUT", "/admin/queues/bounded/config", {"max_size": 12})
    operator.done("PUT", "/admin/queues/dying/config", {"on_exhaustion": "dead_letter"})
    started = 0

    def check() -> None:
        nonlocal started
        for queue in ("paused", "limited"):
            operator.put(queue)
        assert operator.fetch("paused") == []
        started += len(operator.fetch("limited"))
        assert started <= 2

    def until(accept: Callable[[PartitionLayout, int], bool], what: str) -> None:
        def holds() -> bool:
            check()
            return is_default(running, accept)

        wait_until(holds, timeout_s=PATIENCE_S, what=what)

    restart(running.nodes[1], 4)
    check()
    until(lambda layout, _: layout.count == 4, "the default has grown")
    until(lambda _, age_ms: age_ms > 2 * PROPAGATION_MS, "all producers use it")
    for _ in range(80):
        check()
        operator.put("dying", retry={"max_attempts": 1})
        operator.put("plain")
        operator.put("bounded")
    assert depths(running, "bounded") == [3, 3, 3, 3]
    assert min(depths(running, "plain")) > 0, "the new partitions are used"
    assert min(depths(running, "paused")) > 0
    assert started == 2

    failed = 0
    while jobs := operator.fetch("dying"):
        for job in jobs:
            error = {"code": "no", "message": "no"}
            operator.done("POST", "/workers/nack", {"job_id": job["id"], "error": error})
            failed += 1
    assert failed == 81
    with observer(running.backend) as db:
        dead = [db.zcard(shard.queue_dead("dying")) for shard in KEYS.partitions("dying", 4)]
    assert sum(map(int, dead)) == 81

    # Back to one partition: the jobs in the others are found.
    restart(running.nodes[1], 1)
    until(lambda layout, age_ms: layout.count == 1 and age_ms > DRAIN_MS, "the number is lowered")
    ids: set[str] = set()
    while jobs := operator.fetch("plain"):
        ids.update(job["id"] for job in jobs)
    assert len(ids) == 80
