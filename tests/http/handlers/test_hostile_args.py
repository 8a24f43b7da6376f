"""Args that the library would validate or explain for seconds, on every route that validates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ojs_cluster.core.errors import ValidationBusy
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground.settings import StoreSettings
from tests.http.api import Api, open_app
from tests.http.handlers.test_schemas import registered
from tests.support.longest_step import measured_steps

STEP_S = 0.4
"""CPU time in seconds that no step of a task may take. Each input here takes seconds otherwise. The
promise is 0.05 s; a busy machine needs some slack."""
NUMBERS = [[10**30 + n for n in range(4000)]]
"""110 KB. The library compares these numbers in pairs, for seconds."""
UNIQUE = {"items": {"uniqueItems": True}}
NAMES = {"items": {"required": [f"n{n}" for n in range(5000)]}}
MISSING: list[Any] = [{}] * 100
"""400 bytes, which do not match ``NAMES`` for half a million reasons."""


@pytest.fixture(params=["strict", "warn"])
async def either(request: pytest.FixtureRequest, standalone: Embedded) -> AsyncIterator[Api]:
    """An API that refuses args that do not match, or warns of them."""
    async with open_app(standalone, store=StoreSettings(schema_mode=request.param)) as app:
        yield Api(app)


def job(args: list[Any]) -> dict[str, Any]:
    return {"type": "hostile", "args": args}


def texts(reply: Any, mode: str) -> str:
    """Return why the args of a reply are refused, or what it warns of."""
    if mode == "warn":
        assert reply.status in (200, 201), reply.body
        return " ".join(reply.json["warnings"])
    assert reply.status in (207, 422), reply.body
    return str(reply.json)


async def send(api: Api, route: str, args: list[Any]) -> Any:
    """Send args by a route that validates them."""
    if route == "jobs":
        return await api.post("/ojs/v1/jobs", job(args))
    if route in ("batch", "bulk"):
        return await api.post(f"/ojs/v1/jobs/{route}", {"jobs": [job([]), job(args)]})
    if route == "workflows":
        body: dict[str, Any] = {"type": "chain", "steps": [job([]), job(args)]}
        return await api.post("/ojs/v1/workflows", body)
    if route == "cron":
        body = {"name": "n", "schedule": "0 0 1 1 *", "job_template": job(args), **job(args)}
        return await api.post("/ojs/v1/cron", body)
    stored = await api.enqueue(type="hostile", args=[])
    return await api.call("PATCH", f"/ojs/v1/jobs/{stored['id']}", {"args": args})


@pytest.mark.parametrize("route", ["jobs", "batch", "bulk", "workflows", "cron", "edit"])
@pytest.mark.parametrize(
    ("schema", "args", "reason"),
    [(UNIQUE, NUMBERS, "too large to be validated"), (NAMES, MISSING, "n0")],
    ids=["validation", "explanation"],
)
async def test_no_route_validates_or_explains_for_long(
    either: Api, route: str, schema: Any, args: list[Any], reason: str
) -> None:
    await registered(either, "hostile", schema=schema)
    mode = either.app.store.settings.schema_mode
    # The test itself compares each response with the description of the API, whose first use takes
    # seconds.
    await send(either, route, [])
    await send(either, route, [{"wrong": 1}, *[[1, 1]] * 2])
    with measured_steps() as longest:
        reply = await send(either, route, args)
    assert reason in texts(reply, mode)
    assert longest.seconds < STEP_S


async def test_a_batch_explains_only_some_of_its_jobs(either: Api) -> None:
    await registered(either, "hostile", schema=NAMES)
    mode = either.app.store.settings.schema_mode
    await send(either, "bulk", [{}])
    with measured_steps() as longest:
        reply = await either.post("/ojs/v1/jobs/bulk", {"jobs": [job(MISSING[:40])] * 300})
    if mode == "strict":
        messages = [each["error"]["message"] for each in reply.json["items"]]
        assert len(messages) == 300
    else:
        messages = reply.json["warnings"]
    assert ["n0" in each for each in messages] == [True] * 10 + [False] * (len(messages) - 10)
    assert all("do not match" in each for each in messages[10:])
    assert longest.seconds < STEP_S


async def test_many_hostile_jobs_of_a_request_are_not_all_tried(
    either: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registered(either, "hostile", schema=NAMES)
    process, asked = either.app.store.schemas.process, 0
    original = process.check

    async def late(document: bytes, args: bytes, *, explain: bool = True) -> Any:
        nonlocal asked
        asked += 1
        outcome = await original(document, args, explain=explain)
        return type(outcome)(outcome.problems, in_time=False)

    monkeypatch.setattr(process, "check", late)
    await either.post("/ojs/v1/jobs/bulk", {"jobs": [job(MISSING)] * 20})
    assert asked == 2


async def test_a_job_that_cannot_be_validated_now_fails_alone(
    either: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registered(either, "hostile", schema=UNIQUE)
    asked = 0

    async def busy(*_: Any, **__: Any) -> Any:
        nonlocal asked
        asked += 1
        raise ValidationBusy("busy")

    monkeypatch.setattr(either.app.store.schemas.process, "check", busy)
    jobs = [job([]), *[job(NUMBERS)] * 5, job([[1, 1]])]
    reply = await either.post("/ojs/v1/jobs/bulk", {"jobs": jobs})
    assert asked == 2
    if either.app.store.settings.schema_mode == "warn":
        assert reply.status == 201
        return
    assert reply.status == 207
    items = reply.json["items"]
    assert [each["status"] for each in items] == ["created"] + ["failed"] * 6
    assert [each["error"]["retryable"] for each in items[1:]] == [True] * 5 + [False]
    assert items[1]["error"]["message"].startswith("jobs[1]: busy")
    atomic = await either.post("/ojs/v1/jobs/bulk", {"jobs": jobs[:2], "atomicity": "atomic"})
    assert atomic.status == 503
    assert (await either.post("/ojs/v1/jobs/batch", {"jobs": jobs[:2]})).status == 503
    refused = await either.post("/ojs/v1/jobs/batch", {"jobs": jobs})
    assert refused.status == 422
    assert "jobs[6]" in refused.json["error"]["message"]
