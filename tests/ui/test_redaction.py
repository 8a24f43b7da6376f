"""Values that the operator hides are not revealed by searches or by errors."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.ui.redaction import why_not_searched
from ojs_cluster.ui.settings import UiSettings
from tests.ui.dashboard import Running, dashboard
from tests.ui.test_pages import page

HIDDEN = frozenset({"password", "card.number"})


@pytest.fixture(scope="module")
def hiding(ui_redis: Embedded) -> Iterator[Running]:
    settings = UiSettings(mode="full", redact=HIDDEN)
    with dashboard(ui_redis, settings) as found:
        yield found


@pytest.fixture
def client(hiding: Running) -> Iterator[httpx.Client]:
    with hiding.browser() as found:
        yield found


@pytest.mark.parametrize(
    "query",
    [
        "args.password:a*",
        "type:x args.user.Password:a",
        "meta.PASSWORD.old:a",
        "args.0.password:a",
        "args.card.number:4",
        "meta.x.card.number.y:4",
    ],
)
def test_a_search_for_a_hidden_value_is_refused(query: str) -> None:
    assert "hides the values" in why_not_searched(query, HIDDEN)
    assert why_not_searched(query, frozenset()) == ""


@pytest.mark.parametrize("query", ["args.user:password", "args.card:x", "tag:password", "args.:x"])
def test_other_searches_are_made(query: str) -> None:
    assert why_not_searched(query, HIDDEN) == ""


def test_neither_a_list_nor_a_count_answers_such_a_search(client: httpx.Client) -> None:
    shown = page(client, "/ui/jobs?query=args.password:a*", 400)
    assert "hides the values of password" in shown
    form = {"scope": "all", "action": "retry", "query": "args.password:a*", "back": "jobs"}
    answer = client.post("/ui/bulk", data=form)
    assert "/bulk/" not in answer.headers["location"]
    assert "hides the values" in client.get("/ui/jobs").text


def test_a_refused_job_shows_no_hidden_value(hiding: Running, client: httpx.Client) -> None:
    schema = {
        "type": "array",
        "items": {"type": "object", "properties": {"password": {"enum": ["secret-word"]}}},
    }
    with hiding.api() as api:
        args = [{"password": "guess-42"}]
        made = api.post("/ojs/v1/jobs", json={"type": "redacted.pay", "args": args})
        path = "/ojs/v1/admin/schemas/redacted.pay"
        api.put(f"{path}/1.0.0", json={"schema": schema}).raise_for_status()
        api.put(path, json={"mode": "strict"}).raise_for_status()
        strict = api.post("/ojs/v1/jobs", json={"type": "redacted.pay", "args": args})
        assert strict.status_code == 422, strict.text
        assert "guess-42" in strict.text or "secret-word" in strict.text
        path = f"/ui/jobs/{made.json()['job']['id']}"
        answer = client.post(f"{path}/copy", data={"back": "jobs"})
        shown = client.get("/ui/jobs").text
        form = {"type": "redacted.pay", "args": '[{"password": "guess-42"}]', "queue": "default"}
        form_again = client.post("/ui/jobs/new", data=form).text
        for text in (shown, form_again.partition("<form")[0], str(answer.headers)):
            assert "guess-42" not in text
            assert "secret-word" not in text
        assert "/0/password" in shown
