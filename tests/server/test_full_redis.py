"""Redis at ``maxmemory``: what adds jobs is refused, and everything that empties it works."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.support.invariants import await_invariants
from tests.support.nodes import ApiNode, Process, await_death, scheduler
from tests.support.servers import observer, own_server, wait_until

QUEUES = [f"q{number}" for number in range(24)]
"""Enough that each of three masters has some."""
BODY = "x" * 20_000
RETRY = {"initial_interval": "PT1S", "jitter": False}
ENV = {
    "OJS_REDIS_CALL_TIMEOUT": "5s",
    "OJS_RETENTION_COMPLETED": "15s",
    "OJS_RETENTION_CANCELLED": "15s",
    "OJS_SCHEDULER_LEASE": "2s",
}


@dataclass(slots=True)
class Installation:
    """A server that will be full, an API node of one process, and a scheduler."""

    backend: Embedded
    node: ApiNode
    scheduler: Process
    directory: Path
    client: httpx.Client

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST and return the body of a 2xx answer."""
        answer = self.client.post(f"/ojs/v1{path}", json=body)
        assert answer.is_success, (path, answer.text)
        found: dict[str, Any] = answer.json()
        return found

    def limit(self, *, above_used: int | None) -> None:
        """Set ``maxmemory`` of every master: bytes above what it uses now, None for far below."""
        for master in self.backend.masters():
            with master.client() as admin:
                used = admin.info("memory")["used_memory"]
                admin.config_set("maxmemory", 1 if above_used is None else used + above_used)

    def logs(self) -> str:
        return f"{self.node.process.log_tail()}\n{self.scheduler.log_tail()}"


