"""Errors, dead letters, workers, cron jobs and bulk operations, by forms without JavaScript."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio

from ojs_cluster.store.bulk.execution import run_due
from tests.support.servers import wait_until
from tests.ui.dashboard import Running
from tests.ui.demo import Demo
from tests.ui.html import parse
from tests.ui.test_pages import act, page


def fail(api: httpx.Client, queue: str, count: int, kind: str) -> list[str]:
    """Enqueue jobs that end as dead letters; return their ids."""
    retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    ids = []
    for number in range(count):
        body = {"type": "a.b", "args": [number], "options": {"queue": queue, "retry": retry}}
        assert api.post("/ojs/v1/jobs", json=body).status_code == 201
        fetched = api.post("/ojs/v1/workers/fetch", json={"queues": [queue], "worker_id": "w-1"})
        ids.append(fetched.json()["jobs"][0]["id"])
        error = {"type": kind, "message": f"no host {number}"}
        failed = {"job_id": ids[-1], "error": error}
        assert api.post("/ojs/v1/workers/nack", json=failed).status_code == 200
    return ids


def follow(client: httpx.Client, path: str, data: dict[str, Any]) -> httpx.Response:
    """Send a form and follow its response to the page that it leads to."""
    answer = client.post(path, data=data)
    assert answer.status_code == 303, answer.text[:300]
    assert answer.next_request is not None
    shown = client.send(answer.next_request)
    assert shown.status_code == 200
    return shown


def carry_out(running: Running) -> None:
    async def until_done() -> None:
        store = running.app.store
        meta = store.keys.meta
        with trio.fail_after(60):
            while await store.redis.call(meta.slot, "ZCARD", meta.bulk_running):
                await run_due(store)

    running.run(until_done)


def states(api: httpx.Client, ids: list[str]) -> set[str]:
    return {api.get(f"/ojs/v1/jobs/{job_id}").json()["state"] for job_id in ids}


def test_a_group_of_errors_is_counted_confirmed_and_retried(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        ids = fail(api, "grouped", 3, "HostDown")
        shown = page(admin, "/ui/errors?queue=grouped")
        assert "HostDown" in shown
        fields = {
            each.attributes["name"]: each.attributes["value"]
            for each in parse(shown).all("input")
            if each.attributes["name"].startswith("error_")
        }
        form = {"scope": "all", "action": "retry", "queue": "grouped", **fields}
        counting = follow(admin, "/ui/bulk", form)
        assert "Count: " in counting.text
        assert states(api, ids) == {"discarded"}, "counting changes nothing"
        carry_out(running)
        counted = admin.get(counting.url)
        assert "Retry 3 jobs?" in counted.text
        follow(admin, f"{counting.url.path}/run", {})
        carry_out(running)
        assert states(api, ids) == {"available"}


def test_many_jobs_need_a_typed_confirmation(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        jobs = [{"type": "a.b", "args": [], "options": {"queue": "crowd"}}] * 101
        api.post("/ojs/v1/jobs/batch", json={"jobs": jobs})
        form = {"scope": "all", "action": "cancel", "queue": "crowd", "state": "available"}
        counting = follow(admin, "/ui/bulk", form)
        carry_out(running)
        refused = follow(admin, f"{counting.url.path}/run", {"typed": "100"})
        assert "Type 101 to confirm" in refused.text
        follow(admin, f"{counting.url.path}/run", {"typed": "101"})
        carry_out(running)
        assert api.get("/ojs/v1/queues/crowd").json()["cancelled"] == 101


def test_chosen_jobs_are_changed_at_once(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        ids = fail(api, "chosen", 3, "Chosen")
        form = {"scope": "chosen", "action": "retry", "id": ids[:2], "back": "jobs?queue=chosen"}
        follow(admin, "/ui/bulk", form)
        carry_out(running)
        assert states(api, ids[:2]) == {"available"}
        assert states(api, ids[2:]) == {"discarded"}
    nothing = follow(admin, "/ui/bulk", {"action": "retry", "back": "jobs?queue=chosen"})
    assert "Choose at least one job first" in nothing.text


def test_dead_letters_are_retried_and_deleted(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        first, second = fail(api, "lost", 2, "Lost")
        listed = page(admin, "/ui/dead?queue=lost")
        assert first in listed
        assert second in listed
        act(admin, f"/ui/dead/{first}/retry", "dead?queue=lost")
        left = act(admin, f"/ui/dead/{second}/delete", "dead?queue=lost")
        assert "No dead letter matches" in left
        assert states(api, [first]) == {"available"}


def test_a_worker_is_quieted_and_resumed(running: Running, admin: httpx.Client) -> None:
    assert "host-7" in page(admin, "/ui/workers")
    detail = page(admin, "/ui/workers/reporter-1")
    assert "report.build" in detail
    assert "42" in detail
    with running.api() as api:  # a worker without heartbeats for long would be stale
        api.post("/ojs/v1/workers/heartbeat", json={"worker_id": "host:1/2"})
    path = "/ui/workers/host%3A1%2F2"
    assert "gets no new jobs" in act(admin, f"{path}/direct/quiet", "workers")
    assert "direct/resume" in page(admin, path)
    assert "gets jobs again" in act(admin, f"{path}/direct/resume", "workers")
    unknown = act(admin, "/ui/workers/unknown/direct/quiet", "workers")
    assert "not known any more" in unknown


def test_a_cron_job_is_run_paused_and_deleted(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        cron = {"name": "hourly", "cron": "0 * * * *", "type": "a.b", "args": []}
        api.post("/ojs/v1/cron", json={**cron, "options": {"queue": "hourly"}})
        assert "This is the job of hourly" in follow(admin, "/ui/cron/hourly/trigger", {}).text
        assert "manual" in page(admin, "/ui/cron/hourly")
        assert "is paused" in act(admin, "/ui/cron/hourly/pause", "cron")
        assert "runs again" in act(admin, "/ui/cron/hourly/resume", "cron/hourly")
        assert "is deleted" in act(admin, "/ui/cron/hourly/delete")
        page(admin, "/ui/cron/hourly", 404)

        def is_recorded() -> bool:
            listed = api.get("/ojs/v1/admin/audit", params={"action": "cron.delete"}).json()
            return any(entry["object"] == "hourly" for entry in listed["entries"])

        wait_until(is_recorded, what="the audit has the deletion")


@pytest.mark.parametrize("key", ["viewer-key", "email-key"])
def test_a_bulk_operation_needs_its_scope(running: Running, demo: Demo, key: str) -> None:
    with running.browser(key) as client:
        form = {"scope": "all", "action": "delete", "queue": "email", "state": "discarded"}
        counting = client.post("/ui/bulk", data=form)
        if key == "viewer-key":
            assert counting.status_code == 403
            return
        assert counting.next_request is not None
        carry_out(running)
        counted = client.send(counting.next_request)
        assert "Delete" in counted.text
        assert "/run" not in counted.text, "the key lacks ojs:admin:purge"
        client.post(f"{counted.url.path}/run", data={})
        assert "lacks the scope ojs:admin:purge" in client.get(counted.url).text
