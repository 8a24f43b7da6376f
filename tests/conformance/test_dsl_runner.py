"""The runner against a small in-process application: passing and failing cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from tests.conformance.dsl.case import Case, parse
from tests.conformance.dsl.runner import MEDIA_TYPE, CaseFailed, run_case

Handler = Callable[[httpx.Request], httpx.Response]


def case(*steps: dict[str, Any]) -> Case:
    numbered = [{"id": f"step-{n}", **step} for n, step in enumerate(steps, start=1)]
    head = {"test_id": "T-1", "level": 0, "category": "c", "name": "n", "spec_ref": "s"}
    return parse("t.json", {**head, "description": "d", "tags": [], "steps": numbered})


async def run(handler: Handler, *steps: dict[str, Any]) -> None:
    transport = httpx.MockTransport(handler)
    async with httpx.AsyncClient(base_url="http://test", transport=transport) as client:
        await run_case(case(*steps), client)


def answers(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    """Return an application that gives every request the same JSON response."""
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    types = {"Content-Type": MEDIA_TYPE} | (headers or {})
    return lambda request: httpx.Response(status, content=content, headers=types)


POST = {"action": "POST", "path": "/jobs", "body": {"type": "t"}}
GET = {"action": "GET", "path": "/jobs"}


async def test_a_body_is_sent_with_the_media_type_and_raw_bodies_as_they_are() -> None:
    seen: list[tuple[str | None, bytes]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.headers.get("content-type"), request.content))
        return httpx.Response(200, json={})

    raw = {"action": "POST", "path": "/jobs", "raw_body": "{ bad"}
    await run(handler, POST, raw, GET)

    assert seen == [(MEDIA_TYPE, b'{"type": "t"}'), (MEDIA_TYPE, b"{ bad"), (None, b"")]


async def test_later_steps_see_bodies_and_captures() -> None:
    paths: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return httpx.Response(200, json={"job": {"id": "j1"}})

    await run(
        handler,
        {**POST, "capture": {"job_id": "$.job.id"}},
        {"action": "GET", "path": "/jobs/{{steps.step-1.response.body.job.id}}/${job_id}"},
    )

    assert paths == ["/jobs", "/jobs/j1/j1"]


@pytest.mark.parametrize(
    ("assertions", "handler"),
    [
        ({"status": 201}, answers({})),
        ({"status": [201, 202]}, answers({})),
        ({"status_one_of": [403, 404]}, answers({})),
        ({"headers": {"Retry-After": {"$exists": True}}}, answers({})),
        (
            {"headers": {"Content-Type": MEDIA_TYPE}},
            answers({}, headers={"Content-Type": "text/x"}),
        ),
        ({"headers": {"X-Id": {"$eq": "a"}}}, answers({}, headers={"X-Id": "b"})),
        ({"body": {"$.a": 1}}, answers({"a": 2})),
        ({"body": {"$.a.b": "absent"}}, answers({})),
        ({"body": {"$.a": {"$type": "string"}}}, answers({"a": 1})),
        ({"body": {"$.a": 1}}, answers(b"")),
        ({"body": {"$.a": 1}}, answers(b'{"a": 1')),
        ({"body": {"$.a": 1}}, answers(b'{"a": 1, "a": 1}')),
        ({"body": {"$.a": 1}}, answers([{"a": 1}])),
        ({"body": {"$or": [{"$.a": 1}, {"$empty": True}]}}, answers({"a": 2})),
        ({"status": 200}, answers(b"")),
        ({"status": 200}, answers(b'{"a": NaN}')),
    ],
)
async def test_an_answer_that_does_not_match_fails_the_case(
    assertions: dict[str, Any], handler: Handler
) -> None:
    with pytest.raises(CaseFailed, match="step-1"):
        await run(handler, {**GET, "assertions": assertions})


@pytest.mark.parametrize(
    ("assertions", "handler"),
    [
        ({"status": "number:range(400,422)"}, answers({}, 422)),
        (
            {"headers": {"retry-after": {"$exists": True}}},
            answers({}, headers={"Retry-After": "1"}),
        ),
        ({"body": {"$.a": 1, "$.b": "absent"}}, answers({"a": 1})),
        ({"body": {"$or": [{"$.a": 1}, {"$.a": 2}]}}, answers({"a": 2})),
        ({"body": {"$or": [{"$.a": 1}, {"$empty": True}]}}, lambda _: httpx.Response(204)),
    ],
)
async def test_an_answer_that_matches_passes(assertions: dict[str, Any], handler: Handler) -> None:
    await run(handler, {**GET, "assertions": assertions})


async def test_expect_blocks_are_checked_too() -> None:
    step = {**GET, "expect": {"status": 200, "body.jobs[0].attempt": 2}}

    await run(answers({"jobs": [{"attempt": 2, "more": 1}]}), step)
    with pytest.raises(CaseFailed, match="attempt"):
        await run(answers({"jobs": [{"attempt": 1}]}), step)


async def test_an_operation_speaks_of_the_job_itself() -> None:
    expected = {"status": 200, "body": {"state": "completed", "meta": {"a.b": 1}}}
    step = {"action": "push", "request": {}, "expect": expected, "store": {"job_id": "id"}}
    get = {"action": "get", "request": {"id": "$ref.job_id"}, "expect": expected}

    await run(answers({"job": {"id": "j", "state": "completed", "meta": {"a.b": 1}}}), step, get)
    with pytest.raises(CaseFailed):
        await run(answers({"job": {"id": "j", "state": "completed", "meta": {}}}), step, get)


async def test_a_repeated_step_is_sent_and_checked_each_time() -> None:
    count = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        return httpx.Response(201 if count <= 3 else 429, json={})

    await run(handler, {**POST, "repeat": 3, "assertions": {"status": 201}})
    assert count == 3
    with pytest.raises(CaseFailed):
        await run(handler, {**POST, "repeat": 2, "assertions": {"status": 201}})


async def test_equality_compares_whole_answers() -> None:
    equality = {"$.steps.step-1.response.body": "{{steps.step-2.response.body}}"}
    steps = (GET, GET, {"action": "ASSERT", "assertions": {"equality": equality}})
    documents = iter([{"attempt": 0}, {"attempt": 0}, {"attempt": 0}, {"attempt": 0, "x": None}])

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=next(documents))

    await run(handler, *steps)
    with pytest.raises(CaseFailed, match="step-3"):
        await run(handler, *steps)


@pytest.mark.parametrize(
    ("first", "second", "holds"),
    [
        ([{"id": "j"}], [], True),
        ([], [{"id": "j"}], True),
        ([{"id": "j"}], [{"id": "j"}], False),
        ([], [], False),
        ([{"id": "j"}], [{"id": "other"}], False),
    ],
)
async def test_exclusive_claim_wants_one_holder(
    first: list[Any], second: list[Any], holds: bool
) -> None:
    claim = {
        "job_id": "j",
        "fetches": ["{{steps.step-1.response.body.jobs}}", "{{steps.step-2.response.body.jobs}}"],
        "exactly_one_has_job": True,
        "exactly_one_empty": True,
    }
    fetched = iter([first, second])

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"jobs": next(fetched)})

    steps = (GET, GET, {"action": "ASSERT", "assertions": {"exclusive_claim": claim}})
    if holds:
        await run(handler, *steps)
    else:
        with pytest.raises(CaseFailed, match="step-3"):
            await run(handler, *steps)


async def test_steps_that_name_each_other_are_in_flight_together() -> None:
    arrived = 0
    both = trio.Event()

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal arrived
        arrived += 1
        if arrived == 2:
            both.set()
        with trio.fail_after(60):
            await both.wait()
        return httpx.Response(200, json={})

    steps = case({**GET, "parallel_with": "step-2"}, {**GET, "parallel_with": "step-1"})
    transport = httpx.MockTransport(handler)
    async with httpx.AsyncClient(base_url="http://test", transport=transport) as client:
        await run_case(steps, client)

    assert arrived == 2


async def test_delays_come_before_the_step(autojump_clock: trio.testing.MockClock) -> None:
    times: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        times.append(trio.current_time())
        return httpx.Response(200, json={})

    await run(handler, GET, {**GET, "delay_ms": 1200}, {"action": "WAIT", "duration_ms": 500}, GET)

    assert [round(time - times[0], 3) for time in times] == [0, 1.2, 1.7]


async def test_an_unresolved_reference_fails_before_anything_is_sent() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise AssertionError("sent")

    with pytest.raises(CaseFailed, match="job_id"):
        await run(handler, {"action": "GET", "path": "/jobs/{{job_id}}"})
