"""The bytes of the Go SDK, and what its structs can decode.

``net/http`` sends ``User-Agent`` first, then the headers by name, then ``Accept-Encoding``.
"""

from __future__ import annotations

import json
from typing import Any

import trio

from tests.clients.wire import Answer, Wire

_TYPE = "application/openjobspec+json"


# ojs-go-sdk, transport.go:58: the headers of every request.
async def call(wire: Wire, method: str, path: str, body: Any = None) -> Answer:
    headers = {"User-Agent": "Go-http-client/1.1", "Accept": _TYPE}
    encoded = None
    if body is not None:
        headers["Content-Type"] = _TYPE
        encoded = json.dumps(body, separators=(",", ":")).encode()
    elif method == "POST":
        encoded = b""
    headers |= {"Ojs-Version": "1.0.0-rc.1", "Accept-Encoding": "gzip"}
    return await wire.send(method, path, headers, encoded)


# ojs-go-sdk, client.go:179 (Health) and client.go:188: LatencyMS and UptimeSeconds are ints.
async def test_the_health_decodes_into_integers(wire: Wire) -> None:
    answer = await call(wire, "GET", "/ojs/v1/health")
    assert answer.status == 200
    health = answer.json
    assert type(health["backend"]["latency_ms"]) is int
    assert type(health["uptime_seconds"]) is int
    assert (health["status"], health["backend"]["status"]) == ("ok", "ok")


# ojs-go-sdk, client.go:201 (Manifest) and client.go:211: Extensions is a []string, Capabilities a
# map of bools, Endpoints a map of strings. ojs-rust-sdk, src/queue.rs (Manifest): the same types.
async def test_the_manifest_decodes(wire: Wire) -> None:
    manifest = (await call(wire, "GET", "/ojs/manifest")).json
    assert manifest["extensions"] == ["admin-api", "backpressure"]
    assert manifest["protocols"] == ["http"]
    assert all(type(value) is bool for value in manifest["capabilities"].values())
    assert all(type(value) is str for value in manifest["endpoints"].values())
    assert all(type(value) is str for value in manifest["implementation"].values())
    assert (manifest["ojs_version"], manifest["conformance_level"]) == ("1.0", 4)


async def enqueue(wire: Wire, queue: str) -> None:
    body = {"type": "mail.send", "args": [{"to": "a"}], "options": {"queue": queue, "priority": 0}}
    assert (await call(wire, "POST", "/ojs/v1/jobs", body)).status == 201


# ojs-go-sdk, queue.go:57 (GetQueueStats): Queue is a string. ojs-rust-sdk, src/queue.rs
# (QueueStats): so is queue, and averages are floats that may be written as integers.
async def test_the_statistics_of_a_queue_decode(wire: Wire) -> None:
    await enqueue(wire, "mail")
    stats = (await call(wire, "GET", "/ojs/v1/queues/mail/stats")).json
    assert (stats["queue"], stats["status"], stats["depth"]) == ("mail", "active", 1)
    assert (stats["stats"]["available"], stats["stats"]["active"]) == (1, 0)
    assert stats["computed_at"].endswith("Z")


# ojs-go-sdk, options.go:122 (UniquePolicy) and :141 (toWire): Key names fields of args.
async def test_the_key_of_a_unique_job_names_arguments(wire: Wire) -> None:
    def job(email: str, text: str) -> dict[str, Any]:
        unique = {"key": ["email"], "on_conflict": "ignore"}
        options = {"queue": "default", "priority": 0, "unique": unique}
        return {"type": "mail.send", "args": [{"email": email, "text": text}], "options": options}

    first = await call(wire, "POST", "/ojs/v1/jobs", job("a@b.c", "hi"))
    again = await call(wire, "POST", "/ojs/v1/jobs", job("a@b.c", "bye"))
    other = await call(wire, "POST", "/ojs/v1/jobs", job("d@e.f", "hi"))
    assert (first.status, again.status, other.status) == (201, 200, 201)
    assert again.json["job"]["id"] == first.json["job"]["id"] != other.json["job"]["id"]


# ojs-go-sdk, options.go:135: the period is sent as period_ms.
async def test_the_period_of_a_unique_job_ends(wire: Wire) -> None:
    def job(period_ms: int) -> dict[str, Any]:
        unique = {"key": ["email"], "period_ms": period_ms, "on_conflict": "reject"}
        options = {"queue": "default", "priority": 0, "unique": unique}
        return {"type": "mail.send", "args": [{"email": "a@b.c"}], "options": options}

    first = await call(wire, "POST", "/ojs/v1/jobs", job(3_600_000))
    assert first.status == 201
    # The policy of the new job decides: the first one is younger than an hour, older than 1 ms.
    assert (await call(wire, "POST", "/ojs/v1/jobs", job(3_600_000))).status == 409
    await trio.sleep(0.01)
    assert (await call(wire, "POST", "/ojs/v1/jobs", job(1))).status == 201


async def fetched(wire: Wire) -> list[dict[str, Any]]:
    # ojs-go-sdk, worker.go:402: the body of a fetch.
    body = {"queues": ["default"], "count": 10, "worker_id": "worker-1"}
    answer = await call(wire, "POST", "/ojs/v1/workers/fetch", body)
    jobs: list[dict[str, Any]] = answer.json["jobs"]
    return jobs


# ojs-go-sdk, workflow.go:177 (CreateWorkflow of a batch): callbacks are steps that wait for all.
async def test_the_callbacks_of_a_batch_are_callbacks(wire: Wire) -> None:
    ids = ["job-0", "job-1"]
    steps: list[dict[str, Any]] = [
        {"id": name, "type": "import.part", "args": [{"part": number}], "depends_on": []}
        for number, name in enumerate(ids)
    ]
    for name in ("on-complete", "on-success", "on-failure"):
        step = {"id": name, "type": f"import.{name}", "args": [], "depends_on": ids}
        steps.append(step)
    made = await call(wire, "POST", "/ojs/v1/workflows", {"steps": steps})
    assert made.status == 201
    workflow = made.json["workflow"]
    assert [step["id"] for step in workflow["steps"]] == [step["id"] for step in steps]
    assert workflow["callbacks"].keys() == {"on_complete", "on_success", "on_failure"}

    first, second = await fetched(wire)
    assert (first["type"], second["type"]) == ("import.part", "import.part")
    ack = {"job_id": first["id"], "result": {"n": 1}}
    assert (await call(wire, "POST", "/ojs/v1/workers/ack", ack)).status == 200
    # ojs-go-sdk, worker.go:434 (nackJob).
    failure = {"code": "bad_data", "message": "no rows", "retryable": False}
    nack = {"job_id": second["id"], "error": failure}
    assert (await call(wire, "POST", "/ojs/v1/workers/nack", nack)).json["state"] == "discarded"

    called: set[str] = set()
    with trio.fail_after(60):
        while len(called) < 2:
            called |= {job["type"] for job in await fetched(wire)}
            await trio.sleep(0.05)
    assert called == {"import.on-complete", "import.on-failure"}
    # ojs-go-sdk, workflow.go:230 (GetWorkflow) reads the members of "workflow".
    path = f"/ojs/v1/workflows/{workflow['id']}"
    states = {
        step["id"]: step["state"]
        for step in (await call(wire, "GET", path)).json["workflow"]["steps"]
    }
    assert (states["job-0"], states["job-1"]) == ("completed", "failed")
    assert states["on-success"] == "cancelled"
