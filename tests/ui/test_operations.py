"""Limits, webhooks, live events, workflows and operations, by forms without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from ojs_cluster.core.access.scopes import Keyring, digest
from ojs_cluster.http.problem_watch import look
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.ui.pages import audit, webhooks
from ojs_cluster.ui.pages.shared.audited_changes import changes_of
from ojs_cluster.ui.settings import UiSettings
from tests.support.servers import wait_until
from tests.ui.dashboard import KEYS, OWN, Running, dashboard
from tests.ui.demo import Demo
from tests.ui.html import parse
from tests.ui.test_pages import act, page
from tests.ui.test_queues import refused, send


def test_a_limit_is_overridden_and_cleared(running: Running, admin: httpx.Client) -> None:
    assert "limits/partner%3Aapi" in page(admin, "/ui/limits")
    path = "/ui/limits/partner%3Aapi"
    end = "2099-01-01T00:00:00Z"
    form = {"concurrency": "7", "rate": "20", "rate_period": "minute", "expires_at": end}
    assert "7 jobs at the same time, 20 starts per minute" in send(admin, f"{path}/override", form)
    assert "7 jobs at the same time" in page(admin, "/ui/limits")
    own = page(admin, path)
    assert 'value="7"' in own
    assert "2099-01-01T00:00:00" in own
    assert "those of its jobs again" in act(admin, f"{path}/clear", "limits")
    assert "7 jobs at the same time" not in page(admin, "/ui/limits")


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"concurrency": "many"}, "concurrency"),
        ({"concurrency": "9" * 5000}, "concurrency"),
        ({"concurrency": ""}, "concurrency"),
        ({"rate": "1", "rate_period": "week"}, "rate_period"),
        ({"concurrency": "1", "expires_at": "tomorrow"}, "expires_at"),
    ],
)
def test_a_wrong_override_is_explained_beside_its_field(
    running: Running, admin: httpx.Client, form: dict[str, str], field: str
) -> None:
    assert refused(admin, "/ui/limits/partner%3Aapi/override", form, field)
    with running.api() as api:
        assert "override" not in api.get("/ojs/v1/rate-limits/partner:api").json()


def test_an_override_that_stops_a_key_is_asked_first(running: Running, admin: httpx.Client) -> None:
    path = "/ui/limits/partner%3Aapi"
    answer = admin.post(f"{path}/override", data={"concurrency": "0"})
    assert answer.status_code == 200
    assert "no job with this key starts, in any queue" in answer.text
    assert 'name="confirmed"' in answer.text
    with running.api() as api:
        assert "override" not in api.get("/ojs/v1/rate-limits/partner:api").json()
    send(admin, f"{path}/override", {"concurrency": "0", "confirmed": "1"})
    assert "No job with this key starts" in page(admin, path)
    act(admin, f"{path}/clear", "limits")


def _none() -> httpx.Request:
    raise AssertionError("the form has led to no page")


def test_a_webhook_is_deactivated_and_activated(running: Running, admin: httpx.Client) -> None:
    assert "https://9.9.9.9/hook" in page(admin, "/ui/webhooks")
    with running.api() as api:
        listed = api.get("/ojs/v1/webhooks/subscriptions").json()["items"]
    subscription = next(each["id"] for each in listed if "9.9.9.9" in each["url"])
    assert "gets no events" in act(admin, f"/ui/webhooks/{subscription}/deactivate", "webhooks")
    assert f"{subscription}/activate" in page(admin, "/ui/webhooks")
    assert "is active again" in act(admin, f"/ui/webhooks/{subscription}/activate", "webhooks")
    page(admin, f"/ui/webhooks?subscription={subscription}&status=dead")


def test_maintenance_mode_is_switched_by_a_form(running: Running, admin: httpx.Client) -> None:
    form = {"enabled": "1", "fetch": "1", "reason": "new disks", "back": "operations"}
    answer = admin.post("/ui/operations/maintenance", data=form)
    try:
        shown = admin.send(answer.next_request or _none()).text
        assert "new disks" in shown
        assert "Maintenance mode is on: fetch requests are refused" in page(admin, "/ui/")
    finally:
        off = act(admin, "/ui/operations/maintenance", "operations")
    assert "Maintenance mode is off" in off


def test_a_mark_is_set_on_the_charts_and_deleted(running: Running, admin: httpx.Client) -> None:
    shown = send(admin, "/ui/marks", {"label": "v7 rollout", "back": "queues/media"})
    assert "The mark is on the charts" in shown
    assert 'aria-label="Statistics of the queue' in shown
    assert "v7 rollout" in shown
    assert "at must be a time of the last 30 days" in send(
        admin, "/ui/marks", {"label": "v8", "at": "2001-01-01T00:00:00Z"}
    ).replace("At must", "at must")
    overview = page(admin, "/ui/")
    assert 'action="./marks"' in overview.partition('class="charts')[0], "beside the time spans"
    forms = [each.attributes.get("action") or "" for each in parse(shown).all("form")]
    with running.browser("viewer-key") as client:
        wait_until(lambda: "v7 rollout" in page(client, "/ui/"), what="the mark is shared")
        seen = page(client, "/ui/")
        assert "/delete" not in seen
        assert 'action="./marks"' not in seen
        assert client.post("/ui/marks", data={"label": "x"}).status_code == 403
    with running.browser("email-key") as client:
        for path in ("/ui/", "/ui/queues/email"):
            assert "v7 rollout" not in page(client, path), "marks are about all queues"
    newest = [path for path in forms if "marks/" in path][-1]
    assert "The mark is deleted" in act(admin, f"/ui/queues/{newest}")
    wait_until(lambda: "v7 rollout" not in page(admin, "/ui/"), what="the mark is gone")


def test_a_problem_is_muted_on_the_overview(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        api.post("/ojs/v1/queues/media/pause").raise_for_status()

        def listed() -> dict[str, Any]:
            items = api.get("/ojs/v1/admin/problems").json()["items"]
            return next((each for each in items if each["id"] == "queue_paused"), {})

        wait_until(lambda: bool(listed()), what="the problem")
        running.run(lambda: look(running.app, "test"))

        def line(client: httpx.Client) -> str:
            lines = page(client, "/ui/").split("<li ")
            [found] = [parse(each).text for each in lines if listed()["text"] in each]
            return found

        wait_until(lambda: "began" in line(admin), what="since when it is there")
        form = {"id": "queue_paused"}
        assert "muted until it ends" in send(admin, "/ui/problems/mute", form)
        wait_until(lambda: "acknowledged by boss" in line(admin), what="it is acknowledged")
        assert "Unmute" in line(admin)
        send(admin, "/ui/problems/mute", {**form, "hours": "8"})
        wait_until(lambda: "muted by boss until" in line(admin), what="it is muted")
        assert listed()["state"] == "muted"
        assert "Muted" in page(admin, "/ui/")
        with running.browser("viewer-key") as client:
            for refresh in ({}, {"HX-Request": "true"}):
                shown = client.get("/ui/", headers=refresh).text
                assert "muted by boss" in shown
                assert "problems/" not in shown, "a viewer cannot mute"
            assert client.post("/ui/problems/mute", data=form).status_code == 403
        send(admin, "/ui/problems/unmute", form)
        wait_until(lambda: "Acknowledge" in line(admin), what="it is open again")
        assert "does not exist" in send(admin, "/ui/problems/mute", {"id": "x"})
        assert "duration" in send(admin, "/ui/problems/mute", {**form, "hours": "x"})
        api.post("/ojs/v1/queues/media/resume").raise_for_status()


def test_outbox_dead_letters_are_shown_and_delivered_again(
    running: Running, admin: httpx.Client
) -> None:
    store = running.app.store
    shard = store.keys.shard(2)

    async def add() -> None:
        await store.redis.call(shard.slot, "HSET", shard.outbox, "77", "poison 9 <hostile>")
        await store.redis.call(shard.slot, "ZADD", shard.outbox_dead_letters, "1000", "77")

    running.run(add)
    shown = page(admin, "/ui/operations")
    assert "poison" in shown
    assert "&lt;hostile&gt;" in shown
    left = act(admin, "/ui/operations/outbox", "operations")
    assert "every effect between shards was delivered" in left

    async def forget() -> None:
        await store.redis.call(shard.slot, "UNLINK", shard.outbox, shard.outbox_due)

    running.run(forget)


def test_the_audit_is_shown_page_by_page(admin: httpx.Client) -> None:
    for _ in range(30):
        for action in ("pause", "resume"):
            admin.post(f"/ui/queues/orders/{action}")

    def is_shown() -> bool:
        shown = page(admin, "/ui/audit")
        return "cursor=" in shown and "Resume a queue" in shown

    wait_until(is_shown, what="more than one page")
    (older,) = [a for a in parse(page(admin, "/ui/audit")).all("a") if "cursor=" in str(a)]
    assert "Newest" in page(admin, "/ui/" + older.attributes["href"].removeprefix("./"))


def test_the_audit_is_filtered_by_user_action_and_object(
    running: Running, admin: httpx.Client
) -> None:
    for name in ("orders", "email"):
        for action in ("pause", "resume"):
            admin.post(f"/ui/queues/{name}/{action}")

    def rows(filters: str) -> list[str]:
        table = page(admin, f"/ui/audit?{filters}").partition("<tbody>")[2].partition("</tbody>")[0]
        return table.split("<tr>")[1:]

    def found() -> bool:
        return bool(rows("user=boss&action=queue.resume&text=EMAIL"))

    wait_until(found, what="the audit has the change")
    wanted = rows("user=boss&action=queue.resume&text=EMAIL")
    assert all("Resume a queue" in row and "queues/email" in row for row in wanted)
    assert all(" UTC</time>" in row and 'datetime="' in row for row in wanted)
    assert any("queues/orders" in row for row in rows("action=queue.resume"))
    assert rows("user=bos") == [], "a name is compared as a whole"
    assert rows("text=nowhere-at-all") == []
    assert rows("since=1h&action=queue.resume")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(audit.PERIODS, "1h", (-3600, "the next hour"))
        assert rows("since=1h&action=queue.resume") == [], "all entries are older"
    assert rows("until=2124-01-31 08:00&action=queue.resume")
    assert rows("until=2024-01-31&action=queue.resume") == []
    assert rows("since=2124-01-31 08:00&action=queue.resume") == []
    with running.browser("email-key") as client:
        page(client, "/ui/audit", 403)
        assert ">Audit</a>" not in page(client, "/ui/events")
    assert ">Audit</a></p>" in page(admin, "/ui/events")


def test_the_audit_shows_what_a_setting_was_changed_to(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        for limit in (11, 12):
            path = "/ojs/v1/admin/queues/audited/rate-limit"
            api.put(path, json={"concurrency": limit}).raise_for_status()
    shown = 'Jobs at the same time: <bdi dir="ltr"><bdi>11</bdi> → <bdi>12</bdi></bdi></div>'
    wait_until(
        lambda: shown in page(admin, "/ui/audit?action=queue.limit"),
        what="the audit has the change",
    )
    raw = page(admin, "/ui/audit?action=queue.limit").partition(shown)[2].partition("</tr>")[0]
    members = '{ "concurrency": { "old": 11, "new": 12 } }'
    assert members in " ".join(parse(raw).text.split()), "the members stay to be seen"


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ({"default_timeout": {"old": 30, "new": 90}}, ["Timeout: 30 s → 1.5 min"]),
        ({"timeout_ms": {"new": 1500}}, ["Timeout:  → 1.5 s"]),
        ({"queues": {"new": ["a", "b"]}}, ["Queues:  → a, b"]),
        (
            {"queues": {"new": {"a": {"weight": 3}, "b": {}}}, "weights": {"old": {"a": 2}}},
            ["Queues:  → a weight 3, b", "Weight: a 2 → removed"],
        ),
        ({"enabled": {"old": True, "new": False}}, ["enabled: on → off"]),
        ({"overlap_policy": {"new": "skip"}}, ["If the last run has not ended:  → skip this run"]),
        ({"at": {"new": "2030-01-31T08:00:00Z"}}, ["at:  → 2030-01-31 17:00:00 JST"]),
        ({"period": {"new": "PT90S"}, "url": {}}, ["period:  → 1.5 min", "url:  → not recorded"]),
        ({"period": {"new": "soon"}}, ["period:  → soon"]),
        ({"rate": {"new": {"limit": 9, "period": "PT1M"}}}, ["Starts:  → 9 per minute"]),
        ({"max_scheduled": {"old": 1000, "new": None}}, ["Scheduled jobs: 1,000 → removed"]),
        ({"max_scheduled": {"old": 1000}}, ["Scheduled jobs: 1,000 → removed"]),
        (
            {
                "config": {
                    "old": {"backpressure": {"strategy": "block", "max_depth": 5}},
                    "new": {"backpressure": {"strategy": "reject", "max_depth": 5}},
                }
            },
            ["When the queue is full: Let clients wait for room → Refuse new jobs"],
        ),
        (
            {
                "default_retry": {
                    "old": {"max_attempts": 5, "jitter": True},
                    "new": {"max_attempts": 6},
                }
            },
            ["Retries: Attempts: 5 → 6"],
        ),
        (
            {"retention": {"old": {"completed": "P1D"}, "new": {"completed": "PT36H"}}},
            ["Keep ended jobs for: Completed: 1 d → 1.5 d"],
        ),
    ],
)
def test_the_audit_shows_values_as_other_pages_do(
    details: dict[str, Any], words: list[str]
) -> None:
    changes = changes_of({"details": details}, ZoneInfo("Asia/Tokyo"))
    assert [f"{each.label}: {each.old} → {each.new}" for each in changes] == words


@pytest.mark.parametrize(
    ("action", "given", "words"),
    [
        ("queue.pause", "email", "email"),
        ("queue.delete", "email discard", "email, its jobs discarded"),
        ("queue.delete", "email move slow", "email, its jobs moved to slow"),
        ("bulk.create", "count cancel queue=email", "count, to cancel jobs in the queue email"),
        ("bulk.create", "retry 1 ids", "retry 1 named job"),
        ("job.retry_many", "queue=email type=a.b", "jobs in the queue email of the type a.b"),
        (
            "bulk.create",
            "retry type=a.b error=Timeout: queue=x query of state,args",
            "retry jobs of the type a.b with the error Timeout: queue=x found by state, args",
        ),
        ("bulk.create", "retry all queues", "retry all queues"),
        ("mark.add", "ids", "ids"),
        ("keys.reload", "OJS_API_KEYS_FILE", "the file of the API keys"),
    ],
)
def test_the_audit_has_words_for_objects(action: str, given: str, words: str) -> None:
    assert audit.object_of({"action": action, "object": given}) == words


@pytest.mark.parametrize(
    ("entry", "action", "outcome"),
    [
        ({"action": "queue.pause", "outcome": "ok"}, "Pause a queue", "done"),
        ({"action": "ui.login", "outcome": "ok"}, "Log in to the dashboard", "done"),
        (
            {"action": "dead_letter.delete", "outcome": "not_found"},
            "Delete a dead letter",
            "it does not exist",
        ),
        (
            {"action": "authenticate", "outcome": "unauthenticated", "count": 12},
            "Log in or send a key",
            "no valid key, 12 times",
        ),
        (
            {
                "action": "GET /ojs/v1/admin/stats",
                "outcome": "permission_denied",
                "missing_scope": "ojs:admin:read",
            },
            "GET /ojs/v1/admin/stats",
            "not allowed: the key lacks ojs:admin:read",
        ),
        ({"action": "queue.limit", "outcome": "too_many_queues"}, None, "too many queues"),
    ],
)
def test_the_audit_has_words_for_codes(
    entry: dict[str, Any], action: str | None, outcome: str
) -> None:
    assert audit.outcome_of(entry) == outcome
    if action is not None:
        assert audit.action_of(entry) == action


@pytest.mark.parametrize(
    ("action", "name", "place"),
    [
        ("queue.pause", "email", "queues"),
        ("cron.delete", "nightly", "cron"),
        ("tenant.set_limits", "Acme:eu_1", "tenants"),
        ("job.retry", "01a229b9-5ce2-78aa-804b-bd7b1f2ccf8e", "jobs"),
        ("bulk.stop", "01a229b9-5ce2-78aa-804b-bd7b1f2ccf8e", "bulk"),
        ("bulk.create", "count cancel queue=email", ""),
        ("job.retry_many", "retry 3 ids", ""),
        ("keys.reload", "OJS_API_KEYS_FILE", ""),
        ("queue.pause", "", ""),
    ],
)
def test_the_audit_links_objects_that_have_a_page(action: str, name: str, place: str) -> None:
    assert audit.place_of({"action": action, "object": name}) == place


def test_every_action_of_the_api_has_words() -> None:
    actions = {route.action for route in ROUTES if route.action}
    assert len(actions) > 30
    assert actions <= {*audit.ACTIONS}, "the filter offers them all"
    for action in audit.ACTIONS:
        words = audit.action_of({"action": action})
        assert not {".", "_"} & set(words), action
        assert words[0].isupper(), action
        verb = action.partition(".")[2]
        assert "_" not in verb or verb.replace("_", " ") not in words.lower(), (
            "a verb and an object"
        )


@pytest.mark.parametrize(
    ("delivery", "words"),
    [
        ({"status_code": None}, ""),
        ({"status_code": 204}, "accepted (204 No Content)"),
        ({"status_code": 503}, "refused (503 Service Unavailable)"),
        ({"status_code": 799}, "refused (799)"),
        ({"status_code": None, "error": "timed out"}, "no response: timed out"),
    ],
)
def test_responses_to_webhooks_are_in_words(delivery: dict[str, Any], words: str) -> None:
    assert webhooks.answer_of(delivery) == words


def test_a_key_for_some_queues_gets_no_page_about_all(running: Running, demo: Demo) -> None:
    with running.browser("email-key") as client:
        for path in (
            "operations",
            "workers",
            "limits",
            "limits/partner:api",
            "webhooks",
            "tenants",
        ):
            page(client, f"/ui/{path}", 403)
        assert "media" not in page(client, "/ui/events").partition("<tbody>")[2]
        assert "order 17" not in page(client, "/ui/workflows")
        page(client, f"/ui/workflows/{demo.workflow}", 404)


def edges(text: str) -> int:
    """Return how many edges the drawing of a workflow has."""
    return text.partition('<g class="edges"')[2].partition("</g>")[0].count("<path")


def test_a_workflow_is_drawn_and_cancelled(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        group = {
            "type": "group",
            "jobs": [{"type": "a.b", "args": []}, {"type": "a.c", "args": []}],
        }
        flow = {"type": "chain", "name": "nested", "steps": [group, {"type": "a.d", "args": []}]}
        created = api.post("/ojs/v1/workflows", json=flow)
        assert created.status_code == 201, created.text
        workflow = created.json()["id"]
    text = page(admin, f"/ui/workflows/{workflow}")
    assert text.count("<rect") == 4  # three steps, and the frame of the map
    assert edges(text) == 2, "the last step waits for both jobs of the group"
    cancelled = act(admin, f"/ui/workflows/{workflow}/cancel", f"workflows/{workflow}")
    assert "The workflow is cancelled" in cancelled


def test_a_workflow_with_many_edges_is_drawn(running: Running, admin: httpx.Client) -> None:
    group = {"type": "group", "jobs": [{"type": "a.b", "args": []}] * 40}
    with running.api() as api:
        flow = {"type": "chain", "name": "wide", "steps": [group, group]}
        workflow = api.post("/ojs/v1/workflows", json=flow).raise_for_status().json()["id"]
        text = page(admin, f"/ui/workflows/{workflow}")
        assert (text.count("<rect"), edges(text)) == (3, 1)
        api.delete(f"/ojs/v1/workflows/{workflow}").raise_for_status()


def events_of(lines: Iterator[str]) -> Iterator[str]:
    return (line.removeprefix("event: ") for line in lines if line.startswith("event: "))


def test_events_are_streamed_as_they_happen(running: Running, admin: httpx.Client) -> None:
    with running.api() as api, admin.stream("GET", "/ui/events/stream?queue=live") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert admin.head("/ui/events/stream").content == b""
        lines = stream.iter_lines()
        assert next(lines) == "retry: 3000"
        other = {"type": "a.b", "args": [], "options": {"queue": "other"}}
        api.post("/ojs/v1/jobs", json=other)
        api.post("/ojs/v1/jobs", json={**other, "type": "a.c", "options": {"queue": "live"}})
        assert next(events_of(lines)) == "job.enqueued"
        assert '"a.c"' in next(lines)


def test_a_stream_ends_when_its_key_is_removed(ui_redis: Embedded) -> None:
    with (
        dashboard(ui_redis, UiSettings(mode="read")) as server,
        server.browser("viewer-key") as client,
        httpx.Client(base_url=server.url, headers=OWN, timeout=60) as another,
    ):
        cookie = {"Cookie": f"ojs_ui_session={client.cookies['ojs_ui_session']}"}
        with another.stream("GET", "/ui/events/stream", headers=cookie) as stream:
            lines = stream.iter_lines()
            next(lines)

            async def remove() -> None:
                server.app.access.replace(Keyring({digest("admin-key"): KEYS["admin-key"]}, {}))

            server.run(remove)
            rest = [*islice((line for line in lines if line.startswith(("event:", ":"))), 3)]
            assert set(rest) <= {":heartbeat"}
            assert len(rest) < 3, "the stream goes on"
        assert client.get("/ui/queues").status_code == 303, "the session has ended, too"


def test_actions_that_only_the_api_offers_have_pages(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        for dry_run in (True, False):
            body = {"action": "purge", "filter": {"queue": "no-such"}, "confirm": True}
            made = api.post("/ojs/v1/admin/bulk", json={**body, "dry_run": dry_run})
            operation = made.raise_for_status().json()["id"]
            assert "purge" in page(admin, f"/ui/bulk/{operation}")
    assert "purge" in page(admin, "/ui/bulk")
