"""Kill (SIGKILL) a worker that has leases."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import httpx
import pytest

from tests.support.deployment import Deployment
from tests.support.invariants import await_invariants
from tests.support.servers import wait_until

QUEUE = "held"
JOBS = 10


@pytest.mark.parametrize(
    ("lease_ms", "beat_s", "error"),
    [
        pytest.param(1500, 0, "visibility_timeout", id="its-lease-ends"),
        pytest.param(60_000, 0.3, "worker_lost", id="it-misses-heartbeats"),
    ],
)
def test_jobs_of_a_killed_worker_are_run_by_another(
    deployment: Deployment, kill_round: int, lease_ms: int, beat_s: float, error: str
) -> None:
    with httpx.Client(base_url=deployment.url, timeout=60) as client:
        last_chance = _enqueue(client, max_attempts=1)
        ids = [_enqueue(client, max_attempts=3) for _ in range(JOBS - 1)]
        held = _kill_a_worker(deployment.url, f"doomed-{kill_round}-{error}", lease_ms, beat_s)
        assert set(held) == {last_chance, *ids}

        wait_until(
            lambda: all(_job(client, id_)["state"] != "active" for id_ in held),
            what="the dead worker's jobs are taken from it",
        )

        assert _job(client, last_chance)["state"] == "discarded"
        for id_ in ids:
            job = _job(client, id_)
            # The death of a worker does not count: the attempt is one more than planned.
            planned = 3 if error == "visibility_timeout" else 4
            assert (job["state"], job["attempt"], job["max_attempts"]) == ("available", 1, planned)
            assert [entry["type"] for entry in job["errors"]] == [error]
        again: dict[str, int] = {}
        while len(again) < len(ids):
            fetched = _fetch(client, "heir", 2 * JOBS)
            assert len(fetched) <= 1 or error == "visibility_timeout", "a suspect runs alone"
            for job in fetched:
                again[job["id"]] = job["attempt"]
                client.post("/ojs/v1/workers/ack", json={"job_id": job["id"]}).raise_for_status()
        assert again == dict.fromkeys(ids, 2)

    report = await_invariants(deployment.backend)
    assert report.count() == {"completed": JOBS - 1, "discarded": 1}


def _enqueue(client: httpx.Client, *, max_attempts: int) -> str:
    options = {"queue": QUEUE, "retry": {"max_attempts": max_attempts}}
    body = {"type": "kill.held", "args": [], "options": options}
    answer = client.post("/ojs/v1/jobs", json=body).raise_for_status()
    return str(answer.json()["job"]["id"])


def _kill_a_worker(url: str, name: str, lease_ms: int, beat_s: float) -> list[str]:
    command = [sys.executable, "-m", "tests.kill.worker", url, QUEUE, name]
    command += [str(lease_ms), str(beat_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        held: list[str] = json.loads(worker.stdout.readline())
        worker.kill()
    return held


def _job(client: httpx.Client, id_: str) -> dict[str, Any]:
    answer = client.get(f"/ojs/v1/jobs/{id_}").raise_for_status()
    job: dict[str, Any] = answer.json()["job"]
    return job


def _fetch(client: httpx.Client, worker: str, count: int) -> list[dict[str, Any]]:
    body = {"queues": [QUEUE], "worker_id": worker, "count": count}
    answer = client.post("/ojs/v1/workers/fetch", json=body).raise_for_status()
    jobs: list[dict[str, Any]] = answer.json()["jobs"]
    return jobs
