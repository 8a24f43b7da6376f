"""The trace context of an enqueue request becomes a part of its jobs' meta."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.http.api import Api, serving
from tests.http.test_entry_points import exchange, request

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACED = {"traceparent": PARENT}
JOB: dict[str, Any] = {"type": "t", "args": []}


async def fetched_meta(api: Api, body: dict[str, Any], headers: dict[str, str]) -> Any:
    """Enqueue a job, check the response, and return the meta that its worker gets."""
    reply = await api.post("/ojs/v1/jobs", {**JOB, **body}, headers=headers)
    assert reply.status == 201, reply.body
    [job] = await api.fetch()
    assert job["id"] == reply.json["job"]["id"]
    assert job["meta"] == reply.json["job"]["meta"]
    return job["meta"]


async def test_a_worker_gets_the_trace_context_of_the_request(any_api: Api) -> None:
    state = {"tracestate": 'ojs=p:8;r:62,x="\\'}
    assert await fetched_meta(any_api, {}, TRACED) == TRACED
    assert await fetched_meta(any_api, {"meta": None}, TRACED | state) == TRACED | state
    more = {"options": {"metadata": {"a": 1}}, "meta": {"b": [2]}}
    assert await fetched_meta(any_api, more, TRACED) == {"a": 1, "b": [2], **TRACED}


@pytest.mark.parametrize(
    "own", [{"traceparent": OTHER}, {"traceparent": None}, {"tracestate": "a=1"}]
)
async def test_a_trace_context_of_the_job_wins(api: Api, own: dict[str, Any]) -> None:
    headers = {**TRACED, "tracestate": "ojs=1"}
    assert await fetched_meta(api, {"meta": own}, headers) == own
    assert await fetched_meta(api, {"options": {"metadata": own}}, headers) == own


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "x",
        PARENT.upper(),
        PARENT + "-00",
        "01" + PARENT[2:],
        "ff" + PARENT[2:],
        f"{PARENT}, {PARENT}",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        PARENT + "\n",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-\u0661\u0661",
    ],
)
async def test_invalid_headers_are_ignored(api: Api, parent: str) -> None:
    assert await fetched_meta(api, {}, {"traceparent": parent, "tracestate": "a=1"}) == {}


@pytest.mark.parametrize("state", ["", "a=" + "x" * 511, "a=\x00", "a=\xe9"])
async def test_an_invalid_state_is_left_out(api: Api, state: str) -> None:
    assert await fetched_meta(api, {}, {**TRACED, "tracestate": state}) == TRACED


async def test_a_header_causes_no_refusal_of_a_large_job(api: Api) -> None:
    large = {"x": "y" * (api.app.settings.limits.meta_bytes - 20)}
    assert await fetched_meta(api, {"meta": large}, TRACED) == large


async def test_traces_do_not_make_duplicates_different(api: Api) -> None:
    unique = {"keys": ["type", "meta"], "meta_keys": ["traceparent"], "on_conflict": "ignore"}
    body = {**JOB, "options": {"unique": unique}}
    ids = set()
    for parent in (PARENT, OTHER):
        reply = await api.post("/ojs/v1/jobs", body, headers={"traceparent": parent})
        ids.add(reply.json["job"]["id"])
    assert len(ids) == 1
    flow = {"type": "group", "jobs": [body]}
    made = await api.post("/ojs/v1/workflows", flow, headers=TRACED)
    # The step is a duplicate of the job, so it is not stored.
    assert made.json["workflow"]["steps"][0]["state"] != "available"


async def test_every_job_of_a_batch_gets_it_unless_it_has_its_own(any_api: Api) -> None:
    jobs = [JOB, {**JOB, "meta": {"traceparent": OTHER}}, {**JOB, "meta": {"a": 1}}]
    reply = await any_api.post("/ojs/v1/jobs/batch", {"jobs": jobs}, headers=TRACED)
    assert reply.status == 201
    assert [job["meta"] for job in reply.json["jobs"]] == [
        TRACED,
        {"traceparent": OTHER},
        {"a": 1, **TRACED},
    ]


async def test_every_job_of_a_bulk_request_gets_it(any_api: Api) -> None:
    body = {"jobs": [JOB, {"type": ""}, JOB]}
    reply = await any_api.post("/ojs/v1/jobs/bulk", body, headers=TRACED)
    assert reply.status == 207
    for _ in range(2):
        [job] = await any_api.fetch()
        assert job["meta"] == TRACED


async def test_every_step_of_a_workflow_gets_it_unless_it_has_its_own(any_api: Api) -> None:
    options = {"metadata": {"traceparent": OTHER}}
    steps = [JOB, {**JOB, "meta": {"a": 1}}, {**JOB, "options": options}]
    flow = {"type": "chain", "steps": steps}
    reply = await any_api.post("/ojs/v1/workflows", flow, headers=TRACED)
    assert reply.status == 201
    for meta in (TRACED, {"a": 1, **TRACED}, {"traceparent": OTHER}):
        [job] = await any_api.fetch()
        assert job["meta"] == meta
        await any_api.post("/ojs/v1/workers/ack", {"job_id": job["id"]})


async def test_an_operator_can_switch_it_off(api: Api) -> None:
    settings = replace(api.app.settings, trace_inject=False)
    off = Api(replace(api.app, settings=settings, traffic=api.app.traffic))
    assert await fetched_meta(off, {}, TRACED) == {}


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_both_entry_points_store_it(api: Api, lane: bool) -> None:
    header = f"Traceparent: {PARENT}"
    async with serving(api.app, lane=lane) as port:
        for lines in ((header,), (header, header), (header, "tracestate: a=1", "tracestate: b=2")):
            await exchange(port, request("POST", "/ojs/v1/jobs", JOB, *lines))
    metas = [job["meta"] for job in await api.fetch(count=10)]
    assert metas == [TRACED, {}, {**TRACED, "tracestate": "a=1, b=2"}]
