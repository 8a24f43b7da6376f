"""The bytes of clients that report and read progress: Python SDK, JS SDK, CLI and admin UI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.clients.wire import Answer, Wire

_TYPE = "application/openjobspec+json"
# ojs-python-sdk, src/ojs/transport/http.py:56: the headers of every request; httpx adds the others.
PYTHON = {
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
    "User-Agent": "python-httpx/0.28.1",
    "Content-Type": _TYPE,
    "Accept": _TYPE,
}
# ojs-js-sdk, src/transport/http.ts:34: the headers of every request; undici adds the others.
JS = {
    "connection": "keep-alive",
    "Content-Type": _TYPE,
    "Accept": _TYPE,
    "OJS-Version": "1.0",
    "accept-language": "*",
    "sec-fetch-mode": "cors",
    "user-agent": "node",
    "accept-encoding": "gzip, deflate",
}


async def send(
    wire: Wire, headers: Mapping[str, str], method: str, path: str, body: Any = None
) -> Answer:
    encoded = None if body is None else json.dumps(body, separators=(",", ":")).encode()
    return await wire.send(method, path, headers, encoded)


async def active(wire: Wire) -> str:
    """Enqueue and fetch a job; return its id."""
    made = await send(wire, PYTHON, "POST", "/ojs/v1/jobs", {"type": "t", "args": []})
    fetched = await send(
        wire, PYTHON, "POST", "/ojs/v1/workers/fetch", {"queues": ["default"], "worker_id": "w"}
    )
    job_id: str = made.json["job"]["id"]
    assert fetched.json["jobs"][0]["id"] == job_id
    return job_id


# ojs-python-sdk, src/ojs/progress.py:53 (report_progress) and src/ojs/transport/http.py:236
# (get_progress).
async def test_the_python_sdk_reports_a_percentage(wire: Wire) -> None:
    job_id = await active(wire)
    body = {"job_id": job_id, "percentage": 47, "message": "Processed 47 rows", "data": {"n": 47}}

    answer = await send(wire, PYTHON, "POST", "/ojs/v1/workers/progress", body)

    assert answer.status == 200
    assert answer.json["progress"] == 0.47
    read = await send(wire, PYTHON, "GET", f"/ojs/v1/jobs/{job_id}/progress")
    assert read.json == answer.json
    assert read.json["job_id"] == job_id
    assert (read.json["message"], read.json["data"]) == ("Processed 47 rows", {"n": 47})


# ojs-js-sdk, src/progress.ts:52 (reportProgress): message and data may be absent.
async def test_the_js_sdk_reports_a_percentage(wire: Wire) -> None:
    job_id = await active(wire)
    for percentage, progress in ((0, 0.0), (12.5, 0.125), (100, 1.0)):
        body = {"job_id": job_id, "percentage": percentage}
        answer = await send(wire, JS, "POST", "/ojs/v1/workers/progress", body)
        assert (answer.status, answer.json["progress"]) == (200, progress)
        assert (answer.json["message"], answer.json["data"]) == (None, None)


# ojs-admin-ui, src/api/client.ts:230 (jobProgress) and src/api/types.ts:239 (JobProgress).
async def test_the_admin_ui_reads_progress(wire: Wire) -> None:
    job_id = await active(wire)
    target = f"/ojs/v1/jobs/{job_id}/progress"
    headers = {"accept": "application/json", "user-agent": "Mozilla/5.0"}
    read = await wire.send("GET", target, headers)
    nothing = {"progress": None, "message": None, "data": None, "updated_at": None}
    assert (read.status, read.json) == (200, {"job_id": job_id, "state": "active", **nothing})
    assert read.headers["cache-control"] == "no-cache"

    await send(wire, JS, "PUT", target, {"progress": 0.75, "data": {"phase": "load"}})

    read = await wire.send("GET", target, headers)
    assert (read.json["progress"], read.json["data"]) == (0.75, {"phase": "load"})
    assert read.json["updated_at"].endswith("Z")
    assert read.headers["x-ojs-progress"] == "0.75"
    assert read.headers["last-modified"].endswith("GMT")


# ojs-cli, cmd/ojs/commands/status.go:59 (progress) and :62 (progress_data): members of the job.
async def test_the_cli_finds_progress_in_the_job(wire: Wire) -> None:
    job_id = await active(wire)
    body = {"job_id": job_id, "progress": 0.5, "data": {"rows": 3}}
    await send(wire, PYTHON, "POST", "/ojs/v1/workers/progress", body)

    headers = {"User-Agent": "Go-http-client/1.1", "Accept": _TYPE, "Accept-Encoding": "gzip"}
    job = (await wire.send("GET", f"/ojs/v1/jobs/{job_id}", headers)).json["job"]

    assert (job["progress"], job["progress_data"]) == (0.5, {"rows": 3})


# Spec: ojs-progress 5.2 and 6.1.
async def test_a_report_that_says_nothing_is_refused(wire: Wire) -> None:
    job_id = await active(wire)
    target = f"/ojs/v1/jobs/{job_id}/progress"
    silent: tuple[dict[str, Any], ...] = ({}, {"message": "m"}, {"progress": None, "data": None})
    for body in silent:
        answer = await send(wire, JS, "PUT", target, body)
        assert (answer.status, answer.json["error"]["details"]["field"]) == (400, "progress")
    for body, field in (({"progress": "x"}, "progress"), ({"data": [1]}, "data")):
        answer = await send(wire, JS, "PUT", target, body)
        assert (answer.status, answer.json["error"]["details"]["field"]) == (400, field)
    answer = await send(wire, JS, "PUT", target, {"data": {"d": "x" * 20_000}})
    assert answer.status == 413
    unknown = "/ojs/v1/jobs/01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee/progress"
    assert (await send(wire, JS, "PUT", unknown, {"progress": 1})).status == 404
    assert (await send(wire, JS, "GET", unknown)).status == 404
    stale = {"progress": 0.9, "worker_id": "another"}
    assert (await send(wire, JS, "PUT", target, stale)).status == 409
