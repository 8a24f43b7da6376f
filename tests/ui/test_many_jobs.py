"""Errors, dead letters, workers, cron jobs and bulk operations, by forms without JavaScript."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.bulk.execution import run_due
from tests.support.servers import observer, wait_until
from tests.support.timeshift import age_job
from tests.ui.dashboard import Running
from tests.ui.demo import Demo
from tests.ui.html import parse
from tests.ui.test_pages import act, page


def fail(api: httpx.Client, queue: str, count: int, kind: str) -> list[str]:
    """Enqueue jobs that end as dead letters; return their ids."""
    retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    ids = []
    for number in range(count):
        # Jobs of other tests may wait in the queue, so this one comes before them.
        options = {"queue": queue, "retry": retry, "priority": 100}
        body = {"type": "a.b", "args": [number], "options": options}
        enqueued = api.post("/ojs/v1/jobs", json=body).json()["job"]["id"]
        fetched = api.post("/ojs/v1/workers/fetch", json={"queues": [queue], "worker_id": "w-1"})
        ids.append(fetched.json()["jobs"][0]["id"])
        assert ids[-1] == enqueued
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


def row_of(client: httpx.Client, path: str) -> str:
    """Return the row of an operation in the list of bulk operations."""
    operation = path.rpartition("/")[2]
    rows = page(client, "/ui/bulk").partition("<tbody>")[2].split("</tr>")
    (found,) = [
        row
        for row in rows
        if f'<th scope="row" class="break-name"><a href="./bulk/{operation}"' in row
    ]
    return found


def states(api: httpx.Client, ids: list[str]) -> set[str]:
    return {api.get(f"/ojs/v1/jobs/{job_id}").json()["state"] for job_id in ids}


def test_a_group_of_errors_is_counted_confirmed_and_retried(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        ids = fail(api, "grouped", 3, "HostDown")
        shown = page(admin, "/ui/errors?queue=grouped")
        assert "Retry discarded jobs of 3 failed attempts…" in shown
        assert "Cancel jobs of 3 failed attempts…" in shown
        recent = page(admin, "/ui/errors?queue=grouped&since=1h")
        assert "Cancel jobs…" in recent, "the numbers are those of seven days"
        assert "HostDown" in shown
        fields = {
            each.attributes["name"]: each.attributes["value"]
            for each in parse(shown).all("input")
            if each.attributes.get("name", "").startswith("error_")
        }
        assert (fields["error_type"], fields["error_message"]) == ("HostDown", "no host *")
        form = {"scope": "all", "action": "retry", "queue": "grouped", **fields}
        counting = follow(admin, "/ui/bulk", form)
        assert "Counting jobs: Retry" in counting.text
        assert states(api, ids) == {"discarded"}, "counting changes nothing"
        carry_out(running)
        counted = admin.get(counting.url)
        assert "Counted: 3 jobs match. Not started yet" in counted.text
        assert "Retry 3 jobs?" in counted.text
        assert "counted, not started" in row_of(admin, counting.url.path)
        started = follow(admin, f"{counting.url.path}/run", {})
        assert "Not started yet" not in admin.get(counting.url).text
        assert "running</span>" in row_of(admin, counting.url.path)
        carry_out(running)
        assert states(api, ids) == {"available"}
        counted = admin.get(counting.url)
        assert "data-refresh" in counted.text, "it follows the operation"
        assert "<b>3</b> of 3 jobs done" in counted.text
        assert f"../bulk/{started.url.path.rpartition('/')[2]}" in counted.text
        assert 'id="typed"' not in counted.text
        assert "/run" not in counted.text, "it is not offered a second time"
        assert "completed</span>" in row_of(admin, counting.url.path)


def test_an_operation_on_chosen_jobs_is_not_the_one_that_was_counted(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        ids = fail(api, "counted-and-chosen", 3, "Broken")

        def start(**more: Any) -> str:
            body = {"action": "retry", "filter": {"queue": "counted-and-chosen"}, **more}
            created = api.post("/ojs/v1/admin/bulk", json=body)
            assert created.status_code == 202, created.text
            carry_out(running)
            return f"/ui/bulk/{created.json()['id']}"

        of_all, of_chosen = start(dry_run=True), start(dry_run=True, ids=ids[:2])
        start(ids=ids[:1], confirm=True)
        assert states(api, ids[1:]) == {"discarded"}
        shown = page(admin, of_all)
        assert "Counted: 3 jobs match. Not started yet" in shown
        assert "/run" in shown
        assert "counted, not started" in row_of(admin, of_all)

        start(confirm=True)
        assert "Counted: 3 jobs match. Not started yet" in page(admin, of_all)
        of_all_id = of_all.rpartition("/")[2]
        body = {"action": "retry", "follows": of_all_id, "confirm": True}
        assert api.post("/ojs/v1/admin/bulk", json=body).status_code == 202
        carry_out(running)
        assert "Counted: 3 jobs matched" in page(admin, of_all)
        refused = follow(admin, f"{of_all}/run", {})
        assert "has followed this dry run" in refused.text
        assert "counted, then" in row_of(admin, of_all)
        shown = page(admin, of_chosen)
        assert "Counted: 2 jobs match" in shown
        assert "Not started yet" not in shown, "what has followed is not known"
        assert "/run" not in shown
        assert "counted, " not in row_of(admin, of_chosen)


def test_a_job_says_when_and_by_whom_it_was_retried_by_hand(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        by_form, by_bulk = fail(api, "retried-by-hand", 2, "Broken")
        assert "by hand" not in page(admin, f"/ui/jobs/{by_form}")
        act(admin, f"/ui/jobs/{by_form}/retry", f"jobs/{by_form}")
        follow(admin, "/ui/bulk", {"scope": "chosen", "action": "retry", "id": [by_bulk]})
        carry_out(running)

        for job_id in (by_form, by_bulk):
            text = page(admin, f"/ui/jobs/{job_id}")
            moment = text.partition("Retried by hand by boss")[2].partition("</li>")[0]
            assert "<time" in moment
            assert "retried by hand <b>1</b> time</li>" in text
            assert "Attempts are counted from the last retry by hand" in text
            attempts = text.partition('aria-label="Attempts"')[2].partition("</table>")[0]
            assert "no host" in attempts, "the error before the retry"


def test_a_running_operation_is_stopped_wherever_its_progress_is_shown(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        fail(api, "stopped-early", 1, "Broken")
        for place in ("bulk", "bulk/{count}", "bulk/{started}"):
            body = {"action": "retry", "filter": {"queue": "stopped-early"}, "dry_run": True}
            counted = api.post("/ojs/v1/admin/bulk", json={**body, "confirm": True}).json()
            carry_out(running)
            follow(admin, f"/ui/bulk/{counted['id']}/run", {})
            started = api.get(f"/ojs/v1/admin/bulk/{counted['id']}").json()["followed_by"]["id"]
            here = place.format(count=counted["id"], started=started)
            shown = page(admin, f"/ui/{here}")
            root = "../" * here.count("/") or "./"
            assert f'action="{root}bulk/{started}/stop"' in shown
            assert f"bulk/{counted['id']}/stop" not in shown, "it has ended"
            with running.browser("viewer-key") as viewer:
                assert f"{started}/stop" not in page(viewer, f"/ui/{here}")
            back = follow(admin, f"/ui/bulk/{started}/stop", {"back": here})
            assert back.url.path == f"/ui/{here}"
            assert "The operation stops" in back.text
            assert f"{started}/stop" not in back.text
            carry_out(running)
            assert api.get(f"/ojs/v1/admin/bulk/{started}").json()["state"] == "stopped"
        assert "stopped" in row_of(admin, f"/ui/bulk/{started}")


def test_many_jobs_need_a_typed_confirmation(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        jobs = [{"type": "a.b", "args": [], "options": {"queue": "crowd"}}] * 101
        api.post("/ojs/v1/jobs/batch", json={"jobs": jobs})
        form = {"scope": "all", "action": "cancel", "queue": "crowd", "state": "available"}
        counting = follow(admin, "/ui/bulk", form)
        carry_out(running)
        refused = follow(admin, f"{counting.url.path}/run", {"typed": "100"})
        assert "Type 101 to confirm" in refused.text
        follow(admin, f"{counting.url.path}/run", {"typed": " 1\N{NO-BREAK SPACE}01 "})
        carry_out(running)
        assert api.get("/ojs/v1/queues/crowd").json()["cancelled"] == 101


def test_all_jobs_that_a_search_finds_are_changed(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        ids = fail(api, "searched", 3, "Searched")
        query = "queue:searched searched args.0:0,2"
        shown = parse(page(admin, f"/ui/jobs?query={query}"))
        assert any(each.attributes.get("value") == "all" for each in shown.all("option"))
        names = ("queue", "type", "state", "query", "back")
        form = {
            each.attributes["name"]: each.attributes["value"]
            for each in shown.all("input")
            if each.attributes.get("type") == "hidden" and each.attributes["name"] in names
        }
        counting = follow(admin, "/ui/bulk", {**form, "scope": "all", "action": "retry"})
        carry_out(running)
        assert "Retry 2 jobs" in admin.get(counting.url).text
        follow(admin, f"{counting.url.path}/run", {})
        carry_out(running)
        assert states(api, [ids[0], ids[2]]) == {"available"}
        assert states(api, [ids[1]]) == {"discarded"}


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
        question = page(admin, f"/ui/dead/{second}/delete?back=dead?queue=lost")
        asked = parse(question.partition("<main")[2])  # the frame has forms of its own
        assert "cannot be restored" in asked.text
        assert states(api, [second]) == {"discarded"}, "the page only asks"
        [back] = [e for e in asked.all("input") if e.attributes.get("name") == "back"]
        left = act(admin, f"/ui/dead/{second}/delete", back.attributes["value"])
        assert "No dead letter matches" in left
        assert states(api, [first]) == {"available"}


def test_chosen_jobs_are_deleted_only_after_a_confirmation(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        first, second = ids = fail(api, "kept", 2, "Kept")
        form = {"scope": "chosen", "action": "delete", "id": ids, "back": "jobs?queue=kept"}
        asked = admin.post("/ui/bulk", data=form)
        assert "Delete 2 chosen jobs?" in asked.text
        assert "cannot be restored" in asked.text
        carry_out(running)
        assert states(api, ids) == {"discarded"}
        again = [
            (each.attributes["name"], each.attributes["value"])
            for each in parse(asked.text).all("input")
            if each.attributes.get("type") == "hidden"
        ]
        follow(admin, "/ui/bulk", {**dict(again), "id": [v for n, v in again if n == "id"]})
        carry_out(running)
        for job_id in (first, second):
            assert api.get(f"/ojs/v1/jobs/{job_id}").status_code == 404


def test_a_count_of_named_ids_cannot_become_an_operation_on_all(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        ids = fail(api, "named", 1, "Named")
        body = {"action": "retry", "ids": ids, "dry_run": True}
        made = api.post("/ojs/v1/admin/bulk", json=body).json()["id"]
        carry_out(running)
        shown = page(admin, f"/ui/bulk/{made}")
        assert "1 chosen job" in shown
        assert f"{made}/run" not in shown
        refused = follow(admin, f"/ui/bulk/{made}/run", {})
        assert 'role="alert"' in refused.text
        carry_out(running)
        assert states(api, ids) == {"discarded"}


def test_a_count_of_named_ids_and_a_search_is_not_run_over_the_search(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        ids = fail(api, "named.searched", 2, "Named")
        body = {"action": "retry", "ids": ids[:1], "dry_run": True}
        body["filter"] = {"query": "queue:named.searched"}
        made = api.post("/ojs/v1/admin/bulk", json=body).json()["id"]
        searched = {"scope": "all", "action": "retry", "query": f"id:{ids[1]}"}
        counting = follow(admin, "/ui/bulk", searched)
        carry_out(running)
        shown = page(admin, f"/ui/bulk/{made}")
        assert "1 chosen job: " in shown
        assert f"{made}/run" not in shown
        follow(admin, f"/ui/bulk/{made}/run", {})
        carry_out(running)
        assert states(api, ids) == {"discarded"}
        follow(admin, f"{counting.url.path}/run", {})
        carry_out(running)
        assert states(api, ids[1:]) == {"available"}, "the ids of a search are found again"
        assert states(api, ids[:1]) == {"discarded"}


def test_a_count_in_the_queues_of_one_key_is_run_in_those_queues_only(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api, running.browser("email-key") as mail:
        ours, others = fail(api, "email", 1, "Limited"), fail(api, "not.email", 1, "Limited")
        form = {"scope": "all", "action": "retry", "query": "type:a.b"}
        counting = follow(mail, "/ui/bulk", form)
        carry_out(running)
        shown = page(admin, counting.url.path)
        assert "jobs in email" in shown
        follow(admin, f"{counting.url.path}/run", {})
        carry_out(running)
        assert states(api, ours) == {"available"}
        assert states(api, others) == {"discarded"}


def test_dead_letters_are_chosen_by_their_age(
    running: Running, admin: httpx.Client, ui_redis: Embedded
) -> None:
    with running.api() as api, observer(ui_redis) as db:
        old, new = fail(api, "aged", 2, "Aged")
        keys = running.app.store.keys
        age_job(db, keys.shard_of_id(old), old, 2 * 3600 * 1000)
        listed = page(admin, "/ui/dead?queue=aged&older_than=1h")
        assert (old in listed, new in listed) == (True, False)
        form = {
            each.attributes["name"]: each.attributes["value"]
            for each in parse(listed).all("input")
            if each.attributes.get("type") == "hidden"
        }
        counting = follow(admin, "/ui/bulk", {**form, "action": "retry"})
        carry_out(running)
        assert "Retry 1 job" in admin.get(counting.url).text
        follow(admin, f"{counting.url.path}/run", {})
        carry_out(running)
        assert states(api, [old]) == {"available"}
        assert states(api, [new]) == {"discarded"}


def test_the_failures_of_the_last_hour_are_run_again(
    running: Running, admin: httpx.Client, ui_redis: Embedded
) -> None:
    with running.api() as api, observer(ui_redis) as db:
        before, now = fail(api, "hourly.failures", 2, "HourlyFailure")
        key = running.app.store.keys.shard_of_id(before).job(before)
        stored: Any = db.hgetall(key)
        for name, value in stored.items():
            if name[:1] == b"h" and name[1:].isdigit():  # an error: attempt, time, JSON
                attempt, ms, rest = value.split(b",", 2)
                db.hset(key, name, b"%b,%d,%b" % (attempt, int(ms) - 7200_000, rest))
        shown = page(admin, "/ui/errors?queue=hourly.failures&since=1h")
        assert "HourlyFailure" in shown
        form = {"scope": "all", "action": "retry", "queue": "hourly.failures", "error_since": "1h"}
        assert 'name="error_since" value="1h"' in shown
        counting = follow(admin, "/ui/bulk", form)
        carry_out(running)
        assert "that failed since" in admin.get(counting.url).text
        follow(admin, f"{counting.url.path}/run", {})
        carry_out(running)
        assert states(api, [now]) == {"available"}
        assert states(api, [before]) == {"discarded"}
        assert "HourlyFailure" in page(admin, "/ui/errors?queue=hourly.failures&since=nonsense")


def test_a_worker_is_quieted_and_resumed(running: Running, admin: httpx.Client) -> None:
    # Not on the list: other tests leave more workers than a page of it shows.
    detail = page(admin, "/ui/workers/reporter-1")
    assert "host-7" in detail
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
        assert "run by hand" in page(admin, "/ui/cron/hourly")
        assert "enabled</span>" in page(admin, "/ui/cron/hourly")
        assert "is paused" in act(admin, "/ui/cron/hourly/pause", "cron")
        text = page(admin, "/ui/cron/hourly")
        assert "paused</span>" in text
        assert "running" not in text.partition("<h1>")[2].partition("</h1>")[0].replace(
            "state-running", ""
        )
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
        assert "To delete: discarded jobs in email" in counted.text
        assert "/run" not in counted.text, "the key lacks ojs:admin:purge"
        client.post(f"{counted.url.path}/run", data={})
        assert "lacks the scope ojs:admin:purge" in client.get(counted.url).text