@pytest.fixture(params=["standalone", "cluster"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    clustered = request.param == "cluster"
    with own_server(tmp_path / "redis", cluster=clustered, node_timeout_ms=60_000) as backend:
        node = ApiNode("node", tmp_path, backend.url, workers=1, env=ENV)
        leader = scheduler("scheduler", tmp_path, backend.url, ENV)
        try:
            leader.start()
            node.start()
            with httpx.Client(base_url=node.url, timeout=60) as client:
                yield Installation(backend, node, leader, tmp_path, client)
        finally:
            node.stop()
            leader.stop()


def test_a_full_redis_is_drained_by_workers_with_processes_restarted(
    installation: Installation,
) -> None:
    enqueued = Enqueued(installation)
    held = enqueued.prepare()
    installation.limit(above_used=1_000_000)
    waiting = enqueued.fill()
    installation.limit(above_used=None)

    assert len(waiting) > len(QUEUES)
    restart(installation)

    purged = installation.post(f"/queues/{QUEUES[0]}/purge", {"confirm": True})["purged"]
    assert purged > 0
    cancelled = next(id_ for id_ in reversed(waiting) if enqueued.queues[id_] != QUEUES[0])
    assert installation.client.delete(f"/ojs/v1/jobs/{cancelled}").is_success
    gone = {id_ for id_ in waiting if enqueued.queues[id_] == QUEUES[0]} | {cancelled}
    assert len(gone) >= purged
    done = drain(installation, held, set(enqueued.queues) - gone)

    assert done == set(enqueued.queues) - gone
    with observer(installation.backend) as db:
        wait_until(
            lambda: (
                not any(
                    db.zcount(key, f"({time.time() * 1000:.0f}", "+inf")
                    for key in db.scan_iter("ojs:{*}:finished", count=1000)
                )
            ),
            what="the retention of every job is over",
        )
    # A scheduler that begins to lead checks all shards at once, not a minute later.
    installation.scheduler.kill()
    installation.scheduler.start()
    with observer(installation.backend) as db:
        wait_until(
            lambda: not any(True for _ in db.scan_iter("ojs:{*}:j:*", count=1000)),
            what="retention has removed every job",
        )
    assert_refused(installation, QUEUES[1])
    assert await_invariants(installation.backend).problems == []


@dataclass(slots=True)
class Enqueued:
    """Jobs that were accepted: ``queues`` has the queue of each id."""

    installation: Installation
    queues: dict[str, str] = field(default_factory=dict)

    def put(self, queue: str, **options: Any) -> str:
        body = {"type": "t", "args": [], "options": {"queue": queue, "retry": RETRY, **options}}
        job_id: str = self.installation.post("/jobs", body)["job"]["id"]
        self.queues[job_id] = queue
        return job_id

    def prepare(self) -> list[str]:
        """Jobs in every state that a worker or time brings forward; returns the active ones."""
        for queue in QUEUES[1:4]:
            self.put(queue, delay_until="+PT2S")
            self.put(queue)
        fetch = {"queues": QUEUES[1:4], "count": 3, "worker_id": "early"}
        fetch["visibility_timeout_ms"] = 600_000  # the restarts may take long
        active = [job["id"] for job in self.installation.post("/workers/fetch", fetch)["jobs"]]
        assert len(active) == 3
        nacked = self.put(QUEUES[5])
        [job] = self.installation.post("/workers/fetch", {"queues": [QUEUES[5]]})["jobs"]
        assert job["id"] == nacked
        error = {"code": "handler_error", "message": "no"}
        self.installation.post("/workers/nack", {"job_id": nacked, "error": error})
        return active

    def fill(self) -> list[str]:
        """Enqueue large jobs until every queue refuses one; returns their ids."""
        accepted: list[str] = []
        open_ = list(QUEUES)
        while open_:
            for queue in list(open_):
                body = {"type": "t", "args": [BODY], "options": {"queue": queue}}
                answer = self.installation.client.post("/ojs/v1/jobs", json=body)
                if answer.is_success:
                    found = answer.json()["job"]["id"]
                    self.queues[found] = queue
                    accepted.append(found)
                else:
                    open_.remove(queue)
                    assert_is_refusal(answer)
        return accepted


def assert_is_refusal(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["details"]["outcome"] == "not_applied"


def assert_refused(installation: Installation, queue: str) -> None:
    """One job and a batch are refused."""
    job = {"type": "t", "args": [], "options": {"queue": queue}}
    assert_is_refusal(installation.client.post("/ojs/v1/jobs", json=job))
    batch = {"jobs": [{**job, "options": {"queue": queue}} for queue in QUEUES]}
    assert_is_refusal(installation.client.post("/ojs/v1/jobs/batch", json=batch))


def restart(installation: Installation) -> None:
    """Replace the scheduler and the API process, and start one more API node."""
    installation.scheduler.kill()
    installation.scheduler.start()
    [process] = installation.node.api_processes()
    os.kill(process, signal.SIGKILL)
    await_death(process)
    installation.node.await_ready()
    more = ApiNode("more", installation.directory, installation.backend.url, workers=1, env=ENV)
    try:
        more.start()
    finally:
        more.stop()


def drain(installation: Installation, held: list[str], expected: set[str]) -> set[str]:
    """Ack what is held, then fetch and ack until everything expected is done."""
    done: set[str] = set()
    failed_once = False
    beat = {"worker_id": "early", "active_jobs": held}
    assert set(installation.post("/workers/heartbeat", beat)["jobs_extended"]) == set(held)
    for job_id in held:
        installation.post("/workers/ack", {"job_id": job_id, "result": {"n": 1}})
        done.add(job_id)

    def one_round() -> bool:
        nonlocal failed_once
        fetch = {"queues": QUEUES, "count": 10, "worker_id": "late", "timeout_ms": 500}
        for job in installation.post("/workers/fetch", fetch)["jobs"]:
            if not failed_once:
                failed_once = True
                error = {"code": "handler_error", "message": "once"}
                installation.post("/workers/nack", {"job_id": job["id"], "error": error})
                continue
            installation.post("/workers/ack", {"job_id": job["id"], "result": {"n": 1}})
            done.add(job["id"])
        return expected <= done

    wait_until(one_round, timeout_s=120, what=f"all is drained\n{installation.logs()}")
    return done
