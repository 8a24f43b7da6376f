"""The form that creates and changes cron jobs, its preview, and the drawing of past runs."""

from __future__ import annotations

import re
from typing import Any, cast

import httpx
import pytest

from ojs_cluster.http.messages import Response
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.ui.drawings.runs_chart import runs_chart
from ojs_cluster.ui.pages.crons.changes import _exists
from ojs_cluster.ui.pages.crons.preview import preview_of
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.visit import ApiError, Visit
from tests.ui.dashboard import Running, dashboard
from tests.ui.demo import BIG, Demo
from tests.ui.html import parse
from tests.ui.test_pages import page
from tests.ui.test_queues import refused, send

NEW = "/ui/cron/_new"
NOW_MS = 1_900_000_000_000
FORM = {
    "expression": "30 4 * * 1",
    "timezone": "Europe/Berlin",
    "type": "report.build",
    "queue": "reports",
    "overlap_policy": "allow",
    "args": f'[{{"n": {BIG}}}, 1.0]',
    "options": '{"priority": 5}',
    "description": "Mondays",
    "do": "save",
}


def cron(api: httpx.Client, name: str) -> Any:
    answer = api.get(f"/ojs/v1/cron/{name}")
    assert answer.status_code == 200, answer.text
    return answer.json()["cron"]


def test_a_cron_job_is_created_and_changed_by_forms(running: Running, admin: httpx.Client) -> None:
    assert "cron/_new" in page(admin, "/ui/cron")
    assert "is created" in send(admin, NEW, {**FORM, "name": "weekly"})
    with running.api() as api:
        stored = cron(api, "weekly")
        assert stored["args"] == [{"n": BIG}, 1.0]
        assert stored["options"] == {"priority": 5, "queue": "reports"}
        assert (stored["timezone"], stored["overlap_policy"]) == ("Europe/Berlin", "allow")
        assert (stored["description"], stored["enabled"]) == ("Mondays", True)

        edit = page(admin, "/ui/cron/weekly/edit")
        assert str(BIG) in edit
        assert "Next runs" in edit
        changed = {**FORM, "expression": "@every 5m", "queue": "email", "options": ""}
        changed["timezone"] = ""
        assert "is changed" in send(admin, "/ui/cron/weekly/edit", changed)
        stored = cron(api, "weekly")
        assert (stored["expression"], stored["queue"]) == ("@every 5m", "email")
        assert stored["timezone"] == "UTC", "as in the preview"
        assert stored["options"] == {"queue": "email"}
        send(admin, "/ui/cron/weekly/edit", {**changed, "queue": " "})
        assert cron(api, "weekly")["queue"] == "default"
        assert "exists" in refused(admin, NEW, {**FORM, "name": "weekly"}, "name"), "not replaced"
        assert cron(api, "weekly")["expression"] == "@every 5m"
        api.delete("/ojs/v1/cron/weekly")


def test_a_preview_changes_nothing(running: Running, admin: httpx.Client) -> None:
    answer = admin.post(NEW, data={**FORM, "name": "never", "do": "preview"})
    assert answer.status_code == 200
    assert answer.text.count("Mon 20") == 5
    assert "04:30:00" in answer.text, "in the zone of the cron job"
    assert 'value="never"' in answer.text, "the form keeps what was typed"
    with running.api() as api:
        assert api.get("/ojs/v1/cron/never").status_code == 404
    live = page(admin, "/ui/cron/_preview?expression=0+3+*+*+*&timezone=Asia/Tokyo")
    assert live.count("03:00:00 JST") == 5
    assert "is not a cron expression" in page(admin, "/ui/cron/_preview?expression=99+x")


async def test_a_preview_has_five_occurrences_or_the_reason() -> None:
    assert await preview_of({"expression": " "}, NOW_MS) is None
    every = await preview_of({"expression": "@every 1h30m", "timezone": ""}, NOW_MS)
    assert every is not None
    assert len({run.at for run in every.runs}) == 5
    for fields in ({"expression": "0 0 30 2 *"}, {"expression": "@daily", "timezone": "CET"}):
        found = await preview_of(fields, NOW_MS)
        assert found is not None
        assert (found.runs, bool(found.error)) == ((), True)


