"""The bytes of a worker of the JavaScript SDK whose job has ended before its ack."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.test_js import call
from tests.clients.wire import Wire


async def _active(wire: Wire) -> str:
    """Enqueue a job and fetch it; return its id."""
    answer = await call(wire, "POST", "/ojs/v1/jobs", {"type": "report.build", "args": [1]})
    job_id = str(answer.json["job"]["id"])
    # ojs-js-sdk, src/worker.ts:328 (fetch): the worker names itself here, but not in its ack.
    body = {"queues": ["default"], "count": 1, "worker_id": "worker-1"}
    fetched = await call(wire, "POST", "/ojs/v1/workers/fetch", body)
    assert [job["id"] for job in fetched.json["jobs"]] == [job_id]
    return job_id


def _error(message: str, **details: Any) -> dict[str, Any]:
    # ojs-js-sdk, src/worker.ts:461: the error of the nack that follows a failed ack or handler.
    stack = f"OJSConflictError: {message}\n    at parseErrorResponse (file:///sdk/errors.js:150:16)"
    return {
        "code": "handler_error",
        "message": message,
        "retryable": True,
        "details": {"stack": stack, **details},
    }


# ojs-js-sdk, src/worker.ts:498 (ack), :509 (nack) and :518 (three tries of each, then it throws,
# and nothing catches what the nack throws).
@pytest.mark.parametrize("how", ["cancelled", "completed", "available", "retryable"])
async def test_a_nack_after_a_refused_ack_is_accepted_and_changes_nothing(
    wire: Wire, how: str
) -> None:
    job_id = await _active(wire)
    if how == "cancelled":
        await call(wire, "DELETE", f"/ojs/v1/jobs/{job_id}")
    elif how == "completed":
        await call(wire, "POST", "/ojs/v1/workers/ack", {"job_id": job_id, "result": 1})
    else:
        error = {"code": "boom", "message": "no"}
        nack = {"job_id": job_id, "error": error, "requeue": how == "available"}
        assert (await call(wire, "POST", "/ojs/v1/workers/nack", nack)).json["state"] == how
    before = (await call(wire, "GET", f"/ojs/v1/jobs/{job_id}")).json["job"]
    for _ in range(3):
        refused = await call(wire, "POST", "/ojs/v1/workers/ack", {"job_id": job_id, "result": 2})
        assert refused.status == 409
    error = _error(refused.json["error"]["message"])
    answer = await call(wire, "POST", "/ojs/v1/workers/nack", {"job_id": job_id, "error": error})
    assert (answer.status, answer.json["state"], answer.json["ignored"]) == (200, how, True)
    assert "job" not in answer.json, "the caller does not hold the job"
    assert (await call(wire, "GET", f"/ojs/v1/jobs/{job_id}")).json["job"] == before


# No client: the limits of the answer to src/worker.ts:509.
async def test_the_attempt_of_another_worker_is_not_failed(wire: Wire) -> None:
    job_id = await _active(wire)
    requeue = {"job_id": job_id, "requeue": True}
    assert (await call(wire, "POST", "/ojs/v1/workers/nack", requeue)).status == 200
    refused = await call(wire, "POST", "/ojs/v1/workers/ack", {"job_id": job_id})
    body = {"queues": ["default"], "count": 1, "worker_id": "worker-2"}
    [job] = (await call(wire, "POST", "/ojs/v1/workers/fetch", body)).json["jobs"]
    nack = {"job_id": job_id, "error": _error(refused.json["error"]["message"])}
    answer = await call(wire, "POST", "/ojs/v1/workers/nack", nack)
    assert (answer.status, answer.json["state"]) == (200, "active")
    done = {"job_id": job_id, "lease_id": job["lease_id"], "worker_id": "worker-2"}
    assert (await call(wire, "POST", "/ojs/v1/workers/ack", done)).status == 200


# No client: the limits of the answer to src/worker.ts:509.
async def test_other_late_nacks_are_refused(wire: Wire) -> None:
    job_id = await _active(wire)
    await call(wire, "POST", "/ojs/v1/workers/ack", {"job_id": job_id})
    for message in ("boom", "job '01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee' is completed"):
        nack = {"job_id": job_id, "error": _error(message)}
        assert (await call(wire, "POST", "/ojs/v1/workers/nack", nack)).status == 409


# No client: the limits of the answer to src/worker.ts:509.
@pytest.mark.parametrize("named", ["active", "held by another lease"])
async def test_the_holder_of_the_lease_fails_its_attempt_whatever_its_error_says(
    wire: Wire, named: str
) -> None:
    answer = await call(wire, "POST", "/ojs/v1/jobs", {"type": "report.build", "args": [1]})
    job_id = str(answer.json["job"]["id"])
    body = {"queues": ["default"], "worker_id": "worker-1"}
    [job] = (await call(wire, "POST", "/ojs/v1/workers/fetch", body)).json["jobs"]
    nack = {"job_id": job_id, "error": _error(f"job '{job_id}' is {named}")}
    if named != "active":  # only an ack or nack that names a lease gets this text
        nack["lease_id"] = job["lease_id"]
    answer = await call(wire, "POST", "/ojs/v1/workers/nack", nack)
    assert (answer.status, answer.json["state"]) == (200, "retryable")


# No client: the limits of the answer to src/worker.ts:509.
async def test_an_error_that_only_mentions_the_job_fails_the_attempt(wire: Wire) -> None:
    job_id = await _active(wire)
    error = _error("boom", job=f"job '{job_id}' is completed")
    answer = await call(wire, "POST", "/ojs/v1/workers/nack", {"job_id": job_id, "error": error})
    assert (answer.status, answer.json["state"]) == (200, "retryable")


# Conformance suites name no version: L0-LC-010 demands 409.
async def test_without_a_version_the_nack_is_refused(wire: Wire) -> None:
    job_id = await _active(wire)
    await call(wire, "POST", "/ojs/v1/workers/ack", {"job_id": job_id})
    body = b'{"job_id":"%b","error":{"message":"job \'%b\' is completed"}}'
    headers = {"Content-Type": "application/openjobspec+json"}
    encoded = body % (job_id.encode(), job_id.encode())
    answer = await wire.send("POST", "/ojs/v1/workers/nack", headers, encoded)
    assert answer.status == 409
