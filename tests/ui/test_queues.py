"""The forms of a queue, and the drawings in the list of queues."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from ojs_cluster.core.access.scopes import PRESETS, Keyring, Principal, QueuePatterns, digest
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.ui.drawings.sparkline import sparkline
from ojs_cluster.ui.forms.form import beside_field
from ojs_cluster.ui.forms.limits import limits_in_words
from ojs_cluster.ui.settings import UiSettings
from tests.ui.dashboard import Running, dashboard
from tests.ui.demo import Demo
from tests.ui.html import parse
from tests.ui.test_pages import page

V1 = "/ojs/v1/admin/queues"


def send(client: httpx.Client, path: str, form: dict[str, str]) -> str:
    """Send a form that is accepted, and return the page that the browser then shows."""
    answer = client.post(path, data=form)
    assert answer.status_code == 303, answer.text[-3000:]
    assert answer.next_request is not None
    return client.send(answer.next_request).text


def refused(client: httpx.Client, path: str, form: dict[str, str], field: str) -> str:
    """Send a form that is refused; return the error beside the field."""
    answer = client.post(path, data=form)
    assert answer.status_code in (400, 409, 422), answer.text[-2000:]
    document = parse(answer.text)
    (marked,) = [e.attributes for e in document.elements if "aria-invalid" in e.attributes]
    assert marked["name"] == field
    for name, value in form.items():
        typed = [e.attributes for e in document.all("input") if e.attributes.get("name") == name]
        assert not typed or value in [each.get("value") for each in typed], "it is kept"
    error_id = marked["aria-describedby"].split()[0]
    assert error_id.endswith("-error")
    return answer.text.partition(f'id="{error_id}">')[2].partition("<")[0]


def enqueue(api: httpx.Client, queue: str) -> None:
    body = {"type": "a.b", "args": [], "options": {"queue": queue}}
    assert api.post("/ojs/v1/jobs", json=body).status_code == 201


def test_the_list_draws_the_last_hour_of_each_queue(running: Running, admin: httpx.Client) -> None:
    text = page(admin, "/ui/queues")
    rows = parse(text).all("tr")
    assert text.count('class="spark"') == len(rows) - 1
    assert 'href="./dead?queue=email"' in text, "dead letters are not jobs that failed"


def test_a_sparkline_says_in_words_what_it_draws() -> None:
    drawn = sparkline([(0, 0), (4, 1), (2, 0)])
    assert drawn.words == (
        "The last 3 minutes: 6 completed, at most 4 in a minute; 1 failed attempts"
    )
    assert drawn.completed == "0,17 1,1 2,9"
    assert drawn.failed == "0,17 1,13 2,17", "both lines have the same scale"
    assert sparkline([(0, 0)]).completed == ""


def test_limits_of_a_queue_are_set_and_removed(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        enqueue(api, "limited")
        form = {"concurrency": "7", "rate": "100", "rate_period": "minute"}
        shown = send(admin, "/ui/queues/limited/limits", form)
        assert "7 jobs at the same time, 100 starts per minute" in shown
        limits = api.get(f"{V1}/limited/rate-limit").json()
        assert (limits["concurrency"]["limit"], limits["rate"]["period"]) == (7, "PT1M")
        assert 'value="minute"' in page(admin, "/ui/queues/limited?tab=settings"), (
            "the form has the limits"
        )
        empty = dict.fromkeys(("concurrency", "rate", "throttle"), "")
        assert "has no limits now" in send(admin, "/ui/queues/limited/limits", empty)
        assert "concurrency" not in api.get(f"{V1}/limited/rate-limit").json()


def test_no_job_at_the_same_time_is_asked_first(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        enqueue(api, "stopped")
        path, form = "/ui/queues/stopped/limits", {"concurrency": "0"}
        asked = page_of(admin.post(path, data=form))
        assert "no worker gets a job of this queue" in asked
        assert "concurrency" not in api.get(f"{V1}/stopped/rate-limit").json()
        hidden = {
            e.attributes["name"]: e.attributes["value"]
            for e in parse(asked).all("input")
            if e.attributes.get("type") == "hidden"
        }
        assert hidden == {**form, "confirmed": "1"}
        send(admin, path, hidden)
        assert api.get(f"{V1}/stopped/rate-limit").json()["concurrency"]["limit"] == 0
        api.delete(f"{V1}/stopped/rate-limit")


def page_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.text


@pytest.mark.parametrize(
    ("form", "field", "words"),
    [
        ({"concurrency": "many"}, "concurrency", "Must be a whole number from 0"),
        ({"concurrency": "9" * 400}, "concurrency", "Must be a whole number from 0"),
        ({"rate": "x<y", "rate_period": "minute"}, "rate", "Must be a whole number from 1"),
        ({"rate": "5", "rate_period": "<week>"}, "rate_period", "ISO 8601"),
        ({"throttle": "0"}, "throttle", "Must be a whole number from 1"),
    ],
)
def test_a_wrong_limit_is_explained_beside_its_field(
    running: Running, admin: httpx.Client, form: dict[str, str], field: str, words: str
) -> None:
    assert words in refused(admin, "/ui/queues/email/limits", form, field)


def test_the_configuration_of_a_queue_is_changed(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        enqueue(api, "shaped")
        path = "/ui/queues/shaped/config"
        inputs = parse(page(admin, "/ui/queues/shaped?tab=settings")).all("input")
        form = {e.attributes.get("name", ""): e.attributes.get("value", "") for e in inputs}
        names = ("partitions", "max_depth", "on_exhaustion")
        own = {f"was_{name}": form[f"was_{name}"] for name in names}
        own |= {name: form[f"was_{name}"] for name in names}
        assert "Nothing was changed" in send(admin, path, own)
        hidden = {"strategy": "drop_oldest", "warning_threshold": 0.5}
        bound = {"max_depth": 9, **hidden}
        api.put(f"{V1}/shaped/config", json={"backpressure": bound}).raise_for_status()
        send(admin, path, {**own, "partitions": "2", "max_depth": "500"})
        config = api.get(f"{V1}/shaped/config").json()
        assert (config["partitions"], config["backpressure"]) == (2, {"max_depth": 500, **hidden})
        wrong = {**own, "partitions": "1000000"}
        assert "Must be from 1 to" in refused(admin, path, wrong, "partitions")
        assert "whole number" in refused(admin, path, {**own, "partitions": "two"}, "partitions")
        assert refused(admin, path, {**own, "max_depth": "-5"}, "max_depth")


def fields_of(client: httpx.Client, queue: str, form: str) -> dict[str, str]:
    """Return the fields of a form as a browser sends them without a change."""
    shown = page(client, f"/ui/queues/{queue}?tab=settings")
    text = shown.partition(f'/{form}"')[2].partition("</form>")[0]
    document = parse(text)
    found = {e.attributes["name"]: e.attributes.get("value", "") for e in document.all("input")}
    names = [e.attributes["name"] for e in document.all("select")]
    return found | {name: found[f"was_{name}"] for name in names}


def test_what_a_full_queue_does_is_chosen(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        enqueue(api, "full")
        path, form = "/ui/queues/full/config", fields_of(admin, "full", "config")
        assert (form["strategy"], form["fair_share"]) == ("reject", "")
        assert "Set a maximum" in refused(admin, path, {**form, "strategy": "block"}, "max_depth")
        send(admin, path, {**form, "strategy": "block", "max_depth": "5", "fair_share": "turns"})
        config = api.get(f"{V1}/full/config").json()
        assert config["fair_share"] is True
        assert config["backpressure"]["strategy"] == "block"
        form = fields_of(admin, "full", "config")
        asked = page_of(admin.post(path, data={**form, "strategy": "drop_oldest"}))
        assert "No worker runs a discarded job" in asked
        assert api.get(f"{V1}/full/config").json() == config, "the page only asks"
        send(admin, path, {**form, "strategy": "drop_oldest", "confirmed": "1"})
        send(admin, path, {**form, "strategy": "block", "fair_share": ""})
        config = api.get(f"{V1}/full/config").json()
        assert config["backpressure"]["strategy"] == "drop_oldest", "not changed in the form"
        assert "fair_share" not in config


def test_defaults_of_new_jobs_are_set_and_removed(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        enqueue(api, "preset")
        policy = {"max_attempts": 4, "non_retryable_errors": ["Fatal"]}
        kept = {"default_retry": policy, "retention": {"cancelled": "PT1H"}}
        api.put(f"{V1}/preset/config", json=kept).raise_for_status()
        path, form = "/ui/queues/preset/defaults", fields_of(admin, "preset", "defaults")
        assert (form["max_attempts"], form["backoff_coefficient"]) == ("4", "2")
        assert "Nothing was changed" in send(admin, path, form)
        changes = {"max_attempts": "9", "backoff_coefficient": "1.5", "max_interval": "PT2M"}
        changes |= {"default_timeout": "60", "visibility_timeout": "20", "discarded": "P30D"}
        assert "have the changed defaults" in send(admin, path, {**form, **changes})
        config = api.get(f"{V1}/preset/config").json()["config"]
        names = ("max_attempts", "backoff_coefficient", "max_interval", "non_retryable_errors")
        retry = config["default_retry"]
        assert [retry[name] for name in names] == [9, 1.5, "PT2M", ["Fatal"]]
        assert (config["default_timeout"], config["visibility_timeout"]) == (60, 20)
        assert config["retention"] == {"discarded": "P30D", "cancelled": "PT1H"}
        form = fields_of(admin, "preset", "defaults")
        empty = {name: "" for name in form if not name.startswith("was_")}
        send(admin, path, {**form, **empty})
        config = api.get(f"{V1}/preset/config").json()["config"]
        assert not config.keys() & {"default_retry", "default_timeout", "retention"}


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("max_attempts", "many", "Must be an integer from 0"),
        ("backoff_coefficient", "0.5", "Must be a number from 1.0"),
        ("initial_interval", "<10>", "Must be"),
        ("default_timeout", "soon", "Must be a whole number"),
        ("visibility_timeout", "0", "Must be an integer of seconds from 1"),
        ("completed", "a day", "Must be"),
    ],
)
def test_a_wrong_default_is_explained_beside_its_field(
    running: Running, admin: httpx.Client, field: str, text: str, words: str
) -> None:
    assert words in refused(admin, "/ui/queues/email/defaults", {field: text}, field)


def test_waiting_jobs_are_deleted_after_the_name_was_typed(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        for _ in range(3):
            enqueue(api, "purged")
        path = "/ui/queues/purged/purge"
        assert "Type purged" in refused(admin, path, {"typed": "purge"}, "typed")
        assert "3 jobs were deleted" in send(admin, path, {"typed": "purged"})
        counts: Any = api.get(f"{V1}/purged").json()["counts"]
        assert counts["available"] == 0


def test_a_queue_is_deleted_with_its_jobs_after_a_question(
    running: Running, admin: httpx.Client
) -> None:
    path = "/ui/queues/leaving/delete"
    with running.api() as api:
        for _ in range(2):
            enqueue(api, "leaving")
        kept = {"strategy": "reject", "confirmed": "1"}
        answer = admin.post(path, data=kept)
        assert answer.status_code == 409
        assert "note-bad" in answer.text
        move = {"strategy": "move", "target_queue": ""}
        assert "Name another queue" in refused(admin, path, move, "target_queue")
        move["target_queue"] = "staying"
        asked = admin.post(path, data=move)
        assert asked.status_code == 200
        assert "2 waiting jobs go to staying" in asked.text
        assert api.get(f"{V1}/leaving").json()["counts"]["available"] == 2, "only asked"
        shown = send(admin, path, {**move, "confirmed": "1"})
        assert "The queue leaving is deleted. 2 jobs moved to staying." in shown
        path = "/ui/queues/staying/delete"
        asked = admin.post(path, data={"strategy": "discard"})
        assert "2 waiting jobs and 0 active jobs are discarded" in asked.text
        shown = send(admin, path, {"strategy": "discard", "confirmed": "1"})
        assert "The queue staying is deleted. 2 jobs discarded." in shown


def test_forms_of_a_queue_need_the_scope_and_the_queue(running: Running, demo: Demo) -> None:
    forms = {"limits": {"concurrency": "1"}, "config": {"partitions": "2"}}
    forms["defaults"] = {"default_timeout": "1"}
    forms["purge"] = {"typed": "media"}
    forms["delete"] = {"strategy": "discard", "confirmed": "1"}
    with running.browser("viewer-key") as client:
        assert (
            "<form"
            not in page(client, "/ui/queues/media?tab=settings")
            .partition("<main")[2]
            .partition("</main>")[0]
        )
        for name, form in forms.items():
            assert client.post(f"/ui/queues/media/{name}", data=form).status_code == 403
    with running.browser("email-key") as client:
        own = page(client, "/ui/queues/email?tab=settings")
        assert "email/limits" in own
        for name, form in forms.items():
            answer = client.post(f"/ui/queues/media/{name}", data=form)
            assert answer.status_code in (303, 403), answer.text
    with running.api() as api:
        assert "concurrency" not in api.get(f"{V1}/media/rate-limit").json()
        config = api.get(f"{V1}/media/config").json()
        assert (config["partitions"], "default_timeout" in config) == (1, False)
        assert api.get(f"{V1}/media").json()["counts"]["available"] > 0


def test_only_a_key_that_may_delete_gets_the_form_to_delete(ui_redis: Embedded) -> None:
    operator = Principal("ops", PRESETS["operator"], QueuePatterns(["email"]))
    keyring = Keyring({digest("ops-key"): operator}, {})
    with (
        dashboard(ui_redis, UiSettings(mode="full"), keyring=keyring) as server,
        server.browser("ops-key") as client,
    ):
        text = page(client, "/ui/queues/email?tab=settings")
        assert "email/limits" in text
        assert "email/purge" not in text
        answer = client.post("/ui/queues/email/purge", data={"typed": "email"})
        assert answer.status_code == 403


def test_a_read_only_dashboard_offers_and_accepts_no_form(ui_redis: Embedded, demo: Demo) -> None:
    with (
        dashboard(ui_redis, UiSettings(mode="read")) as server,
        server.browser("admin-key") as client,
    ):
        assert (
            "<form"
            not in page(client, "/ui/queues/email?tab=settings")
            .partition("<main")[2]
            .partition("</main>")[0]
        )
        for name in ("limits", "config", "defaults", "purge", "delete"):
            answer = client.post(f"/ui/queues/email/{name}", data={"typed": "email"})
            assert answer.status_code == 403


def test_messages_and_limits_are_read_by_people() -> None:
    assert beside_field("rate_limit.rate.limit must be 1, not 'x'") == "Must be 1, not 'x'"
    assert beside_field("no such queue") == "No such queue"
    assert limits_in_words({"concurrency": 1, "throttle": {"limit": 1, "period": "PT30S"}}) == [
        "1 job at the same time",
        "1 start per PT30S, evenly",
    ]