@pytest.mark.parametrize(
    ("changed", "field", "words"),
    [
        ({"name": "No Capitals"}, "name", "a-z"),
        ({"expression": "99 25 * * *"}, "expression", "Is not a cron expression"),
        ({"expression": ""}, "expression", "Is not a cron expression"),
        ({"timezone": "CET"}, "timezone", "Must be an IANA name"),
        ({"type": "Not A Type"}, "type", "Must be lower-case words"),
        ({"queue": "No Queue"}, "queue", "queue name"),
        ({"args": "[1,"}, "args", "not valid JSON"),
        ({"args": '[1], "type": "b.c"'}, "args", "more than one JSON value"),
        ({"args": '{"a": 1}'}, "args", "array"),
        ({"options": "[]"}, "options", "object"),
        ({"options": '{"priority": "high"}'}, "options", "priority"),
        ({"overlap_policy": "never"}, "overlap_policy", "Must be skip"),
    ],
)
def test_a_mistake_is_explained_beside_its_field(
    running: Running, admin: httpx.Client, changed: dict[str, str], field: str, words: str
) -> None:
    if field in ("args", "options", "overlap_policy"):
        answer = admin.post(NEW, data={**FORM, "name": "wrong", **changed})
        assert answer.status_code in (400, 422), answer.text
        marked = [e for e in parse(answer.text).elements if "aria-invalid" in e.attributes]
        assert [e.attributes["name"] for e in marked] == [field]
        assert words in answer.text
    else:
        assert words in refused(admin, NEW, {**FORM, "name": "wrong", **changed}, field)
    with running.api() as api:
        assert api.get("/ojs/v1/cron/wrong").status_code == 404


def test_hidden_values_are_not_in_the_form_and_stay(ui_redis: Embedded, running: Running) -> None:
    body: dict[str, Any] = {"name": "secretive", "cron": "@daily", "type": "a.b"}
    body |= {"args": [{"Token": "s3cret"}], "options": {"queue": "email", "tags": ["kept"]}}
    settings = UiSettings(mode="full", redact=frozenset({"token"}))
    with running.api() as api, dashboard(ui_redis, settings) as server, server.browser() as client:
        assert api.post("/ojs/v1/cron", json=body).status_code == 201
        edit = page(client, "/ui/cron/secretive/edit")
        assert "s3cret" not in edit
        form = {**FORM, "args": "", "args_shown": "keep", "options": '{"tags": ["new"]}'}
        send(client, "/ui/cron/secretive/edit", form)
        stored = cron(api, "secretive")
        assert stored["args"] == [{"Token": "s3cret"}]
        assert stored["options"] == {"tags": ["new"], "queue": "reports"}
        keep = {**form, "options": "", "options_shown": "keep", "queue": ""}
        send(client, "/ui/cron/secretive/edit", keep)
        assert cron(api, "secretive")["options"] == {"tags": ["new"], "queue": "default"}
        api.delete("/ojs/v1/cron/secretive")


def test_a_key_for_some_queues_changes_only_its_cron_jobs(running: Running, demo: Demo) -> None:
    with running.browser("email-key") as client:
        form = {**FORM, "name": "mail"}
        answer = client.post(NEW, data=form)
        assert answer.status_code == 403
        assert "reports" in answer.text
        assert client.get("/ui/cron/nightly-report/edit").status_code in (403, 404)
        client.post("/ui/cron/nightly-report/edit", data=form)
        send(client, NEW, {**form, "queue": "email"})
    with running.api() as api:
        assert cron(api, "mail")["queue"] == "email"
        assert cron(api, "nightly-report")["expression"] == "0 3 * * *"
        api.delete("/ojs/v1/cron/mail")
    with running.browser("viewer-key") as client:
        assert "_new" not in page(client, "/ui/cron")
        for path in (NEW, "/ui/cron/nightly-report/edit"):
            assert client.get(path).status_code == 403
            assert client.post(path, data=FORM).status_code == 403


