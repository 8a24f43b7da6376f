"""Workflows over HTTP: responses with the keys of every document."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from ojs_cluster.http.handlers import workflows
from ojs_cluster.store.features.queue_deletion.move_waiting import move
from ojs_cluster.store.features.workflows import read_workflows
from tests.http.api import Api
from tests.support.longest_step import measured_steps

URL = "/ojs/v1/workflows"


def steps(count: int, queue: str = "wf") -> list[dict[str, Any]]:
    return [{"type": f"s{i}", "args": [i], "options": {"queue": queue}} for i in range(count)]


async def ack_next(api: Api, result: Any = None) -> dict[str, Any]:
    [job] = await api.fetch("wf", worker_id="w1")
    body = {"job_id": job["id"], "worker_id": "w1", "result": result}
    assert (await api.post("/ojs/v1/workers/ack", body)).status == 200
    return job


async def test_a_chain_from_creation_to_completion(any_api: Api) -> None:
    made = await any_api.post(URL, {"type": "chain", "name": "etl", "steps": steps(2)})
    assert made.status == 201
    wrapped = made.json["workflow"]
    assert made.headers["location"] == f"{URL}/{wrapped['id']}"
    assert {**made.json, "workflow": None} == {**wrapped, "workflow": None}
    assert (wrapped["type"], wrapped["name"], wrapped["state"]) == ("chain", "etl", "running")
    assert [step["state"] for step in wrapped["steps"]] == ["pending", "waiting"]
    assert wrapped["steps"][1]["job_id"] is None
    first = await ack_next(any_api, {"rows": 3})
    assert first["id"] == wrapped["steps"][0]["job_id"]
    assert (first["workflow_id"], first["workflow_step"]) == (wrapped["id"], 0)
    [second] = await any_api.fetch("wf", worker_id="w1")
    assert second["parent_results"] == [{"rows": 3}]
    running = (await any_api.get(f"{URL}/{wrapped['id']}")).json["workflow"]
    assert [step["state"] for step in running["steps"]] == ["completed", "active"]
    step = running["steps"][0]
    assert step["result"] == {"rows": 3}
    assert running["jobs"][0] == {name: step[name] for name in step if name != "result"}
    assert (running["steps_total"], running["steps_completed"]) == (2, 1)
    await any_api.post("/ojs/v1/workers/ack", {"job_id": second["id"]})
    done = (await any_api.get(f"{URL}/{wrapped['id']}")).json
    assert done["state"] == "completed"
    counts = {"job_count": 2, "completed_count": 2, "failed_count": 0, "cancelled_count": 0}
    assert {name: done["metadata"][name] for name in counts} == counts
    assert done["completed_at"] == done["metadata"]["completed_at"]


async def test_a_page_of_the_steps(any_api: Api) -> None:
    made = await any_api.post(URL, {"type": "chain", "name": "etl", "steps": steps(5)})
    url = f"{URL}/{made.json['id']}"
    await ack_next(any_api, 1)
    whole = (await any_api.get(url)).json
    page = (await any_api.get(f"{url}?limit=2&offset=1")).json
    summary = (await any_api.get(f"{url}?limit=0")).json
    last = (await any_api.get(f"{url}?offset=3")).json

    assert (page["steps"], page["jobs"]) == (whole["steps"][1:3], whole["jobs"][1:3])
    assert last["steps"] == whole["steps"][3:]
    assert (summary["steps"], summary["jobs"]) == ([], [])
    members = ("state", "metadata", "steps_total", "steps_completed")
    assert all(
        each["workflow"][name] == whole[name] for each in (page, summary) for name in members
    )
    assert (await any_api.get(f"{url}?limit=-1")).status == 400


async def test_a_failed_step_is_shown_with_its_error(api: Api) -> None:
    jobs = steps(2)
    jobs[1]["options"]["max_attempts"] = 1
    made = (await api.post(URL, {"type": "group", "jobs": jobs})).json
    await ack_next(api)
    [job] = await api.fetch("wf")
    error = {"code": "boom", "message": "no"}
    await api.post("/ojs/v1/workers/nack", {"job_id": job["id"], "error": error})
    failed = (await api.get(f"{URL}/{made['id']}")).json
    assert (failed["state"], failed["jobs_completed"], failed["jobs_total"]) == ("failed", 1, 2)
    assert (failed["failed_step_index"], failed["failed_job_ids"]) == (1, [job["id"]])
    assert {"job_id": job["id"], "code": "boom", "attempt": 1}.items() <= failed["errors"][
        0
    ].items()
    assert failed["jobs"][1]["error"]["message"] == "no"


async def test_cancel_once(any_api: Api) -> None:
    made = (await any_api.post(URL, {"type": "chain", "steps": steps(3)})).json
    await ack_next(any_api)
    gone = await any_api.delete(f"{URL}/{made['id']}")
    assert (gone.status, gone.json["workflow"]["state"]) == (200, "cancelled")
    assert "cancelled_at" in gone.json
    assert await any_api.fetch("wf") == []
    again = await any_api.post(f"{URL}/{made['id']}/cancel")
    assert again.status == 409
    assert again.error["details"]["state"] == "cancelled"


async def test_progress_and_list(api: Api) -> None:
    ids = [(await api.post(URL, {"type": "group", "jobs": steps(4)})).json["id"] for _ in range(3)]
    await ack_next(api)
    shown = (await api.get(f"{URL}/{ids[0]}/progress")).json
    assert (shown["workflow_id"], shown["progress"], shown["completed"]) == (ids[0], 0.25, 1)
    page = (await api.get(f"{URL}?limit=2")).json
    rest = (await api.get(f"{URL}?limit=2&cursor={page['pagination']['next_cursor']}")).json
    assert page["total"] == 3
    assert page["workflows"] == page["items"]
    listed = [workflow["id"] for workflow in page["workflows"] + rest["workflows"]]
    assert sorted(listed) == sorted(ids)


async def test_a_summary_names_no_queue_that_a_step_was_moved_from(api: Api) -> None:
    made = (await api.post(URL, {"type": "chain", "steps": steps(2)})).json
    assert made["metadata"]["queues"] == ["wf"]
    await move(api.app.store, made["steps"][0]["job_id"], "other")
    [listed] = (await api.get(URL)).json["workflows"]
    assert "queues" not in listed["metadata"]


async def test_a_list_of_the_largest_workflows_does_not_block_the_event_loop(api: Api) -> None:
    made = (await api.post(URL, {"type": "group", "jobs": steps(1000)})).json
    record = await read_workflows.get(api.app.store, made["id"], jobs=False)
    with measured_steps() as longest:
        listed = await workflows._summaries([record] * 200)
        await trio.lowlevel.checkpoint()  # the end of the step
    assert [each["id"] for each in json.loads(listed)] == [made["id"]] * 200
    assert longest.seconds < 0.02


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("name", ["nothing", "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"])
async def test_an_unknown_workflow_is_not_found(api: Api, method: str, name: str) -> None:
    reply = await api.call(method, f"{URL}/{name}")
    assert (reply.status, reply.error["details"]["resource"]) == (404, "workflow")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, "body"),
        (b"[]", 400, "body"),
        ({"type": "chain", "steps": []}, 400, "steps"),
        ({"type": "chain", "steps": [{"type": "a b"}]}, 400, "steps[0].type"),
        ({"type": "chain", "steps": [{"type": "t", "retry": 1}]}, 422, "steps[0].retry"),
    ],
)
async def test_a_bad_workflow_is_refused_and_leaves_nothing(
    api: Api, body: Any, status: int, field: str
) -> None:
    reply = await api.post(URL, body)
    assert (reply.status, reply.error["details"]["field"]) == (status, field)
    assert (await api.get(URL)).json["total"] == 0


async def test_the_command_line_client_s_workflow_runs(any_api: Api) -> None:
    """It sends steps with ``depends_on`` and no type, and reads the members at the top level."""
    validate = {"id": "validate", "type": "order.validate", "args": ["order-123"]}
    charge = {
        "id": "charge",
        "type": "payment.charge",
        "args": ["order-123"],
        "depends_on": ["validate"],
    }
    body = {"name": "order-pipeline", "steps": [charge, validate]}

    made = await any_api.post(URL, body, headers={"Content-Type": "application/json"})

    assert (made.status, made.json["state"]) == (201, "running")
    assert [job["type"] for job in await any_api.fetch(worker_id="w")] == ["order.validate"]
    status = (await any_api.get(f"{URL}/{made.json['id']}")).json
    assert (status["id"], status["name"]) == (made.json["id"], "order-pipeline")
    found = {step["id"]: step for step in status["steps"]}
    assert {name: step["state"] for name, step in found.items()} == {
        "validate": "active",
        "charge": "waiting",
    }
    done = {"job_id": found["validate"]["job_id"], "result": {"ok": True}}
    await any_api.post("/ojs/v1/workers/ack", done)
    [charging] = await any_api.fetch()
    assert (charging["type"], charging["parent_results_by_id"]) == (
        "payment.charge",
        {"validate": {"ok": True}},
    )
    await any_api.post("/ojs/v1/workers/ack", {"job_id": charging["id"]})
    [listed] = (await any_api.get(f"{URL}?limit=25")).json["workflows"]
    assert (listed["id"], listed["state"], listed["step_count"]) == (status["id"], "completed", 2)

    second = await any_api.post(URL, body)
    cancelled = await any_api.delete(f"{URL}/{second.json['id']}")
    assert (cancelled.status, cancelled.json["cancelled_steps"]) == (200, 2)


async def test_the_reference_s_chain_example_runs(api: Api) -> None:
    body = b"""{
    "type": "chain",
    "steps": [
      {"type": "extract.data", "queue": "etl"},
      {"type": "transform.data", "queue": "etl"},
      {"type": "load.data", "queue": "etl"}
    ]
  }"""
    made = await api.post(URL, body, headers={"Content-Type": "application/json"})
    assert made.status == 201
    for name in ("extract.data", "transform.data", "load.data"):
        [job] = await api.fetch("etl")
        assert job["type"] == name
        await api.post("/ojs/v1/workers/ack", {"job_id": job["id"]})
    assert (await api.get(f"{URL}/{made.json['id']}")).json["state"] == "completed"


async def test_the_manifest_declares_the_feature(api: Api) -> None:
    assert (await api.get("/ojs/manifest")).json["capabilities"]["workflows"] is True
