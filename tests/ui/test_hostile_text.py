"""Text of clients stays text: every field that a client controls, on every page."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from ojs_cluster.http.messages import Request
from ojs_cluster.ui.browser import NOTE, Note, note_cookie, note_of
from tests.support.servers import own_server
from tests.ui.conftest import FULL, write_history
from tests.ui.dashboard import Running, dashboard
from tests.ui.html import parse

HOSTILE = (
    "'\"></script></pre></textarea><hostile x=`1` onerror=alert(1)>{{ 7 * 7 }}\u202e&lt;hostile&gt;"
)
WORKER = HOSTILE.replace("\u202e", "")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with (
        own_server(tmp_path_factory.mktemp("hostile"), cluster=False) as redis,
        dashboard(redis, FULL) as found,
    ):
        yield found


def attack(
    api: httpx.Client, text: str = HOSTILE, worker: str = WORKER, name: str = HOSTILE
) -> list[str]:
    """Store the text everywhere; return the pages that show it.

    Args:
        api: a client with all scopes.
        text: what the values of jobs have.
        worker: the name of the worker, which is in addresses of pages, too.
        name: the names and descriptions of other things.
    """
    once = {
        "queue": "a",
        "retry": {"max_attempts": 1, "on_exhaustion": "dead_letter"},
        "tags": [text],
    }
    body = {"type": "a.b", "args": [text, {text: text}], "meta": {text: text}}
    pages = ["", "queues", "queues/a", "jobs", "jobs?state=discarded"]
    for end in ("ack", "nack", "hold"):
        created = api.post("/ojs/v1/jobs", json={**body, "options": once})
        job_id = created.json()["id"]
        fetch = {"queues": ["a"], "worker_id": worker}
        fetched = api.post("/ojs/v1/workers/fetch", json=fetch)
        assert fetched.json().get("jobs"), fetched.text
        error = dict.fromkeys(("type", "code", "message", "backtrace"), text)
        sent = {"ack": {"result": {text: text}}, "nack": {"error": error}}.get(end)
        if sent is not None:
            done = api.post(f"/ojs/v1/workers/{end}", json={"job_id": job_id, **sent})
            assert done.status_code == 200, done.text
        pages += [f"jobs/{job_id}", f"jobs/new?from={job_id}"]
    cron: dict[str, Any] = {"name": "c", "cron": "0 3 * * *", "type": "a.b", "args": [text]}
    cron |= {"description": name, "meta": {text: text}, "options": {"queue": "a"}}
    assert api.post("/ojs/v1/cron", json=cron).status_code == 201
    beat = {"worker_id": worker, "hostname": text, text: text, "queues": [text]}
    assert api.post("/ojs/v1/workers/heartbeat", json=beat).status_code == 200
    chosen = {"error": {"type": text, "message": text}}
    counted = {"action": "retry", "filter": chosen, "dry_run": True}
    operation = api.post("/ojs/v1/admin/bulk", json=counted).json()["id"]
    pages += ["dead", "errors", "workers", f"workers/{quote(worker, safe='')}", "cron", "bulk"]
    flow = {"type": "dag", "name": name, "steps": [{"id": name, "type": "a.b", "args": []}]}
    created = api.post("/ojs/v1/workflows", json=flow)
    assert created.status_code == 201, created.text
    pages += ["workflows", f"workflows/{created.json()['id']}"]
    step = api.post("/ojs/v1/workers/fetch", json={"queues": ["default"], "worker_id": worker})
    failed = {"job_id": step.json()["jobs"][0]["id"], "error": {"message": text}}
    assert api.post("/ojs/v1/workers/nack", json=failed).status_code == 200
    limit = {**body, "options": {"queue": "a", "rate_limit": {"key": "k:1", "concurrency": 1}}}
    assert api.post("/ojs/v1/jobs", json=limit).status_code == 201
    hook: dict[str, Any] = {"url": "https://9.9.9.9/hook", "events": ["job.failed"]}
    hook["metadata"] = {text: text}
    made = api.post("/ojs/v1/webhooks/subscriptions", json=hook)
    assert made.status_code == 201, made.text
    off = {"enabled": True, "reason": worker, "refuse": ["fetch"]}
    assert api.post("/ojs/v1/admin/maintenance", json=off).status_code == 200
    assert api.post("/ojs/v1/admin/marks", json={"label": worker}).status_code == 201
    reason = {"max_scheduled": 7, "reason": text}
    made = api.put("/ojs/v1/admin/tenants/acme/limits", json=reason)
    assert made.status_code == 200, made.text
    pages += ["limits", "tenants", "tenants/acme", "webhooks", "events", "operations", "audit", ""]
    pages += ["limits/k:1", "cron/_new", "cron/c/edit"]
    return [*pages, "cron/c", f"bulk/{operation}"]


def check(answer: httpx.Response) -> None:
    document = parse(answer.text)
    assert not document.all("hostile"), answer.url
    assert not [e for e in document.elements if any(name.startswith("on") for name in e.attributes)]
    assert "\u202e" not in document.text, answer.url  # the values of form fields stay exact


def test_hostile_text_is_shown_as_text(attacked: Running) -> None:
    with attacked.api() as api:
        pages = attack(api)
    attacked.run(lambda: write_history(attacked))  # charts have marks
    shown = 0
    with attacked.browser() as client:
        for page in pages:
            answer = client.get(f"/ui/{page}")
            assert answer.status_code == 200, page
            check(answer)
            shown += "&lt;hostile" in answer.text
            if page in ("", "queues/a"):
                marks = parse(answer.text).all("table")
                assert any(each.attributes.get("id") == "marks" for each in marks), page
        # The address of a page is text of a client, too, and so is a note of a refused action.
        for path in ("jobs", "queues", "login", ""):
            given = {
                "query": HOSTILE,
                "queue": HOSTILE,
                "type": HOSTILE,
                "page": HOSTILE,
                "next": HOSTILE,
            }
            given |= {"state": HOSTILE, "cursor": HOSTILE, "range": HOSTILE}
            check(client.get(f"/ui/{path}", params=given))
        refused = client.post(
            f"/ui/jobs/{HOSTILE}/retry".replace("/>", ">"), data={"back": HOSTILE}
        )
        check(refused)
        for path in ("limits", "config", "defaults", "purge", "delete"):
            fields = ["concurrency", "rate", "rate_period", "throttle", "throttle_period"]
            fields += ["partitions", "max_depth", "on_exhaustion", "typed", "was_partitions"]
            fields += ["strategy", "target_queue", "confirmed"]
            fields += ["max_attempts", "initial_interval", "default_timeout", "completed"]
            answer = client.post(f"/ui/queues/a/{path}", data=dict.fromkeys(fields, HOSTILE))
            assert answer.status_code in (400, 422), path
            check(answer)
        names = ("name", "expression", "timezone", "type", "queue", "args", "options")
        form = dict.fromkeys((*names, "description", "overlap_policy", "do"), HOSTILE)
        for path, field in (("cron/_new", "args"), ("cron/c/edit", "queue"), ("cron/_new", "")):
            sent = {**form, "args": "[]", "options": "{}", field: HOSTILE}
            for do in ("save", "preview"):
                answer = client.post(f"/ui/{path}", data={**sent, "do": do})
                assert answer.status_code == (200 if do == "preview" else 400), answer.text
                check(answer)
        check(client.get("/ui/cron/_preview", params=form))
        override = dict.fromkeys(("concurrency", "rate", "rate_period", "expires_at"), HOSTILE)
        answer = client.post("/ui/limits/k:1/override", data=override)
        assert answer.status_code == 422
        check(answer)
        limits = dict.fromkeys(("max_queue_depth", "rate", "rate_period", "reason"), HOSTILE)
        answer = client.post("/ui/tenants/acme/limits", data=limits)
        assert answer.status_code in (400, 422)
        check(answer)
        worker = quote(HOSTILE.replace("\u202e", ""), safe="")
        asked = client.post(f"/ui/workers/{worker}/direct/terminate", data={"back": HOSTILE})
        assert asked.status_code == 200
        check(asked)
        shown_again = client.post("/ui/jobs/new", data=dict.fromkeys(("type", "tags"), HOSTILE))
        check(shown_again)
        check(client.get(f"/ui/jobs/new?type={quote(HOSTILE)}"))
        check(client.post("/ui/bulk", data={"action": "delete", "id": [HOSTILE], "back": HOSTILE}))
        # A question repeats the fields of the form.
        asked = client.post("/ui/queues/a/limits", data={"concurrency": "0", HOSTILE: HOSTILE})
        assert asked.status_code == 200
        check(asked)
        for path in (f"queues/{HOSTILE}", f"jobs/{HOSTILE}", HOSTILE):
            check(client.get("/ui/" + path.replace("</", "<")))
    assert shown >= 4


def test_a_note_cookie_is_read_whole_or_not_at_all() -> None:
    """A browser may send any cookie, also one that Python cannot decode."""

    def read(value: str) -> Note | None:
        return note_of(Request("GET", "/ui/", "", {"cookie": f"{NOTE}={value}"}))

    for depth in (10, 3000, 12_000):
        assert read(urlsafe_b64encode(b"[" * depth).decode()) is None
    for text in ("done", "\u00fc" * 300):
        _, header = note_cookie(text, True, "/ui", False)
        assert read(header.partition("=")[2].partition(";")[0]) == (text, True)
