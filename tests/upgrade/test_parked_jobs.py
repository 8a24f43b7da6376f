"""Parked jobs after a rollback: the previous version does not know them, and runs them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import httpx
import pytest

from ojs_cluster.keys import Keyspace
from tests.support.deployment import TOPOLOGIES, backend_of, unavailable
from tests.support.load import new_id
from tests.support.nodes import NOTHING, ApiNode, Environment, Process, scheduler
from tests.support.servers import observer
from tests.upgrade.previous_version import PreviousVersion

WORKER = {"queues": ["shared"], "worker_id": "w"}


def fetch(client: httpx.Client, **members: object) -> list[str]:
    answer = client.post("/ojs/v1/workers/fetch", json={**WORKER, **members})
    return [job["id"] for job in answer.raise_for_status().json()["jobs"]]


def test_a_parked_job_runs_after_a_rollback(previous: PreviousVersion, tmp_path: Path) -> None:
    if missing := unavailable("valkey-standalone"):
        pytest.skip(missing)
    with contextlib.ExitStack() as stack:
        backend = backend_of(tmp_path, TOPOLOGIES["valkey-standalone"])
        backend.start()
        stack.callback(backend.stop, graceful=False)

        def start(name: str, version: Environment) -> tuple[ApiNode, Process, httpx.Client]:
            env: Environment = {**version, "OJS_SCHEDULER_LEASE": "2s"}
            node = ApiNode(name, tmp_path, backend.url, workers=1, env=env)
            leader = scheduler(f"scheduler-{name}", tmp_path, backend.url, env)
            node.process.start()
            stack.callback(node.stop)
            leader.start()
            stack.callback(leader.stop)
            node.await_ready()
            client = httpx.Client(base_url=node.url, timeout=60)
            return node, leader, stack.enter_context(client)

        node, leader, client = start("new", NOTHING)
        ids = [new_id() for _ in range(2)]
        for job_id in ids:
            job = {"id": job_id, "type": "t.new", "args": [], "options": {"queue": "shared"}}
            client.post("/ojs/v1/jobs", json=job).raise_for_status()
        assert fetch(client, types=["t.old"]) == []
        leader.stop()
        node.stop()

        _, _, client = start("old", previous.environment())
        assert fetch(client) == []
        canceled = client.delete(f"/ojs/v1/jobs/{ids[1]}")
        assert canceled.raise_for_status().json()["job"]["state"] == "cancelled"
        shard = Keyspace(64).partitions("shared", 1)[0]
        with observer(backend) as db:  # ten minutes later
            db.zadd(shard.quarantine, {ids[0]: 1})
            db.spublish(shard.schedule_channel, "1")
        assert fetch(client, wait_ms=50_000) == ids[:1]