def test_a_read_only_dashboard_has_no_form(ui_redis: Embedded, demo: Demo) -> None:
    with dashboard(ui_redis, UiSettings(mode="read")) as server, server.browser() as client:
        assert "_new" not in page(client, "/ui/cron")
        for path in (NEW, "/ui/cron/nightly-report/edit", "/ui/jobs/new", "/ui/dead/x/delete"):
            assert "read-only" in page(client, path, 403)
            assert client.post(path, data={**FORM, "name": "x"}).status_code == 403


async def test_a_name_is_free_only_if_the_api_says_so() -> None:
    class Failing:
        def __init__(self, status: int) -> None:
            self.status = status

        async def get(self, *_segments: str) -> bytes:
            raise ApiError(Response(self.status, b'{"error":{}}'))

    assert not await _exists(cast(Visit, Failing(404)), "x")
    for status in (403, 429, 503):
        with pytest.raises(ApiError):
            await _exists(cast(Visit, Failing(status)), "x")


def test_past_runs_are_bars_from_old_to_new() -> None:
    times = [{"outcome": name, "scheduled_time": name} for name in ("failed", "skipped")]
    chart = runs_chart([*times, {"outcome": "triggered", "scheduled_time": "first"}])
    assert [bar.outcome for bar in chart.bars] == ["triggered", "skipped", "failed"]
    assert chart.bars[1].height < chart.bars[0].height, "told apart without colours"
    assert chart.words == "The last 3 occurrences: 1 triggered, 1 skipped, 1 failed"


def test_past_occurrences_are_counted_and_enqueued(running: Running, admin: httpx.Client) -> None:
    job = {"type": "a.filled", "args": [], "options": {"queue": "filled"}}
    with running.api() as api:
        body = {"name": "filled", "cron": "0 * * * *", "job_template": job}
        api.post("/ojs/v1/cron", json=body).raise_for_status()
        path = "/ui/cron/filled"
        assert "Count the occurrences" in page(admin, path)
        form = {"from": "2024-03-01T00:00:00Z", "to": "2024-03-01T03:00:00Z", "back": "cron/filled"}
        asked = admin.post(f"{path}/backfill", data=form)
        assert "Enqueue 3 jobs of filled?" in asked.text
        assert api.get("/ojs/v1/jobs", params={"queue": "filled"}).json()["jobs"] == []
        for said in ("3 jobs enqueued, 0 existed", "0 jobs enqueued, 3 existed"):
            assert (
                admin.post(f"{path}/backfill", data={**form, "confirmed": "1"}).status_code == 303
            )
            assert said in page(admin, path)
        times = {"from": "2024-03-01 09:00", "to": "2024-03-01 11:00", "back": "cron/filled"}
        shown = admin.post(f"{path}/backfill", data={**times, "zone": "Asia/Tokyo"}).text
        assert "Enqueue 2 jobs of filled?" in shown
        assert "is of 2024-03-01 09:00:00 JST (2024-03-01 00:00:00 UTC)" in shown
        assert 'name="from" value="2024-03-01T00:00:00Z"' in shown
        for zone, offered in (("Asia/Tokyo", ["Asia/Tokyo", "UTC"]), ("UTC", ["UTC"])):
            changed = {"timezone": zone}
            api.patch("/ojs/v1/cron/filled", json=changed).raise_for_status()
            backfill = page(admin, path).partition('id="backfill"')[2]
            zones = re.findall(r'<option value="(.*?)"|name="zone" value="(.*?)"', backfill)
            assert [either or other for either, other in zones] == offered, "its own zone first"
        empty = {**form, "to": "2024-03-01T00:00:00Z"}
        admin.post(f"{path}/backfill", data=empty)
        assert "From must be before to" in page(admin, path)
        admin.post(f"{path}/backfill", data={**form, "from": "2024-03-01T02:30:00Z"})
        assert "has no occurrence in this time" in page(admin, path)
        api.delete("/ojs/v1/cron/filled").raise_for_status()
