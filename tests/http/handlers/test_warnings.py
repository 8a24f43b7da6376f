"""Members of ``options`` that the server does not know are named by the response."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http.api import Api

TEXT = "is not known, so it is ignored"
UNIQUE = {"unique": {"keys": ["type"], "on_conflict": "ignore"}}
OTHER = {"type": "known", "args": [], "options": {"queue": "mail"}}


def job(**options: Any) -> dict[str, Any]:
    return {"type": "email.send", "args": [], "options": {"prioritty": 5, **options}}


async def test_an_enqueue_names_them_and_stores_the_job(any_api: Api) -> None:
    reply = await any_api.post("/ojs/v1/jobs", job(priority=7))
    assert (reply.status, reply.json["job"]["priority"]) == (201, 7)
    assert reply.json["warnings"] == [f"options.prioritty {TEXT}"]
    assert "warnings" not in (await any_api.post("/ojs/v1/jobs", OTHER)).json


async def test_an_existing_unique_job_is_returned_with_them(any_api: Api) -> None:
    replies = [await any_api.post("/ojs/v1/jobs", job(**UNIQUE)) for _ in range(2)]
    assert [each.json.get("deduplicated") for each in replies] == [None, True]
    assert [each.json["warnings"] for each in replies] == [[f"options.prioritty {TEXT}"]] * 2


@pytest.mark.parametrize("path", ["batch", "bulk"])
async def test_jobs_of_one_request_are_named_by_their_numbers(any_api: Api, path: str) -> None:
    reply = await any_api.post(f"/ojs/v1/jobs/{path}", {"jobs": [OTHER, job()]})
    assert reply.status == 201
    assert reply.json["warnings"] == [f"jobs[1]: options.prioritty {TEXT}"]


async def test_steps_of_a_workflow_are_named_by_their_numbers(api: Api) -> None:
    steps = [OTHER, {**job(), "options": {"retry": {"a": 1}}}]
    reply = await api.post("/ojs/v1/workflows", {"type": "chain", "steps": steps})
    assert reply.status == 201
    assert reply.json["warnings"] == [f"steps[1]: options.retry.a {TEXT}"]


async def test_a_cron_job_names_them_when_it_is_registered_and_changed(api: Api) -> None:
    template = {**job(), "options": {"prioritty": 5, "meta": {"a": 1}}}  # meta: ojs-cron
    body = {"name": "nightly", "expression": "0 3 * * *", "job_template": template}
    registered = await api.post("/ojs/v1/cron", body)
    assert (registered.status, registered.json["warnings"]) == (201, [f"options.prioritty {TEXT}"])
    changed = await api.call("PATCH", "/ojs/v1/cron/nightly", {"job_template": template})
    assert (changed.status, changed.json["warnings"]) == (200, [f"options.prioritty {TEXT}"])
    changed = await api.call("PATCH", "/ojs/v1/cron/nightly", {"job_template": OTHER})
    assert "warnings" not in changed.json
