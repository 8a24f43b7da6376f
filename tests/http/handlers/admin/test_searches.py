"""Saved searches: stored by name, listed, replaced, deleted, and bounded."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from ojs_cluster.core.access.scopes import PRESETS, Keyring, Principal, QueuePatterns, digest
from ojs_cluster.http.access.authentication import AccessControl
from ojs_cluster.keys import Meta
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.operators.dashboard import searches
from tests.http.api import Api, open_app
from tests.support.servers import observer

SEARCHES = "/ojs/v1/admin/searches"
FAILED = "type:email.* state:discarded"


def path(name: str) -> str:
    return f"{SEARCHES}/{quote(name, safe='')}"


async def names(api: Api) -> list[str]:
    return [each["name"] for each in (await api.get(SEARCHES)).json["items"]]


async def test_searches_are_saved_by_name_replaced_and_deleted(any_api: Api) -> None:
    made = await any_api.call("PUT", path("Failed/e-mails"), {"query": f" {FAILED} "})
    assert (made.status, made.json["query"]) == (201, FAILED)
    assert (await any_api.call("PUT", path("all"), {"query": "state:active"})).status == 201
    again = await any_api.call("PUT", path("Failed/e-mails"), {"query": "since:1h"})
    assert (again.status, again.json["query"]) == (200, "since:1h")
    listed = (await any_api.get(SEARCHES)).json
    found = [(each["name"], each["query"]) for each in listed["items"]]
    assert found == [("all", "state:active"), ("Failed/e-mails", "since:1h")]
    assert listed["total"] == 2
    kept = {"query": "state:active", "replace": False}
    assert (await any_api.call("PUT", path("Failed/e-mails"), kept)).status == 409
    assert (await any_api.get(SEARCHES)).json == listed
    assert (await any_api.call("PUT", path("new"), kept)).status == 201
    assert (await any_api.call("DELETE", path("new"))).status == 200

    assert (await any_api.call("DELETE", path("Failed/e-mails"))).json["deleted"] is True
    assert (await any_api.call("DELETE", path("Failed/e-mails"))).status == 404
    assert await names(any_api) == ["all"]


async def test_a_wrong_search_is_refused(api: Api) -> None:
    for name, query, field in (
        ("x", "colour:red", "query"),
        ("x", " ", "query"),
        ("x", "a\nb", "query"),
        ("x", "x" * 2001, "query"),
        ("x" * 61, "a", "name"),
        ("a\nb", "a", "name"),
        (" x", "a", "name"),
    ):
        reply = await api.call("PUT", path(name), {"query": query})
        assert reply.status in (400, 422), (name, query)
        assert reply.error["details"]["field"] == field
    assert await names(api) == []


async def test_there_is_a_maximum_number_of_searches(
    api: Api, standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searches, "MAX_SEARCHES", 2)
    for name in ("a", "b"):
        assert (await api.call("PUT", path(name), {"query": "x"})).status == 201
    reply = await api.call("PUT", path("c"), {"query": "x"})
    assert (reply.status, "at most 2 searches" in reply.error["message"]) == (400, True)
    assert (await api.call("PUT", path("b"), {"query": "y"})).status == 200, "it replaces one"
    with observer(standalone) as db:
        db.hset(Meta().searches, "damaged", "{")
    assert await names(api) == ["a", "b"]


async def test_a_key_for_some_queues_sees_no_searches(standalone: Embedded) -> None:
    some = Principal("some", PRESETS["operator"], QueuePatterns(["mail"]))
    keyring = Keyring({digest("some"): some}, {})
    async with open_app(standalone, access=AccessControl(keyring)) as app:
        headers = {"Authorization": "Bearer some"}
        assert (await Api(app).get(SEARCHES, headers=headers)).status == 403
