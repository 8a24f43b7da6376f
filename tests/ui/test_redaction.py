"""Values that the operator hides are not revealed by searches or by errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ojs_cluster.core import search, search_fields
from ojs_cluster.core.indexed_fields import parse_indexed_fields
from ojs_cluster.core.search_fields import SearchField
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.ui.pages.audit import _reasons_in
from ojs_cluster.ui.redaction import searches
from ojs_cluster.ui.redaction.redaction import Redaction
from ojs_cluster.ui.redaction.searches import why_not_searched
from ojs_cluster.ui.settings import UiSettings
from tests.support.servers import own_server, wait_until
from tests.ui.dashboard import Running, dashboard
from tests.ui.html import parse
from tests.ui.test_hostile_text import attack
from tests.ui.test_pages import page

HIDDEN = frozenset({"password", "name:card.number"})
CARD = "4111 1111 1111 1111"
SECRET = f"sk_live_abcdef {CARD}"
GUESSED = ("sk_live", "4111 1111")


@pytest.fixture(scope="module")
def hiding(ui_redis: Embedded) -> Iterator[Running]:
    settings = UiSettings(mode="full", redact=HIDDEN)
    fields = parse_indexed_fields("meta.password,meta.customer_id")
    with dashboard(ui_redis, settings, store=StoreSettings(search_index=fields)) as found:
        yield found


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Embedded, list[str]]]:
    """Store a secret in every field; return the server, and the pages that show it."""
    with own_server(tmp_path_factory.mktemp("secret"), cluster=False) as redis:
        with dashboard(redis, UiSettings(mode="full")) as server, server.api() as api:
            pages = attack(api, SECRET, "worker-1", CARD)
        yield redis, pages


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
    assert "hides the values" in why_not_searched(query, Redaction(HIDDEN))
    assert why_not_searched(query, Redaction()) == ""


def test_the_index_of_the_search_reveals_no_hidden_value(
    hiding: Running, client: httpx.Client
) -> None:
    meta = {"password": "p1", "customer_id": "c1"}
    with hiding.api() as api:
        job = api.post("/ojs/v1/jobs", json={"type": "indexed", "args": [], "meta": meta})
        assert job.status_code == 201, job.text
    job_id = job.json()["job"]["id"]
    assert job_id not in page(client, "/ui/jobs?query=meta.password:p1", 400)
    fields = client.get("/ui/jobs/values.json").json()["fields"]
    assert "meta.customer_id:" in fields
    assert "meta.password:" not in fields
    found = page(client, "/ui/jobs?query=meta.customer_id:c1")
    assert job_id in found
    assert "Found by the index of meta.customer_id, which" in found
    [link] = [
        each.attributes["href"]
        for each in parse(found).all("a")
        if "scan=1" in each.attributes.get("href", "")
    ]
    every = page(client, f"/ui/{link}")
    assert job_id in every
    assert "Found by the index" not in every


@pytest.mark.parametrize(
    ("entry", "query"),
    [
        ("tags", "tag:secret*"),
        ("options.tags", "tag:secret*"),
        ("type:pay.*/options", "tag:secret*"),
        ("options.tags.0", "tag:a,b"),
        ("errors.*.message", "error:pin*"),
        ("type:pay.*/errors.3", "error:pin*"),
        ("errors", '"pin 1234"'),
        ("message", "pin"),
        ("args.0.card", "args.card:4*"),
        ("args.0.card", "args.0.card:4*"),
        ("args.1", "args.1:x"),
        ("args", "args.card:4*"),
        ("meta.cards.0", "meta.cards:4*"),
        ("meta.*.pin", "meta.a.b.pin:1*"),
    ],
)
def test_a_search_that_reads_a_hidden_path_is_refused(entry: str, query: str) -> None:
    assert "hides the values" in why_not_searched(query, Redaction(frozenset({entry})))


@pytest.mark.parametrize(
    ("entry", "query"),
    [
        ("options.retry", "tag:x"),
        ("errors.*.backtrace", "error:x word"),
        ("args.0.card", "args.user:ann args.0.user:ann meta.card:x tag:x word"),
        ("meta.user.pin", "meta.user:ann meta.user.name:ann"),
    ],
)
def test_a_search_that_reads_no_hidden_path_is_made(entry: str, query: str) -> None:
    assert why_not_searched(query, Redaction(frozenset({entry}))) == ""


def test_a_search_with_a_text_that_a_pattern_hides_is_refused() -> None:
    redaction = Redaction(frozenset({"value:sk_live_*"}))
    assert "hides a text" in why_not_searched("error:sk_live_1", redaction)
    assert "hides a text" in why_not_searched(r'error:"sk\_live_1"', redaction)
    assert "no search reads them" in why_not_searched("args.user:ann", redaction)
    assert "no search reads them" in why_not_searched("tag:ann", redaction)
    assert why_not_searched("error:Timeout type:a.b", redaction) == ""


@pytest.mark.parametrize("query", ["args.user:password", "args.card:x", "tag:password", "args.:x"])
def test_other_searches_are_made(query: str) -> None:
    assert why_not_searched(query, Redaction(HIDDEN)) == ""


@pytest.mark.parametrize("field", [SearchField(), SearchField(content="group")])
def test_a_field_of_which_it_is_not_known_what_it_reads_is_refused(
    monkeypatch: pytest.MonkeyPatch, field: SearchField
) -> None:
    for module in (search, searches):
        monkeypatch.setattr(module, "FIELDS", {**search_fields.FIELDS, "group_id": field})
    assert "values of group_id" in why_not_searched("group_id:g1", Redaction(HIDDEN))
    assert why_not_searched("group_id:g1", Redaction()) == ""


@pytest.mark.parametrize("name", search_fields.FIELDS)
def test_it_is_known_of_every_field_what_it_reads(name: str) -> None:
    start = f"{name}.a" if search_fields.FIELDS[name].has_path else name
    value = {"state": "active", "priority": 1, "attempt": 1, "since": "1h", "until": "1h"}
    assert why_not_searched(f"{start}:{value.get(name, 'x')}", Redaction(frozenset({"zzz"}))) == ""


def test_neither_a_list_nor_a_count_answers_such_a_search(client: httpx.Client) -> None:
    shown = page(client, "/ui/jobs?query=args.password:a*", 400)
    assert "hides the values of password" in shown
    form = {"scope": "all", "action": "retry", "query": "args.password:a*", "back": "jobs"}
    answer = client.post("/ui/bulk", data=form)
    assert "/bulk/" not in answer.headers["location"]
    assert "hides the values" in client.get("/ui/jobs").text


def test_a_rule_for_errors_holds_on_every_page(ui_redis: Embedded) -> None:
    settings = UiSettings(mode="full", redact=frozenset({"type:pin.*/errors.*", "options"}))
    with dashboard(ui_redis, settings) as server, server.browser() as client, server.api() as api:
        options = {"queue": "pins", "tags": ["sesame"]}
        body = {"type": "pin.check", "args": [], "options": options}
        job_id = api.post("/ojs/v1/jobs", json=body).json()["job"]["id"]
        api.post("/ojs/v1/workers/fetch", json={"queues": ["pins"]}).raise_for_status()
        error = {"code": "handler_error", "message": "pin 1234"}
        nack = {"job_id": job_id, "error": error}
        api.post("/ojs/v1/workers/nack", json=nack).raise_for_status()
        for path in (f"/ui/jobs/{job_id}", "/ui/jobs?queue=pins", "/ui/errors?queue=pins"):
            shown = page(client, path)
            assert "pin 1234" not in shown, path
            assert "sesame" not in shown, path
        form = {"scope": "all", "action": "retry", "back": "errors", "error_group": "1"}
        form |= {"error_type": "handler_error", "error_message": "pin 1234"}
        answer = client.post("/ui/bulk", data=form)
        assert "/bulk/" not in answer.headers["location"], "a filter by it could confirm a guess"


def test_a_hidden_rate_limit_key_is_not_what_a_job_waits_for(ui_redis: Embedded) -> None:
    settings = UiSettings(mode="full", redact=frozenset({"options.rate_limit"}))
    with dashboard(ui_redis, settings) as server, server.browser() as client, server.api() as api:
        limit = {"key": "sesame-partner", "concurrency": 1}
        options = {"queue": "hidden-keys", "rate_limit": limit}
        job = {"type": "a.b", "args": [], "options": options}
        override = "/ojs/v1/rate-limits/sesame-partner/override"
        made = api.post("/ojs/v1/workflows", json={"type": "group", "jobs": [job]}).json()
        api.put(override, json={"concurrency": 0}).raise_for_status()
        path, queues = f"/ui/workflows/{made['id']}", {"queues": ["hidden-keys"]}

        def is_at_limit() -> bool:
            api.post("/ojs/v1/workers/fetch", json=queues).raise_for_status()
            return ">a rate limit key</span>" in page(client, path)

        wait_until(is_at_limit, what="a fetch has requested a token")
        assert "sesame" not in page(client, path)
        (waiting,) = api.get("/ojs/v1/admin/jobs", params={"queue": "hidden-keys"}).json()["items"]
        shown = page(client, f"/ui/jobs/{waiting['id']}")
        assert ">a rate limit key</span>" in shown
        assert "sesame" not in shown
        api.delete(f"/ojs/v1/workflows/{made['id']}").raise_for_status()
        api.delete(override).raise_for_status()


def test_a_pattern_does_not_change_the_queues_of_a_pool(ui_redis: Embedded) -> None:
    settings = UiSettings(mode="full", redact=frozenset({"value:acme-*"}))
    with dashboard(ui_redis, settings) as server, server.browser() as client, server.api() as api:
        pool = "/ojs/v1/admin/pools/patterns"
        api.put(pool, json={"queues": ["acme-mail"]}).raise_for_status()
        shown = page(client, "/ui/pools/patterns")
        assert "acme-mail</textarea>" in shown, "it is what a save writes"
        api.delete(pool).raise_for_status()


def test_the_query_of_a_webhook_is_hidden_with_other_values(
    ui_redis: Embedded, hiding: Running, client: httpx.Client
) -> None:
    url, path = "https://9.9.9.9/secrets?token=sesame", "/ojs/v1/webhooks/subscriptions"
    with hiding.api() as api:
        made = api.post(path, json={"url": url, "events": ["job.failed"]}).json()
    shown = page(client, "/ui/webhooks")
    assert "https://9.9.9.9/secrets?hidden" in shown
    assert "sesame" not in shown
    with dashboard(ui_redis, UiSettings(mode="read")) as server, server.browser() as viewer:
        assert url in page(viewer, "/ui/webhooks")
    with hiding.api() as api:
        api.delete(f"{path}/{made['id']}").raise_for_status()


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


def hide_all(_job_type: str, value: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(value, "nothing to see")


@pytest.mark.parametrize(
    "settings",
    [
        UiSettings(mode="full", redact=frozenset({"value:card", "value:sk_live_*"})),
        UiSettings(mode="full", redact=frozenset({"value:card"}), redactor=hide_all),
    ],
    ids=["patterns", "function"],
)
def test_a_secret_in_any_field_is_on_no_page(
    attacked: tuple[Embedded, list[str]], settings: UiSettings
) -> None:
    redis, pages = attacked
    texts = {}
    with dashboard(redis, settings) as server, server.browser() as client:
        for path in (*pages, *(f"{each}.json" for each in pages if each.startswith("jobs/0"))):
            answer = client.get(f"/ui/{path}")
            assert answer.status_code in (200, 403), path
            texts[path] = answer.text
        texts["values"] = client.get("/ui/jobs/values.json").text
    found = {path: part for path, text in texts.items() for part in GUESSED if part in text}
    assert found == {}
    assert sum("hidden" in text for text in texts.values()) > 10


def test_an_edit_keeps_what_the_form_does_not_show(ui_redis: Embedded) -> None:
    settings = UiSettings(mode="full", redact=frozenset({"args.0.card"}))
    args = [{"card": "s3cret"}]
    with dashboard(ui_redis, settings) as server, server.browser() as client, server.api() as api:
        options = {"queue": "edits", "delay_until": "+PT1H", "tags": ["old"]}
        body = {"type": "a.b", "args": args, "meta": {"x": 1}, "options": options}
        job_id = api.post("/ojs/v1/jobs", json=body).json()["job"]["id"]
        form = parse(client.get(f"/ui/jobs/{job_id}/edit").text)
        fields = {e.attributes["name"]: e.attributes.get("value", "") for e in form.all("input")}
        assert "args" not in fields
        fields |= {"meta": '{"x": 1}', "tags": "new", "priority": "7"}
        answer = client.post(f"/ui/jobs/{job_id}/edit", data=fields)
        assert answer.status_code == 303, answer.text
        job = api.get(f"/ojs/v1/jobs/{job_id}").json()["job"]
        assert (job["args"], job["meta"]["x"], job["tags"]) == (args, 1, ["new"])
        shown = page(client, f"/ui/jobs/{job_id}")
        assert "s3cret" not in shown
        assert "Enqueue it again by curl" not in shown
        assert page(client, f"/ui/jobs/new?from={job_id}", 403)
        assert page(client, f"/ui/jobs/{job_id}.json", 403)
        body = {**body, "args": [{"user": "ann"}]}
        other = api.post("/ojs/v1/jobs", json=body).json()["job"]["id"]
        assert "Enqueue it again by curl" in page(client, f"/ui/jobs/{other}")
        assert page(client, f"/ui/jobs/{other}.json")


@pytest.mark.parametrize("word", ["secret", "attributes.secret", "value:s3*"])
def test_members_that_only_clients_know_are_in_no_file(ui_redis: Embedded, word: str) -> None:
    settings = UiSettings(mode="full", redact=frozenset({word}))
    with dashboard(ui_redis, settings) as server, server.browser() as client, server.api() as api:
        ids = [
            api.post("/ojs/v1/jobs", json={"type": "a.b", "args": [], **more}).json()["job"]["id"]
            for more in ({"Secret": "s3cret"}, {"secret": "s3cret"}, {"public": 1})
        ]
        for job_id in ids[:2]:
            assert "s3cret" not in page(client, f"/ui/jobs/{job_id}.json", 403)
            assert f"{job_id}.json" not in page(client, f"/ui/jobs/{job_id}")
        assert '"public"' in page(client, f"/ui/jobs/{ids[2]}.json")
        assert f"{ids[2]}.json" in page(client, f"/ui/jobs/{ids[2]}")


def test_pages_of_tenants_are_hidden_with_the_tenants_of_jobs(ui_redis: Embedded) -> None:
    for hidden in ("tenant_id", "meta.tenant_id", "meta.*"):
        assert Redaction(frozenset({hidden})).hides_tenants
    assert not Redaction(HIDDEN | {"value:email", "value:a*", "args.tenant_id"}).hides_tenants
    settings = UiSettings(mode="full", redact=frozenset({"meta.tenant_id"}))
    with dashboard(ui_redis, settings) as server, server.browser() as client:
        for path in ("/ui/tenants", "/ui/tenants/acme"):
            assert "The operator hides the tenants" in page(client, path, 403)
        answer = client.post("/ui/tenants/acme/limits", data={"max_queue_depth": "0"})
        assert answer.status_code == 403
        assert "/ui/tenants" not in page(client, "/ui/queues")
        with server.api() as api:
            api.put("/ojs/v1/admin/tenants/acme-hidden", json={})
            headers = {"Authorization": "Bearer email-key"}
            refused = api.get("/ojs/v1/admin/tenants/acme-hidden", headers=headers)
            assert refused.status_code == 403
        path = "/ui/audit?action=tenant.set"
        wait_until(lambda: 'title="tenant.set"' in page(client, path), timeout_s=30, what="audit")
        assert "acme-hidden" not in page(client, path)


def test_a_pattern_hides_the_tenants_that_it_finds_and_no_other(ui_redis: Embedded) -> None:
    settings = UiSettings(mode="full", redact=frozenset({"value:secret-*"}))
    with dashboard(ui_redis, settings) as server, server.browser() as client, server.api() as api:
        for tenant in ("secret-1", "shown-1"):
            api.put(f"/ojs/v1/admin/tenants/{tenant}", json={}).raise_for_status()
        assert "shown-1" in page(client, "/ui/tenants/shown-1")
        listed = page(client, "/ui/tenants")
        assert 'tenants/shown-1"' in listed
        assert "secret-1" not in listed
        assert "The operator hides the tenants" in page(client, "/ui/tenants/secret-1", 403)
        answer = client.post("/ui/tenants/secret-1/limits", data={"max_queue_depth": "0"})
        assert answer.status_code == 403
        path = "/ui/audit?action=tenant.set"
        wait_until(lambda: "shown-1" in page(client, path), timeout_s=30, what="audit")
        assert "secret-1" not in page(client, path)


def test_reasons_are_found_at_any_depth_of_details() -> None:
    details = {
        "reason": {"old": "a", "new": "b"},
        "limits": {"old": {"max_scheduled": 1, "reason": "c"}, "new": {"reason": "d"}},
        "fairness_weight": {"new": 2},
    }
    assert [values[name] for values, name in _reasons_in(details)] == ["a", "b", "c", "d"]
    assert list(_reasons_in(None)) == []
