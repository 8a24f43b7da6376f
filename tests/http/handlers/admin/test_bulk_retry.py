"""The retry of many jobs in one request: confirmation, filter, bounds, counts."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.store.features.dead_letters import bulk_retry
from tests.http.api import Api
from tests.http.handlers.admin.test_jobs import discarded

JOBS = "/ojs/v1/admin/jobs/bulk/retry"
DEAD = "/ojs/v1/admin/dead-letter/retry"
BOTH = pytest.mark.parametrize("path", [JOBS, DEAD])
DEADLY: dict[str, Any] = {"options": {"retry": {"on_exhaustion": "dead_letter"}}}


async def state(api: Api, job: dict[str, Any]) -> str:
    value: str = (await api.get(f"/ojs/v1/jobs/{job['id']}")).json["state"]
    return value


@BOTH
@pytest.mark.parametrize("confirm", [None, False, 0, 1, "true", [True], {"yes": True}])
async def test_without_a_confirmation_nothing_is_retried(
    any_api: Api, path: str, confirm: Any
) -> None:
    job = await discarded(any_api, **DEADLY)
    body = {"filter": {"state": "discarded"}, "confirm": confirm}
    if confirm is None:
        del body["confirm"]
    reply = await any_api.post(path, body)
    assert (reply.status, reply.error["details"]["field"]) == (400, "confirm")
    assert await state(any_api, job) == "discarded"


@BOTH
async def test_the_counts_are_those_of_what_was_done(any_api: Api, path: str) -> None:
    made = [await discarded(any_api, queue, **DEADLY) for queue in ("one", "two", "one")]
    reply = await any_api.post(path, {"filter": {"queue": "one"}, "confirm": True})
    assert reply.status == 200
    assert reply.json == {
        "action": "retry",
        "matched": 2,
        "retried": 2,
        "succeeded": 2,
        "failed": 0,
        "errors": [],
        "has_more": False,
    }
    assert [await state(any_api, job) for job in made] == ["available", "discarded", "available"]
    again = await any_api.post(path, {"filter": {"queue": "one"}, "confirm": True})
    assert (again.json["matched"], again.json["retried"]) == (0, 0)


@BOTH
@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "mail.*"},
        {"type": "mail.send"},
        {"queue": "one", "type": "mail.send", "state": "discarded"},
        {"since": "2020-01-01T00:00:00Z", "type": "mail.send"},
    ],
)
@pytest.mark.parametrize("flat", [False, True])
async def test_the_filter_is_read_from_both_positions(
    api: Api, path: str, wanted: dict[str, Any], flat: bool
) -> None:
    meant = await discarded(api, "one", type="mail.send", **DEADLY)
    other = await discarded(api, "two", type="report.run", **DEADLY)
    body = {**(wanted if flat else {"filter": wanted}), "confirm": True}
    assert (await api.post(path, body)).json["retried"] == 1
    assert (await state(api, meant), await state(api, other)) == ("available", "discarded")


async def test_an_empty_filter_means_all_that_are_discarded(any_api: Api) -> None:
    dead, gone = await discarded(any_api, **DEADLY), await discarded(any_api)
    assert (await any_api.post(DEAD, {"filter": {}, "confirm": True})).json["retried"] == 1
    assert (await state(any_api, dead), await state(any_api, gone)) == ("available", "discarded")
    assert (await any_api.post(JOBS, {"confirm": True})).json["retried"] == 1
    assert await state(any_api, gone) == "available"


@BOTH
@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({"filter": {"state": "completed"}}, 422),
        ({"filter": {"state": "nonsense"}}, 400),
        ({"filter": {"queue": "No"}}, 400),
        ({"filter": {"queue": ["one"]}}, 400),
        ({"filter": {"since": "yesterday"}}, 400),
        ({"filter": {"error_type": "Timeout"}}, 400),
        ({"filter": {}, "queue": "one"}, 400),
        ({"filter": []}, 400),
        ({"job_ids": ["019461a8-1a2b-7000-8e4f-000000000000"]}, 400),
        ({"queue": ""}, 400),
        ({"cursor": "x"}, 400),
    ],
)
async def test_an_invalid_request_retries_nothing(
    api: Api, path: str, members: dict[str, Any], status: int
) -> None:
    job = await discarded(api, "one", **DEADLY)
    assert (await api.post(path, {**members, "confirm": True})).status == status
    assert await state(api, job) == "discarded"


@BOTH
async def test_a_retry_is_bounded_and_returns_a_cursor(
    any_api: Api, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_retry, "MAX_RETRIED", 3)
    for _ in range(7):
        await discarded(any_api, **DEADLY)
    counts = []
    body: dict[str, Any] = {"filter": {}, "confirm": True}
    while True:
        done = (await any_api.post(path, body)).json
        counts.append(done["retried"])
        if not done["has_more"]:
            break
        body["cursor"] = done["next_cursor"]
    assert counts == [3, 3, 1]


async def test_a_body_is_needed(api: Api) -> None:
    for path in (JOBS, DEAD):
        assert (await api.post(path)).error["code"] == "invalid_payload"
