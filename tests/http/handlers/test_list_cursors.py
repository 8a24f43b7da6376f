"""Cursors of lists: entries that come and go between two pages repeat and skip no others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from ojs_cluster.store.ground import cursor as cursors
from tests.http.api import Api
from tests.http.handlers.admin.test_bulk_retry import DEADLY
from tests.http.handlers.admin.test_jobs import discarded


@dataclass(frozen=True, slots=True)
class ListCase:
    """A list, and how its entries are made.

    Args:
        path: the path of the list.
        items: the member of the response that has the entries.
        name: the member of an entry that identifies it.
        add: makes an entry from a name, and returns what identifies it.
        remove: removes the entry that this identifies.
    """

    path: str
    items: str
    name: str
    add: Callable[[Api, str], Awaitable[str]]
    remove: Callable[[Api, str], Awaitable[None]]

    @property
    def start(self) -> str:
        """The path up to further parameters of the query."""
        return self.path + ("&" if "?" in self.path else "?")


async def add_queue(api: Api, name: str) -> str:
    assert (await api.post("/ojs/v1/queues", {"name": name})).status == 201
    return name


async def remove_queue(api: Api, name: str) -> None:
    await api.delete(f"/ojs/v1/queues/{name}")
    meta = api.app.store.keys.meta
    await api.app.store.redis.call(meta.slot, "ZREM", meta.queues, name)


async def add_rate_limit(api: Api, name: str) -> str:
    body = {"limit": 1, "period": "PT1M"}
    assert (await api.call("PUT", f"/ojs/v1/rate-limits/{name}/override", body)).status == 200
    return name


async def remove_rate_limit(api: Api, name: str) -> None:
    for shard in api.app.store.keys:
        await api.app.store.redis.call(shard.slot, "ZREM", shard.rate_limits, name)


async def add_schema(api: Api, name: str) -> str:
    path = f"/ojs/v1/admin/schemas/{name}/1"
    assert (await api.call("PUT", path, {"schema": {"type": "array"}})).status == 201
    return name


async def add_version(api: Api, name: str) -> str:
    """Add a schema, newest first: ``m0`` has version 1, and ``b0`` version 101."""
    version = 1 + int(name[1:]) + 100 * (name[0] == "b")
    path = f"/ojs/v1/admin/schemas/one.type/{version}"
    assert (await api.call("PUT", path, {"schema": {"type": "array"}})).status == 201
    return name


async def remove_version(api: Api, version: str) -> None:
    assert (await api.delete(f"/ojs/v1/admin/schemas/one.type/{version}")).status == 200


async def remove_schema(api: Api, name: str) -> None:
    assert (await api.delete(f"/ojs/v1/admin/schemas/{name}/1")).status == 200


async def add_subscription(api: Api, name: str) -> str:
    body = {"name": name, "url": "https://example.com/", "events": ["job.failed"]}
    reply = await api.post("/ojs/v1/webhooks/subscriptions", body)
    assert reply.status == 201, reply.error
    return str(reply.json["id"])


async def remove_subscription(api: Api, name: str) -> None:
    assert (await api.delete(f"/ojs/v1/webhooks/subscriptions/{name}")).status == 200


async def add_error(api: Api, name: str) -> str:
    job = await api.active()
    kind = name.translate(str.maketrans("01234", "vwxyz"))
    body = {"job_id": job["id"], "error": {"type": kind, "message": "refused"}}
    assert (await api.post("/ojs/v1/workers/nack", body)).status == 200
    return kind


async def remove_error(api: Api, kind: str) -> None:
    for shard in api.app.store.keys:
        names: Any = await api.app.store.redis.call(shard.slot, "HKEYS", shard.error_groups)
        for name in names:
            if name.split(b"\n")[1] == kind.encode():
                await api.app.store.redis.call(shard.slot, "HDEL", shard.error_groups, name)


async def add_cron(api: Api, name: str) -> str:
    """Add a cron job; the last two of the first five are disabled."""
    body = {"name": name, "cron": "0 0 * * *", "type": "report", "enabled": name < "m3"}
    assert (await api.post("/ojs/v1/cron", body)).status == 201
    return name


async def remove_cron(api: Api, name: str) -> None:
    assert (await api.delete(f"/ojs/v1/cron/{name}")).status in (200, 204)


async def add_tenant(api: Api, name: str) -> str:
    """Register a tenant. Those of the same group have been registered at the same time."""
    meta = api.app.store.keys.meta
    at = 1_000 + (name[0] == "b")
    await api.app.store.redis.call(meta.slot, "ZADD", meta.known_tenants, at, name)
    return name


async def remove_tenant(api: Api, name: str) -> None:
    meta = api.app.store.keys.meta
    await api.app.store.redis.call(meta.slot, "ZREM", meta.known_tenants, name)


async def add_worker(api: Api, name: str) -> str:
    assert (await api.post("/ojs/v1/workers/heartbeat", {"worker_id": name})).status == 200
    return name


async def remove_worker(api: Api, name: str) -> None:
    for shard in api.app.store.keys:
        await api.app.store.redis.call(shard.slot, "ZREM", shard.workers, name)


async def add_workflow(api: Api, name: str) -> str:
    body = {"type": "chain", "name": name, "steps": [{"type": "step", "args": []}]}
    reply = await api.post("/ojs/v1/workflows", body)
    assert reply.status == 201, reply.error
    return str(reply.json["workflow"]["id"])


async def remove_workflow(api: Api, name: str) -> None:
    for shard in api.app.store.keys:
        await api.app.store.redis.call(shard.slot, "ZREM", shard.workflows, name)


async def add_dead_letter(api: Api, name: str) -> str:
    return str((await discarded(api, name, **DEADLY))["id"])


async def remove_dead_letter(api: Api, name: str) -> None:
    assert (await api.delete(f"/ojs/v1/dead-letter/{name}")).status in (200, 204)


async def add_lock(api: Api, name: str) -> str:
    options = {"unique": {"keys": ["type"]}}
    return str((await api.enqueue(type=f"unique.{name}", options=options))["id"])


async def remove_lock(api: Api, name: str) -> None:
    assert (await api.delete(f"/ojs/v1/jobs/{name}")).status == 200


CASES = {
    "queues": ListCase("/ojs/v1/queues", "queues", "name", add_queue, remove_queue),
    "admin queues": ListCase("/ojs/v1/admin/queues", "items", "name", add_queue, remove_queue),
    "rate limits": ListCase(
        "/ojs/v1/rate-limits", "items", "key", add_rate_limit, remove_rate_limit
    ),
    "schema types": ListCase("/ojs/v1/admin/schemas", "items", "type", add_schema, remove_schema),
    "schemas": ListCase("/ojs/v1/schemas", "schemas", "version", add_version, remove_version),
    "subscriptions": ListCase(
        "/ojs/v1/webhooks/subscriptions", "items", "id", add_subscription, remove_subscription
    ),
    "unique locks": ListCase("/ojs/v1/unique-jobs", "items", "job_id", add_lock, remove_lock),
    "cron jobs": ListCase("/ojs/v1/cron", "items", "name", add_cron, remove_cron),
    "tenants": ListCase("/ojs/v1/admin/tenants", "items", "tenant_id", add_tenant, remove_tenant),
    "workers": ListCase("/ojs/v1/workers", "workers", "id", add_worker, remove_worker),
    "workers by id": ListCase(
        "/ojs/v1/admin/workers?sort=id", "items", "id", add_worker, remove_worker
    ),
    "workflows": ListCase("/ojs/v1/workflows", "items", "id", add_workflow, remove_workflow),
    "dead letters": ListCase(
        "/ojs/v1/dead-letter", "jobs", "id", add_dead_letter, remove_dead_letter
    ),
    "admin dead letters": ListCase(
        "/ojs/v1/admin/dead-letter", "items", "id", add_dead_letter, remove_dead_letter
    ),
    "errors": ListCase("/ojs/v1/admin/errors", "items", "type", add_error, remove_error),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_entries_that_come_and_go_neither_repeat_nor_skip_others(
    api: Api, case: ListCase
) -> None:
    async def page(cursor: str) -> tuple[list[str], dict[str, Any]]:
        reply = await api.get(f"{case.start}limit=2&cursor={cursor}")
        assert reply.status == 200, reply.error
        return [entry[case.name] for entry in reply.json[case.items]], reply.json["pagination"]

    for number in range(5):
        await case.add(api, f"m{number}")
    expected = [
        entry[case.name] for entry in (await api.get(f"{case.start}limit=10")).json[case.items]
    ]
    assert len(expected) == 5

    seen, first = await page("")
    await case.remove(api, seen[0])
    await case.remove(api, seen[1])  # the entry that the cursor names
    shown, second = await page(first["next_cursor"])
    seen += shown
    for number in range(3):
        await case.add(api, f"b{number}")
    last = second
    while last["has_more"]:
        assert len(seen) < 8, "the list does not end"
        shown, last = await page(last["next_cursor"])
        seen += shown

    assert [name for name in seen if name in expected] == expected
    assert len(set(seen)) == len(seen)
    assert (first["offset"], second["offset"]) == (0, 2)
    assert "next_cursor" not in last


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_cursor_of_an_earlier_version_is_accepted(api: Api, case: ListCase) -> None:
    for number in range(3):
        await case.add(api, f"m{number}")
    listed = (await api.get(f"{case.start}limit=3")).json
    at_offset = (await api.get(f"{case.start}limit=1&cursor=o1")).json

    assert "next_cursor" not in listed["pagination"]
    assert at_offset[case.items] == listed[case.items][1:2]
    further = await api.get(f"{case.start}limit=1&cursor={at_offset['pagination']['next_cursor']}")
    assert further.json[case.items] == listed[case.items][2:]


async def test_a_cursor_has_priority_over_the_number_of_the_page(api: Api) -> None:
    for number in range(3):
        await add_queue(api, f"m{number}")
    first = (await api.get("/ojs/v1/admin/queues?page=1&per_page=1")).json["pagination"]

    rest = await api.get(f"/ojs/v1/admin/queues?page=1&per_page=9&cursor={first['next_cursor']}")

    assert [queue["name"] for queue in rest.json["items"]] == ["m1", "m2"]


async def test_a_cursor_of_events_has_priority_too(api: Api) -> None:
    for number in range(3):
        assert (await api.post("/ojs/v1/jobs", {"type": "t", "args": [number]})).status == 201
    first = (await api.get("/ojs/v1/events?limit=1")).json
    rest = (await api.get(f"/ojs/v1/events?page=1&per_page=1&cursor={first['cursor']}")).json
    assert len(rest["events"]) == 1
    assert rest["events"][0]["id"] != first["events"][0]["id"]


async def test_versions_that_are_equal_or_long_are_all_listed(api: Api) -> None:
    versions = {"1.0.0-1", "1.0.0-01", f"1-{'a' * 62}"}
    for version in versions:
        path = f"/ojs/v1/admin/schemas/one.type/{version}"
        assert (await api.call("PUT", path, {"schema": {"type": "array"}})).status == 201
    shown, cursor = [], ""
    for _ in versions:
        page = (await api.get(f"/ojs/v1/schemas?limit=1&cursor={cursor}")).json
        shown += [schema["version"] for schema in page["schemas"]]
        cursor = page["pagination"].get("next_cursor", "")
    assert (set(shown), cursor) == (versions, "")


async def test_a_cursor_shows_no_text_of_errors(api: Api) -> None:
    for number in range(2):
        await add_error(api, f"Secret{number}")
    cursor = (await api.get("/ojs/v1/admin/errors?limit=1")).json["pagination"]["next_cursor"]
    assert "Secret" not in str(cursors.decode(cursor))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_another_text_is_no_cursor(api: Api, case: ListCase) -> None:
    for number in range(2):
        await case.add(api, f"m{number}")
    issued = (await api.get(f"{case.start}limit=1")).json["pagination"]["next_cursor"]
    name, shown, *position = cursors.decode(issued)
    wrong = [
        *("x", "o-1", "W10", "%C3%A9", issued[:-3], issued + "A" * 4096),
        cursors.encode(["another list", shown, *position]),
        cursors.encode([name, -1, *position]),
        cursors.encode([name, shown, *position, 1]),
        cursors.encode([name, shown, *([part] for part in position)]),
        cursors.encode([name, shown, *(True for _ in position)]),
    ]
    for cursor in wrong:
        reply = await api.get(f"{case.start}cursor={cursor}")
        assert (reply.status, reply.error["details"]["field"]) == (400, "cursor"), cursor
