"""Agents over HTTP, by the paths of the suites and of the SDKs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.access.test_scopes import access_of, bearer
from tests.http.api import Api, open_app

PATHS = ("/ojs/v1/agents", "/v1/agents", "/v1/agent/jobs")
FETCH = {"queues": ["agents"], "worker_id": "w"}


async def agent(api: Api, **members: Any) -> str:
    job = {"type": "a", "args": ["x"], "options": {"queue": "agents"}, **members}
    return str((await api.post("/ojs/v1/jobs", job)).json["job"]["id"])


@pytest.fixture
async def keyed(standalone: Embedded) -> AsyncIterator[Api]:
    """An API with keys of all presets, and one for the queues that begin with ``mail-``."""
    keys = (*(f"key-{name}" for name in ("admin", "worker", "operator", "producer")), "mail")
    async with open_app(standalone, access=access_of(*keys)) as app:
        yield Api(app)


@pytest.mark.parametrize("path", PATHS)
async def test_a_paused_agent_waits_for_its_human(any_api: Api, path: str) -> None:
    job_id = await agent(any_api)
    reply = await any_api.post(f"{path}/{job_id}/pause", {"reason": "costs"})
    assert (reply.status, reply.json["state"]) == (200, "paused")
    assert (await any_api.post("/ojs/v1/workers/fetch", FETCH)).json["jobs"] == []
    shown = (await any_api.get(f"/v1/agents/{job_id}/state")).json
    assert (shown["state"], shown["reason"]) == ("paused_human", "costs")
    decision = {"approved": False, "comment": "no", "metadata": {"by": "me"}}
    reply = await any_api.post(f"{path}/{job_id}/resume", decision)
    assert (reply.status, reply.json["state"]) == (200, "running")
    shown = (await any_api.get(f"/ojs/v1/agents/{job_id}/state")).json
    assert (shown["state"], shown["decision"]) == ("running", decision)
    [job] = (await any_api.post("/ojs/v1/workers/fetch", FETCH)).json["jobs"]
    assert job["id"] == job_id
    assert (await any_api.post(f"{path}/{job_id}/resume")).status == 409


async def test_a_decision_keeps_all_digits_of_its_numbers(any_api: Api) -> None:
    job_id = await agent(any_api)
    path, number = f"/ojs/v1/agents/{job_id}", b"99999999999999999999"
    await any_api.post(f"{path}/pause", {"reason": "costs"})
    body = b'{"metadata":{"a":%b}}' % number
    reply = await any_api.call("POST", f"{path}/resume", body)
    assert reply.status == 200
    assert number in reply.body
    assert number in (await any_api.get(f"{path}/state")).body


@pytest.mark.parametrize("path", PATHS)
async def test_branches_are_forked_and_merged(any_api: Api, path: str) -> None:
    job_id = await agent(any_api)
    checkpoint = {"state": {"turns": ["one", "two"]}}
    await any_api.call("PUT", f"/ojs/v1/jobs/{job_id}/checkpoint", checkpoint)
    given = {"at_turn": 2, "branch_name": "a"}
    first = (await any_api.post(f"{path}/{job_id}/fork", given)).json
    assert first["content_id"].startswith("sha256:")
    assert (first["parent_id"], first["turns"]) == (job_id, 2)
    await any_api.call(
        "PUT", f"/ojs/v1/jobs/{job_id}/checkpoint", {"state": {"turns": ["one", "2"]}}
    )
    second = (await any_api.post(f"{path}/{job_id}/fork", {"at_turn": 2})).json
    both = {"branch_a": first["branch_id"], "branch_b": second["branch_id"]}
    reply = await any_api.post(f"{path}/{job_id}/merge", {**both, "strategy": "union"})
    assert (reply.status, reply.json["conflicts"], reply.json["turns"]) == (200, ["turn 2"], 3)
    assert reply.json["merged_id"] == reply.json["content_id"]
    shown = (await any_api.get(f"/ojs/v1/agents/{job_id}/state")).json
    assert [each["turns"] for each in shown["branches"]] == [2, 2, 3]
    assert (await any_api.post(f"{path}/{job_id}/fork", {"at_turn": 9})).status == 409
    assert (await any_api.post(f"{path}/{job_id}/fork", {"at_turn": -1})).status == 400
    unknown = {**both, "branch_b": "br_x"}
    assert (await any_api.post(f"{path}/{job_id}/merge", unknown)).status == 404
    bad = {**both, "strategy": "mine"}
    assert (await any_api.post(f"{path}/{job_id}/merge", bad)).status == 400


async def test_a_tool_call_is_retried_as_the_job_says(any_api: Api) -> None:
    options = {"max_attempts": 2, "alternate_provider": "other"}
    job_id = await agent(any_api, ext_agent_v2={"tool_retry": options})
    path, body = f"/ojs/v1/agents/{job_id}/tool-retry", {"tool_call_id": "c", "error": "slow"}
    reply = await any_api.post(path, {**body, "use_alternate": True})
    assert (reply.json["retried"], reply.json["provider"]) == (True, "other")
    reply = await any_api.post(path, body)
    assert (reply.json["provider"], reply.json["attempt"]) == (None, 2)
    assert (await any_api.post(path, body)).status == 409
    for wrong in ({}, {"tool_call_id": ""}, {"tool_call_id": "x" * 256}):
        assert (await any_api.post(path, wrong)).status == 400
    plain = await agent(any_api)
    reply = await any_api.post(
        f"/ojs/v1/agents/{plain}/tool-retry", {**body, "use_alternate": True}
    )
    assert reply.status == 409


async def test_unknown_jobs_large_texts_and_replays_are_refused(any_api: Api) -> None:
    job_id = await agent(any_api)
    missing = job_id[:-4] + "0000"
    for name in ("pause", "resume", "fork"):
        assert (await any_api.post(f"/ojs/v1/agents/{missing}/{name}", {})).status == 404
    assert (await any_api.get(f"/ojs/v1/agents/{missing}/state")).status == 404
    for name, body in (
        ("pause", {"reason": "x" * 2001}),
        ("resume", {"comment": "x" * 2001}),
        ("resume", {"metadata": {"x": "x" * 4096}}),
        ("fork", {"branch_name": "x" * 256}),
    ):
        assert (await any_api.post(f"/ojs/v1/agents/{job_id}/{name}", body)).status == 400
    for path in PATHS:
        assert (await any_api.post(f"{path}/{job_id}/replay", {"from_turn": 0})).status == 404


async def test_a_worker_pauses_and_another_key_decides(keyed: Api) -> None:
    job = {"type": "a", "args": [], "options": {"queue": "agents"}}
    reply = await keyed.call("POST", "/ojs/v1/jobs", job, headers=bearer("key-admin"))
    path = f"/ojs/v1/agents/{reply.json['job']['id']}"

    async def call(name: str, key: str) -> int:
        return (await keyed.call("POST", f"{path}/{name}", {}, headers=bearer(key))).status

    assert await call("pause", "key-producer") == 403
    assert await call("pause", "mail") == 404  # the queue is not that key's
    assert await call("pause", "key-worker") == 200
    assert await call("resume", "key-worker") == 403
    assert await call("resume", "key-operator") == 200
