"""The bytes of clients that save and resume checkpoints, and what ext-durable-execution expects.

The files of that suite check nothing: the runner knows neither their ``expect`` nor their
``capture``. So each test here names the file whose expectations it checks.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.clients.wire import Answer, Wire

_TYPE = "application/openjobspec+json"
JSON = {"Content-Type": _TYPE, "Accept": _TYPE}
BASE = "/ojs/v1"


async def send(wire: Wire, method: str, path: str, body: Any = None) -> Answer:
    encoded = None if body is None else json.dumps(body, separators=(",", ":")).encode()
    return await wire.send(method, path, JSON, encoded)


async def enqueue(wire: Wire, queue: str = "durable", **options: Any) -> str:
    body = {"type": "test.durable", "args": ["x"], "options": {"queue": queue, **options}}
    made = await send(wire, "POST", f"{BASE}/jobs", body)
    assert made.status == 201
    job_id: str = made.json["id"]
    return job_id


async def fetch(wire: Wire, queue: str = "durable", worker: str = "w1") -> dict[str, Any]:
    body = {"queues": [queue], "worker_id": worker, "wait_ms": 20_000}
    fetched = await send(wire, "POST", f"{BASE}/workers/fetch", body)
    assert fetched.status == 200
    job: dict[str, Any] = fetched.json["jobs"][0]
    assert fetched.json["job"] == job
    return job


async def fail(wire: Wire, job_id: str, **error: Any) -> None:
    body = {"job_id": job_id, "error": {"code": "handler_error", "message": "no", **error}}
    assert (await send(wire, "POST", f"{BASE}/workers/nack", body)).status == 200


async def put(wire: Wire, job_id: str, state: Any) -> Answer:
    return await send(wire, "PUT", f"{BASE}/jobs/{job_id}/checkpoint", {"state": state})


async def get(wire: Wire, job_id: str) -> Answer:
    return await send(wire, "GET", f"{BASE}/jobs/{job_id}/checkpoint")


async def delete(wire: Wire, job_id: str) -> Answer:
    return await send(wire, "DELETE", f"{BASE}/jobs/{job_id}/checkpoint")


QUICK: dict[str, Any] = {
    "max_attempts": 3,
    "retry": {"initial_interval": "PT0.1S", "jitter": False},
}


# checkpoint-save-retrieve, -sequence, -overwrite, -overwrite-with-smaller-state, -concurrent-saves,
# -timeout-during-save (EXT-DUR-001, 002, 004, 010, 017, 018); spec 4.1 and 4.3.
async def test_each_save_replaces_the_whole_state_and_counts(wire: Wire) -> None:
    job_id = await enqueue(wire)
    states = [{"a": 1, "b": {"c": 2}}, {"a": 2}, {"only": "x"}]
    for sequence, state in enumerate(states, 1):
        saved = await put(wire, job_id, state)
        assert (saved.status, saved.json["sequence"]) == (200, sequence)
        assert saved.json["checkpoint"]["sequence"] == sequence
        assert saved.json["checkpoint"]["created_at"].endswith("Z")
        read = await get(wire, job_id)
        flat = read.json
        assert (read.status, flat["job_id"]) == (200, job_id)
        assert (flat["state"], flat["sequence"]) == (state, sequence)
        assert flat.pop("checkpoint") == flat


# checkpoint-large-state, -complex-nested-state, -empty-state (EXT-DUR-006, 011, 014); spec 4.1.
@pytest.mark.parametrize(
    "state",
    [
        *({}, [], "", 0, None, False, {"items": [{"index": n, "m": "é" * 9} for n in range(500)]}),
        {"pipeline": {"stages": [{"name": "extract", "rows": 15000}, {"name": "load"}]}},
    ],
    ids=range(8),
)
async def test_any_json_value_is_a_state(wire: Wire, state: Any) -> None:
    job_id = await enqueue(wire)
    assert (await put(wire, job_id, state)).status == 200
    read = await get(wire, job_id)
    assert (read.json["state"], read.json["sequence"]) == (state, 1)


# checkpoint-delete, -not-found, -delete-idempotent, -double-delete-idempotent,
# -rapid-save-delete-save (EXT-DUR-003, 005, 007, 022, 019).
async def test_a_delete_may_be_repeated_and_starts_the_sequence_again(wire: Wire) -> None:
    job_id = await enqueue(wire)
    assert (await get(wire, job_id)).status == 404
    await put(wire, job_id, {"phase": "first"})
    await put(wire, job_id, {"phase": "second"})
    for _ in range(2):
        answer = await delete(wire, job_id)
        assert (answer.status, answer.json) == (200, {"deleted": True, "job_id": job_id})
        assert (await get(wire, job_id)).status == 404
    await put(wire, job_id, {"phase": "after-delete"})
    read = await get(wire, job_id)
    assert (read.json["state"], read.json["sequence"]) == ({"phase": "after-delete"}, 1)


# checkpoint-invalid-job (EXT-DUR-008).
async def test_an_unknown_job_is_not_found(wire: Wire) -> None:
    unknown = "01965000-0000-7000-8000-000000000000"
    assert (await put(wire, unknown, {"data": "orphaned"})).status == 404
    assert (await get(wire, unknown)).status == 404


# checkpoint-multiple-jobs-isolated (EXT-DUR-016).
async def test_jobs_do_not_share_checkpoints(wire: Wire) -> None:
    first, second = await enqueue(wire), await enqueue(wire)
    await put(wire, first, {"owner": "a"})
    await put(wire, second, {"owner": "b"})
    for job_id, owner in ((first, "a"), (second, "b")):
        read = (await get(wire, job_id)).json
        assert (read["state"], read["sequence"]) == ({"owner": owner}, 1)


# checkpoint-after-completion, -cancelled-job, -discarded-job (EXT-DUR-013, 015, 021).
async def test_an_ended_job_takes_no_checkpoint(wire: Wire) -> None:
    completed = await enqueue(wire)
    assert (await fetch(wire))["id"] == completed
    await send(wire, "POST", f"{BASE}/workers/ack", {"job_id": completed})
    cancelled = await enqueue(wire)
    await send(wire, "DELETE", f"{BASE}/jobs/{cancelled}")
    discarded = await enqueue(wire, max_attempts=1)
    assert (await fetch(wire))["id"] == discarded
    await fail(wire, discarded, retryable=False)
    for job_id in (completed, cancelled, discarded):
        assert (await put(wire, job_id, {"should_not": "be_saved"})).status == 409
        assert (await get(wire, job_id)).status == 404


# checkpoint-resume-after-nack, -multi-attempt-progression (EXT-DUR-009, 020); spec 6.1.
async def test_a_further_attempt_continues_from_the_checkpoint(wire: Wire) -> None:
    job_id = await enqueue(wire, **QUICK)
    assert "checkpoint" not in await fetch(wire)
    await put(wire, job_id, {"pct": 25, "attempt": 1})
    await fail(wire, job_id)

    again = await fetch(wire, worker="w2")

    assert (again["id"], again["attempt"]) == (job_id, 2)
    assert again["checkpoint"]["state"] == {"pct": 25, "attempt": 1}
    assert again["checkpoint"]["sequence"] == 1
    assert (await put(wire, job_id, {"pct": 75, "attempt": 2})).json["sequence"] == 2
    done = await send(wire, "POST", f"{BASE}/workers/ack", {"job_id": job_id, "worker_id": "w2"})
    assert done.status == 200
    read = (await get(wire, job_id)).json
    assert (read["state"], read["sequence"]) == ({"pct": 75, "attempt": 2}, 2)


# checkpoint-deleted-before-resume (EXT-DUR-012).
async def test_a_deleted_checkpoint_does_not_come_back(wire: Wire) -> None:
    job_id = await enqueue(wire, **QUICK)
    await fetch(wire)
    await put(wire, job_id, {"progress": 50})
    await delete(wire, job_id)
    await fail(wire, job_id)
    assert "checkpoint" not in await fetch(wire)
    assert (await get(wire, job_id)).status == 404


# Spec: ojs-durable-execution 4.2 and 9.1.
async def test_a_save_is_checked(wire: Wire) -> None:
    job_id = await enqueue(wire)
    await fetch(wire)
    target = f"{BASE}/jobs/{job_id}/checkpoint"
    answer = await send(wire, "POST", target, {"data": 1})
    assert (answer.status, answer.json["error"]["details"]["field"]) == (400, "state")
    assert (await send(wire, "POST", target, {"state": 1, "worker_id": "w2"})).status == 409
    assert (await send(wire, "POST", target, {"state": 1, "worker_id": "w1"})).status == 200
    assert (await put(wire, job_id, "x" * (1024 * 1024 - 2))).status == 200
    assert (await put(wire, job_id, "x" * (1024 * 1024 - 1))).status == 413
    assert (await get(wire, job_id)).json["sequence"] == 2


# ojs-python-sdk, src/ojs/durable.py:105 (create), :210 (checkpoint), :226 (complete); ojs-js-sdk,
# src/durable.ts:84, :188, :207. Their transports put the base path before a path that has it.
@pytest.mark.parametrize("prefix", ["/ojs/v1/ojs/v1", "/ojs/v1"])
async def test_the_durable_context_of_the_sdks(wire: Wire, prefix: str) -> None:
    job_id = await enqueue(wire)
    await fetch(wire)
    resume = await send(wire, "GET", f"{prefix}/checkpoints/{job_id}/resume")
    assert (resume.status, resume.json) == (200, {"has_checkpoint": False, "checkpoint": None})
    log = '[{"seq":0,"type":"call","result":1,"key":"k"}]'
    metadata = {"_replay_log": log, "attempt": "1"}
    body = {"state": {"fetched": True}, "step_index": 1, "metadata": metadata}

    saved = await send(wire, "POST", f"{prefix}/checkpoints/{job_id}", body)

    assert saved.status == 200
    resume = await send(wire, "GET", f"{prefix}/checkpoints/{job_id}/resume")
    assert resume.json["has_checkpoint"] is True
    checkpoint = resume.json["checkpoint"]
    assert {name: checkpoint[name] for name in body} == body
    assert (await send(wire, "DELETE", f"{prefix}/checkpoints/{job_id}")).status == 200
    resume = await send(wire, "GET", f"{prefix}/checkpoints/{job_id}/resume")
    assert resume.json["has_checkpoint"] is False


# ojs-ruby-sdk, lib/ojs/durable.rb:32 (save_checkpoint), :45 (resume_checkpoint) and :61
# (delete_checkpoint).
async def test_the_durable_worker_of_ruby(wire: Wire) -> None:
    job_id = await enqueue(wire)
    target = f"{BASE}/jobs/{job_id}/checkpoint"
    plain = {
        "Accept-Encoding": "gzip;q=1.0,deflate;q=0.6,identity;q=0.3",
        "Accept": "*/*",
        "User-Agent": "Ruby",
    }
    typed = {"Content-Type": "application/json", **plain}
    body = b'{"state":{"processed":1000}}'
    assert (await wire.send("PUT", target, typed, body)).status == 200
    assert (await wire.send("GET", target, plain)).json["state"] == {"processed": 1000}
    assert (await wire.send("DELETE", target, typed)).status == 200
