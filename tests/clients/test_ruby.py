"""The bytes of the Ruby SDK."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from tests.clients.wire import Answer, Wire

_TYPE = "application/openjobspec+json"


# ojs-ruby-sdk, lib/ojs/transport/http.rb:137: the headers of every request; Net::HTTP adds others.
async def call(wire: Wire, method: str, path: str, body: Any = None) -> Answer:
    headers = {
        "Content-Type": _TYPE,
        "Accept": _TYPE,
        "User-Agent": "ojs-ruby/0.4.0 ruby/3.3.6",
        "Ojs-Version": "1.0",
        "X-Request-Id": str(uuid4()),
        "Accept-Encoding": "gzip;q=1.0,deflate;q=0.6,identity;q=0.3",
        "Connection": "close",
    }
    encoded = None if body is None else json.dumps(body, separators=(",", ":")).encode()
    return await wire.send(method, path, headers, encoded)


async def _enqueue(wire: Wire) -> str:
    answer = await call(wire, "POST", "/ojs/v1/jobs", {"type": "report.build", "args": [1]})
    assert answer.status == 201
    return str(answer.json["job"]["id"])


# ojs-ruby-sdk, lib/ojs/worker.rb:247 (fetch), :281 (heartbeat), :262 (ack).
async def test_a_heartbeat_keeps_the_lease_of_a_job_fetched_without_a_worker_id(
    wire: Wire,
) -> None:
    job_id = await _enqueue(wire)
    fetched = await call(
        wire, "POST", "/ojs/v1/workers/fetch", {"queues": ["default"], "batch_size": 5}
    )
    assert [job["id"] for job in fetched.json["jobs"]] == [job_id]
    beat = {"worker_id": "worker_4ff3ab10-07b", "active_jobs": [job_id]}
    answer = await call(wire, "POST", "/ojs/v1/workers/heartbeat", beat)
    assert (answer.status, answer.json["jobs_extended"]) == (200, [job_id])
    assert answer.json["state"] == "running"
    done = await call(wire, "POST", "/ojs/v1/workers/ack", {"job_id": job_id, "result": 3})
    assert (done.status, done.json["state"]) == (200, "completed")


# ojs-ruby-sdk, lib/ojs/worker.rb:280. Only a lease without an owner is extended for any worker.
async def test_a_heartbeat_does_not_extend_the_lease_of_another_worker(wire: Wire) -> None:
    job_id = await _enqueue(wire)
    body = {"queues": ["default"], "batch_size": 5, "worker_id": "its-owner"}
    await call(wire, "POST", "/ojs/v1/workers/fetch", body)
    beat = {"worker_id": "worker_4ff3ab10-07b", "active_jobs": [job_id]}
    answer = await call(wire, "POST", "/ojs/v1/workers/heartbeat", beat)
    assert (answer.status, answer.json["jobs_extended"]) == (200, [])
