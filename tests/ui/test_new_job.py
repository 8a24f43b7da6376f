"""The form for a new job: large jobs, and JSON that no parser likes."""

from __future__ import annotations

import json

import httpx
import pytest

from ojs_cluster.ui.pages.new_job import _visible
from tests.ui.dashboard import Running
from tests.ui.html import parse
from tests.ui.test_pages import page


def test_a_large_job_is_copied_but_not_edited(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        body = {"type": "a.large", "args": ["\u202e" * 8000], "options": {"queue": "large"}}
        job_id = api.post("/ojs/v1/jobs", json=body).raise_for_status().json()["job"]["id"]
        shown = page(admin, f"/ui/jobs/{job_id}")
        assert f"jobs/new?from={job_id}" not in shown
        assert "Enqueue it again by curl" not in shown
        assert "too large" in page(admin, f"/ui/jobs/new?from={job_id}", 413)
        api.delete(f"/ojs/v1/jobs/{job_id}")


def test_nested_arrays_are_a_mistake_in_the_form(admin: httpx.Client) -> None:
    form = "type=a.b&queue=default&args=" + "[" * 30_000 + "]" * 30_000
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = admin.post("/ui/jobs/new", content=form, headers=headers)
    assert answer.status_code == 400
    assert "Args must be a JSON array" in answer.text


def test_invisible_characters_are_shown_as_escapes() -> None:
    assert _visible('["a\u202eb\u00e4 \U000e0001"]\n') == '["a\\u202eb\u00e4 \\udb40\\udc01"]\n'


def test_the_file_of_a_job_fills_the_form(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        options = {
            "queue": "files",
            "priority": 3,
            "retry": {"max_attempts": 7},
            "tags": ["x", "y"],
        }
        body = {"type": "a.file", "args": [2**70, "<b>"], "meta": {"k": 1}, "options": options}
        job_id = api.post("/ojs/v1/jobs", json=body).raise_for_status().json()["job"]["id"]
        saved = page(admin, f"/ui/jobs/{job_id}.json")
        for text in (saved, json.dumps({"job": json.loads(saved)}), json.dumps(body)):
            filled = admin.post("/ui/jobs/new", data={"json": text})
            assert filled.status_code == 200
            form = parse(filled.text)
            fields = {
                e.attributes["name"]: e.attributes.get("value", "") for e in form.all("input")
            }
            assert fields["queue"] == "files"
            assert (fields["priority"], fields["max_attempts"], fields["tags"]) == (
                "3",
                "7",
                "x, y",
            )
            assert str(2**70) in filled.text
            assert "&lt;b&gt;" in filled.text
        listed = api.get("/ojs/v1/admin/jobs", params={"type": "a.file"}).json()["items"]
        assert [job["id"] for job in listed] == [job_id], "nothing is enqueued"
        api.delete(f"/ojs/v1/jobs/{job_id}")


@pytest.mark.parametrize("text", ["[1]", "{", '{"type": 7}', '{"job": []}', "[" * 3000])
def test_other_json_is_no_job(admin: httpx.Client, text: str) -> None:
    answer = admin.post("/ui/jobs/new", data={"json": text})
    assert answer.status_code == 400
    assert "Paste one job" in answer.text
