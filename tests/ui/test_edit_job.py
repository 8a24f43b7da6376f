"""The form that changes a waiting job."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import httpx

from tests.support.servers import wait_until
from tests.ui.dashboard import Running
from tests.ui.test_pages import page

JOB: dict[str, Any] = {"type": "a.edited", "args": [36893488147419103232, "a"], "meta": {"k": 1}}


def enqueue(running: Running, **more: Any) -> str:
    with running.api() as api:
        body = {**JOB, "options": {"queue": "edited", "tags": ["x"], **more}}
        job_id: str = api.post("/ojs/v1/jobs", json=body).raise_for_status().json()["job"]["id"]
        return job_id


def read(running: Running, job_id: str) -> dict[str, Any]:
    with running.api() as api:
        found: dict[str, Any] = api.get(f"/ojs/v1/admin/jobs/{job_id}").json()
        return found


def fields(shown: str) -> dict[str, str]:
    """Return what a browser sends if the user changes nothing."""
    shown = shown.partition("<main")[2]  # the frame has forms of its own
    inputs = re.findall(r'<input[^>]* name="([^"]*)"[^>]*? value="([^"]*)"', shown)
    areas = re.findall(r'<textarea[^>]* name="([^"]*)"[^>]*>([^<]*)<', shown)
    return {name: unescape(value) for name, value in (*inputs, *areas)}


def test_only_changed_fields_are_saved(running: Running, admin: httpx.Client) -> None:
    job_id = enqueue(running, scheduled_at="2999-01-01T00:00:00Z", timeout_ms=5000)
    path = f"/ui/jobs/{job_id}"
    assert f"jobs/{job_id}/edit" in page(admin, path)
    sent = fields(page(admin, f"{path}/edit"))
    assert sent["args"] == '[36893488147419103232,"a"]'
    unchanged = admin.post(f"{path}/edit", data=sent)
    assert unchanged.status_code == 303
    assert "Nothing was changed" in page(admin, path)
    before = read(running, job_id)
    with running.api() as api:  # another client changes another member
        api.patch(f"/ojs/v1/jobs/{job_id}", json={"meta": {"k": 2}}).raise_for_status()
    sent |= {"args": "[36893488147419103233]", "scheduled_at": "2998-01-01T00:00:00Z"}
    sent |= {"timeout_ms": "", "priority": "7", "tags": "y, z"}
    assert admin.post(f"{path}/edit", data=sent).status_code == 303
    assert "Changed: args, tags, priority, timeout ms, scheduled at." in page(admin, path)
    now = read(running, job_id)
    assert now["args"] == [36893488147419103233]
    assert now["meta"] == {"k": 2}
    assert (now["tags"], now["priority"]) == (["y", "z"], 7)
    assert now["scheduled_at"] == "2998-01-01T00:00:00Z"
    assert "timeout_ms" not in now
    assert now["max_attempts"] == before["max_attempts"]
    with running.api() as api:

        def is_recorded() -> bool:
            listed = api.get("/ojs/v1/admin/audit", params={"action": "job.edit"}).json()
            return any(entry["object"] == job_id for entry in listed["entries"])

        wait_until(is_recorded, what="the edit is in the audit")


def test_a_mistake_shows_the_form_again(running: Running, admin: httpx.Client) -> None:
    job_id = enqueue(running)
    path = f"/ui/jobs/{job_id}/edit"
    for name, value, said in (
        ("args", "{}", "Args must be a JSON array"),
        ("priority", "many", "Priority must be a whole number"),
        ("priority", "1000", "Priority must be an integer"),
        ("max_attempts", "", "Max attempts must not be empty"),
        ("expires_at", "soon", "Expires_at must be an RFC 3339 time"),
    ):
        sent = {**fields(page(admin, path)), name: value}
        answer = admin.post(path, data=sent)
        assert answer.status_code == 400
        assert said in unescape(answer.text)
        assert fields(answer.text) == sent
    assert read(running, job_id)["args"] == JOB["args"]


def test_a_unique_job_keeps_its_args(running: Running, admin: httpx.Client) -> None:
    job_id = enqueue(running, unique={"keys": ["type", "args"]})
    path = f"/ui/jobs/{job_id}/edit"
    shown = page(admin, path)
    assert "identify it" in shown
    answer = admin.post(path, data={**fields(shown), "args": "[1]"})
    assert answer.status_code == 400
    assert "unique, so its args and meta cannot change" in answer.text
    with running.api() as api:
        api.delete(f"/ojs/v1/jobs/{job_id}").raise_for_status()
    assert "The job is cancelled" in page(admin, path, 409)


def test_a_viewer_gets_no_form(running: Running) -> None:
    job_id = enqueue(running)
    with running.browser("viewer-key") as viewer:
        assert f"{job_id}/edit" not in page(viewer, f"/ui/jobs/{job_id}")
        path = f"/ui/jobs/{job_id}/edit"
        assert viewer.get(path).status_code == 403
        assert viewer.post(path, data={"args": "[2]"}).status_code == 403
    assert read(running, job_id)["args"] == JOB["args"]
