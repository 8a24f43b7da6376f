"""Searches by the index: what a response says, and what a limited key or a tenant sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ojs_cluster.core.access.scopes import Keyring, Principal, QueuePatterns, Scope, digest
from ojs_cluster.http.access.authentication import AccessControl
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.settings import StoreSettings
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
        assert found["pagination"]["examined"] == 2
        # Jobs that the index lacks may match too, so their number is not known.
        assert "total" not in found
        assert not found["pagination"].get("total_exact")
        every = (await api.get(f"{target}?{QUERY}&index=false", headers=ALL)).json
        assert sorted(ids_of(every)) == sorted(ids)
        assert "index" not in every["pagination"]
        assert (await api.get(f"{target}?{QUERY}&index=no%20idea", headers=ALL)).status == 400
    tagged = (await api.get(f"{ADMIN}?query=tag:vip&sort=priority&per_page=1", headers=ALL)).json
    assert (tagged["pagination"]["index"], len(ids_of(tagged))) == ("tag", 1)
    assert tagged["pagination"]["has_more"] is True


async def test_a_key_and_a_tenant_see_and_count_only_their_jobs(api: Api) -> None:
    mine = await stored(api, "mail")
    other = [await stored(api, "other") for _ in range(3)]
    tenant = await stored(api, "mail", **{"x-ojs-tenant": "acme"})
    for target in (JOBS, ADMIN):
        found = (await api.get(f"{target}?{QUERY}", headers=MAIL)).json
        assert sorted(ids_of(found)) == sorted([mine, tenant])
        assert found["pagination"]["examined"] == 2
    found = (await api.get(f"{JOBS}?{QUERY}", headers={**ALL, "x-ojs-tenant": "acme"})).json
    assert (ids_of(found), found["pagination"]["examined"]) == ([tenant], 1)
    found = (await api.get(f"/ojs/v1/admin/tenants/acme/jobs?{QUERY}", headers=ALL)).json
    assert (ids_of(found), found["pagination"]["index"]) == ([tenant], "meta.customer_id")
    whole = (await api.get(f"{JOBS}?{QUERY}", headers=ALL)).json
    assert sorted(ids_of(whole)) == sorted([mine, *other, tenant])
