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


# ojs-ruby-sdk, lib/ojs/job.rb:84 (to_hash): the SDK chooses the id, options lie at the top level.
async def enqueue_own(wire: Wire, job_id: str) -> None:
    job = {
        "specversion": "1.0",
        "id": job_id,
        "type": "mail.send",
        "queue": "mail",
        "args": [{"to": "a"}],
        "meta": {"tenant": "t1"},
        "priority": 7,
        "timeout": 30,
    }
    assert (await call(wire, "POST", "/ojs/v1/jobs", job)).status == 201


# ojs-ruby-sdk, lib/ojs/job.rb:52 (from_hash): reads the members of the response itself.
async def test_a_job_is_read_from_the_top_level(wire: Wire) -> None:
    job_id = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"
    await enqueue_own(wire, job_id)
    path = f"/ojs/v1/jobs/{job_id}"
    job = (await call(wire, "GET", path)).json
    assert (job["args"], job["meta"]) == ([{"to": "a"}], {"tenant": "t1"})
    assert (job["priority"], job["attempt"], job["state"]) == (7, 0, "available")
    # lib/ojs/worker.rb:247 and :263: the bodies of fetch and ack.
    fetch = {"queues": ["mail"], "batch_size": 5}
    assert (await call(wire, "POST", "/ojs/v1/workers/fetch", fetch)).status == 200
    ack = {"job_id": job_id, "result": {"sent": 1}}
    assert (await call(wire, "POST", "/ojs/v1/workers/ack", ack)).status == 200
    job = (await call(wire, "GET", path)).json
    assert (job["state"], job["result"], job["attempt"]) == ("completed", {"sent": 1}, 1)
    assert job["started_at"] <= job["completed_at"]


# ojs-ruby-sdk, lib/ojs/queue.rb:43 (QueueStats.from_hash).
async def test_the_statistics_of_a_queue_are_read_from_the_top_level(wire: Wire) -> None:
    await enqueue_own(wire, "01962222-bbbb-7ccc-8ddd-eeeeeeeeeee1")
    stats = (await call(wire, "GET", "/ojs/v1/queues/mail/stats")).json
    assert (stats["queue"], stats["depth"], stats["active"]) == ("mail", 1, 0)
    assert (stats["scheduled"], stats["retryable"], stats["dead_letter"]) == (0, 0, 0)
    assert stats["paused"] is False
    assert stats["created_at"].endswith("Z")


# ojs-ruby-sdk, lib/ojs/client.rb:196 (list_cron_jobs) and :209 (register_cron_job).
async def test_cron_jobs_are_listed_as_entries(wire: Wire) -> None:
    cron = {"name": "nightly", "cron": "0 3 * * *", "type": "mail.digest", "args": []}
    assert (await call(wire, "POST", "/ojs/v1/cron", cron)).status == 201
    [entry] = (await call(wire, "GET", "/ojs/v1/cron")).json["entries"]
    assert (entry["name"], entry["cron"]) == ("nightly", "0 3 * * *")
