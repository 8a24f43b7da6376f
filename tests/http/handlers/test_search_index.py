"""Searches by the index: what a response says, and what a limited key or a tenant sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ojs_cluster.core.access.scopes import Keyring, Principal, QueuePatterns, Scope, digest
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground.settings import StoreSettings
from tests.http.api import Api, open_app
from tests.store.indexed_jobs import FIELDS

JOBS = "/ojs/v1/jobs"
ADMIN = "/ojs/v1/admin/jobs"
QUERY = "query=meta.customer_id:c1"
KEYRING = Keyring(
    {
        digest("all"): Principal("all", frozenset(Scope)),
        digest("mail"): Principal("mail", frozenset(Scope), QueuePatterns(["mail"])),
    },
    {},
)
ALL, MAIL = ({"authorization": f"Bearer {name}"} for name in ("all", "mail"))


@pytest.fixture
async def api(standalone: Embedded) -> AsyncIterator[Api]:
    settings = StoreSettings(search_index=FIELDS)
    async with open_app(standalone, store=settings, access=AccessControl(KEYRING)) as app:
        yield Api(app)


async def stored(api: Api, queue: str, **headers: str) -> str:
    body = {
        "type": "order.ship",
        "args": [],
        "meta": {"customer_id": "c1"},
        "options": {"queue": queue, "tags": ["vip"]},
    }
    reply = await api.post(JOBS, body, headers={**ALL, **headers})
    assert reply.status == 201, reply.body
    job_id: str = reply.json["job"]["id"]
    return job_id


def ids_of(found: dict[str, Any]) -> list[str]:
    return [job["id"] for job in (found["jobs"] if "jobs" in found else found["items"])]


async def test_a_response_says_by_which_field_jobs_were_found(api: Api) -> None:
    ids = [await stored(api, "mail") for _ in range(2)]
    for target in (JOBS, ADMIN):
        found = (await api.get(f"{target}?{QUERY}", headers=ALL)).json
        assert ids_of(found) == ids[::-1]
        assert found["pagination"]["index"] == "meta.customer_id"
        assert found["pagination"]["complete"] is False
        assert found["pagination"]["examined"] == 2
        # Jobs that the index lacks may match too, so their number is not known.
        assert "total" not in found
        assert not found["pagination"].get("total_exact")
        every = (await api.get(f"{target}?{QUERY}&index=false", headers=ALL)).json
        assert sorted(ids_of(every)) == sorted(ids)
        assert every["pagination"].keys().isdisjoint(("index", "complete"))
        assert (await api.get(f"{target}?{QUERY}&index=no%20idea", headers=ALL)).status == 400


async def test_a_limited_caller_does_not_use_the_index(api: Api) -> None:
    """A choice by the sizes of sets, positions and errors would reveal jobs of others."""
    mine = await stored(api, "mail")
    other = [await stored(api, "other") for _ in range(3)]
    tenant = await stored(api, "mail", **{"x-ojs-tenant": "acme"})
    own = {**ALL, "x-ojs-tenant": "acme"}
    tenants = "/ojs/v1/admin/tenants/acme/jobs"
    whole = (await api.get(f"{JOBS}?{QUERY}&limit=1", headers=ALL)).json
    cursor = whole["pagination"]["next_cursor"]
    assert whole["pagination"]["index"] == "meta.customer_id"
    for target, headers, ids in (
        *((f"{target}?{QUERY}", MAIL, [mine, tenant]) for target in (JOBS, ADMIN)),
        *((f"{target}?{QUERY}&queue=mail", MAIL, [mine, tenant]) for target in (JOBS, ADMIN)),
        (f"{JOBS}?{QUERY}%20queue:mail", MAIL, [mine, tenant]),
        (f"{JOBS}?{QUERY}", own, [tenant]),
        (f"{tenants}?{QUERY}", ALL, [tenant]),
    ):
        found = (await api.get(target, headers=headers)).json
        assert sorted(ids_of(found)) == sorted(ids), target
        assert "index" not in found["pagination"], target
        refused = await api.get(f"{target}&cursor={cursor}", headers=headers)
        assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_request")
    every = (await api.get(f"{JOBS}?{QUERY}", headers=ALL)).json
    assert sorted(ids_of(every)) == sorted([mine, *other, tenant])
