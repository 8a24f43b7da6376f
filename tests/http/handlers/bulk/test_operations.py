"""Bulk operations through the API."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ojs_cluster.core.access.scopes import Keyring, Principal, QueuePatterns, Scope, digest
from ojs_cluster.core.bulk.selection import BulkAction, Selection
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.handlers.bulk.operations import audit_text
from ojs_cluster.keys import Meta
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.bulk.execution import run_due
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import BulkOperation, BulkState
from tests.http.api import Api, Reply, open_app

META = Meta()
BULK = "/ojs/v1/admin/bulk"
CANCEL = {"action": "cancel", "filter": {"queue": "mail"}, "confirm": True}
ADMIN = frozenset({Scope.ADMIN_READ, Scope.ADMIN_WRITE, Scope.DATA_WRITE})
PRINCIPALS = {
    "root-key": Principal("root"),
    "operator-key": Principal("operator", ADMIN),
    "mail-key": Principal("mail", ADMIN, queues=QueuePatterns(["mail*"])),
    "news-key": Principal("news", ADMIN, queues=QueuePatterns(["news"])),
}


async def enqueue(api: Api, queue: str = "mail", **options: Any) -> str:
    body = {"type": "t", "args": [], "options": {"queue": queue, **options}}
    headers = {"Authorization": "Bearer root-key"}
    reply = await api.post("/ojs/v1/jobs", body, headers=headers)
    assert reply.status == 201, reply.body
    return str(reply.json["job"]["id"])


async def carry_out(api: Api) -> None:
    with trio.fail_after(60):
        while await api.app.store.redis.call(META.slot, "ZCARD", META.bulk_running):
            await run_due(api.app.store)


async def test_an_operation_is_created_followed_and_listed(any_api: Api) -> None:
    ids = [await enqueue(any_api) for _ in range(3)]
    other = await enqueue(any_api, "news")

    made = await any_api.post(BULK, CANCEL)
    operation_id = made.json["id"]
    assert made.status == 202
    assert made.headers["location"] == f"{BULK}/{operation_id}"
    assert (made.json["state"], made.json["matched"]) == ("running", 0)
    await carry_out(any_api)
    found = (await any_api.get(f"{BULK}/{operation_id}")).json

    assert found["filter"] == {
        "states": ["pending", "available", "scheduled", "retryable"],
        "queue": "mail",
    }
    assert (found["state"], found["matched"], found["succeeded"]) == ("completed", 3, 3)
    assert (found["failed"], found["failures"], found["dry_run"]) == (0, [], False)
    assert found["ended_at"] >= found["created_at"]
    for job_id in ids:
        assert (await any_api.get(f"/ojs/v1/jobs/{job_id}")).json["state"] == "cancelled"
    assert (await any_api.get(f"/ojs/v1/jobs/{other}")).json["state"] == "available"
    second = (await any_api.post(BULK, {**CANCEL, "dry_run": True})).json["id"]
    listed = (await any_api.get(f"{BULK}?per_page=1")).json
    assert [item["id"] for item in listed["items"]] == [second]
    assert listed["pagination"]["total"] == 2
    listed = (await any_api.get(f"{BULK}?per_page=1&page=2")).json
    assert [item["id"] for item in listed["items"]] == [operation_id]


async def test_a_dry_run_needs_no_confirmation(api: Api) -> None:
    job_id = await enqueue(api)
    body = {"action": "cancel", "filter": {"queue": "mail"}, "dry_run": True}
    operation_id = (await api.post(BULK, body)).json["id"]
    await carry_out(api)
    found = (await api.get(f"{BULK}/{operation_id}")).json
    assert (found["dry_run"], found["matched"], found["succeeded"]) == (True, 1, 0)
    assert (await api.get(f"/ojs/v1/jobs/{job_id}")).json["state"] == "available"


async def test_a_group_of_errors_is_retried_as_it_is_listed(any_api: Api) -> None:
    jobs = []
    for message in ("no host 1", "no host 2", "no answer"):
        job = await any_api.active("mail", options={"queue": "mail", "retry": {"max_attempts": 1}})
        error = {"type": "SmtpError", "message": message}
        await any_api.post("/ojs/v1/workers/nack", {"job_id": job["id"], "error": error})
        jobs.append(job["id"])
    listed = (await any_api.get("/ojs/v1/admin/errors?queue=mail")).json["items"]
    [group] = [item for item in listed if item["count"] == 2]
    chosen = {"queue": "mail", "error": {name: group[name] for name in ("type", "message")}}
    body = {"action": "retry", "filter": chosen, "confirm": True}
    operation_id = (await any_api.post(BULK, body)).json["id"]
    await carry_out(any_api)
    found = (await any_api.get(f"{BULK}/{operation_id}")).json
    assert found["filter"] == {**chosen, "states": ["discarded"]}
    assert (found["examined"], found["matched"], found["succeeded"]) == (3, 2, 2)
    states = [(await any_api.get(f"/ojs/v1/jobs/{job_id}")).json["state"] for job_id in jobs]
    assert states == ["available", "available", "discarded"]
    rest = {"filter": {"queue": "mail", "error": {"type": "SmtpError"}}}
    deleted = (await any_api.post("/ojs/v1/jobs/bulk/delete", rest)).json
    assert (deleted["deleted"], deleted["state"]) == (1, "completed")


async def test_an_operation_is_stopped_once(api: Api) -> None:
    operation_id = (await api.post(BULK, CANCEL)).json["id"]
    for _ in range(2):
        stopped = await api.post(f"{BULK}/{operation_id}/stop")
        assert (stopped.status, stopped.json["state"]) == (200, "stopping")
    await carry_out(api)
    assert (await api.get(f"{BULK}/{operation_id}")).json["state"] == "stopped"
    assert (await api.post(f"{BULK}/{operation_id}/stop")).error["code"] == "conflict"


async def test_an_unknown_operation_is_not_found(api: Api) -> None:
    for name in ("x", new_job_id(0, 8, 1_700_000_000_000)):
        for reply in (await api.get(f"{BULK}/{name}"), await api.post(f"{BULK}/{name}/stop")):
            assert (reply.status, reply.error["details"]["resource"]) == (404, "bulk operation")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({**CANCEL, "action": "burn"}, 400, "action"),
        ({**CANCEL, "confirm": False}, 400, "confirm"),
        ({"action": "cancel", "confirm": True}, 400, "filter"),
        ({**CANCEL, "filter": {"colour": "red"}}, 400, "filter"),
        ({**CANCEL, "filter": {"state": "completed"}}, 400, "filter.state"),
        ({**CANCEL, "filter": {"state": "gone"}}, 400, "state"),
        ({**CANCEL, "filter": {"states": [""]}}, 400, "filter.state"),
        ({**CANCEL, "filter": {"states": []}}, 400, "filter.states"),
        ({**CANCEL, "filter": {"dead": True}}, 400, "filter.dead"),
        ({**CANCEL, "filter": {"queue": "No!"}}, 400, "filter.queue"),
        ({**CANCEL, "filter": {"type": ""}}, 400, "filter.type"),
        ({**CANCEL, "filter": {"error": {"message": "m"}}}, 400, "filter.error"),
        ({**CANCEL, "filter": {"error": {"type": "x" * 1001}}}, 400, "filter.error"),
        ({**CANCEL, "filter": {"priority": 101}}, 400, "filter.priority"),
        ({**CANCEL, "filter": {"priority": 10**30}}, 400, "filter.priority"),
        ({**CANCEL, "filter": {"older_than": "soon"}}, 400, "filter.older_than"),
        ({**CANCEL, "filter": {"older_than": "999999999w"}}, 400, "filter.older_than"),
        ({**CANCEL, "filter": {"since": "+PT1H"}}, 400, "filter.since"),
        ({**CANCEL, "ids": []}, 400, "ids"),
        ({**CANCEL, "ids": ["x"]}, 400, "ids[0]"),
        ({**CANCEL, "ids": ["x"] * 1001}, 413, "ids"),
        ({**CANCEL, "more": 1}, 400, "more"),
    ],
)
async def test_an_invalid_request_creates_no_operation(
    api: Api, body: dict[str, Any], status: int, field: str
) -> None:
    reply = await api.post(BULK, body)
    assert (reply.status, reply.error["details"]["field"]) == (status, field)
    assert (await api.get(BULK)).json["items"] == []


async def test_a_filter_takes_ages_and_times(api: Api) -> None:
    shown = []
    for given in ("7d", "P7D", "2020-01-01T00:00:00Z"):
        body = {"action": "delete", "filter": {"older_than": given, "dead": True}, "confirm": True}
        shown.append((await api.post(BULK, body)).json["filter"])
    assert [each["states"] for each in shown] == [["discarded"]] * 3
    assert shown[2]["older_than"] == "2020-01-01T00:00:00.000Z"
    assert shown[0]["older_than"][:10] == shown[1]["older_than"][:10]


async def test_a_search_chooses_the_jobs(any_api: Api) -> None:
    wanted = await enqueue(any_api, tags=["new"])
    other = await enqueue(any_api, "news", tags=["old"])
    given = {"action": "cancel", "filter": {"query": " tag:new since:1h  queue:mail"}}

    counting = await any_api.post(BULK, {**given, "dry_run": True})
    await carry_out(any_api)
    made = await any_api.post(BULK, {**given, "confirm": True})
    await carry_out(any_api)

    shown = (await any_api.get(f"{BULK}/{counting.json['id']}")).json
    assert (shown["matched"], shown["filter"]["query"]) == (1, "tag:new queue:mail")
    assert shown["filter"]["queue"] == "mail", "only its indexes are walked"
    assert shown["filter"]["since"] < shown["created_at"], "the age is a time now"
    assert (await any_api.get(f"{BULK}/{made.json['id']}")).json["succeeded"] == 1
    assert (await any_api.get(f"/ojs/v1/jobs/{wanted}")).json["state"] == "cancelled"
    assert (await any_api.get(f"/ojs/v1/jobs/{other}")).json["state"] == "available"


def test_the_audit_names_the_fields_of_a_search_without_their_values() -> None:
    search = "args.token:secret type:t args.user:ann"
    chosen = Selection((State.DISCARDED,), query=search)
    running = BulkOperation("1", BulkAction.RETRY, BulkState.RUNNING, "1", 0, chosen)
    assert audit_text(running) == "retry query of args,type"


async def test_a_search_names_ids_and_states(api: Api) -> None:
    first, second = await enqueue(api), await enqueue(api)
    fetched = await api.post("/ojs/v1/workers/fetch", {"queues": ["mail"], "worker_id": "w-1"})
    assert fetched.json["jobs"][0]["id"] == first
    for query, ids, states in (
        (f"id:{first},{second},nothing", 2, ["pending", "available", "scheduled", "retryable"]),
        ("worker:w-1", None, ["active"]),
        ("state:active,completed type:t", None, ["active"]),
    ):
        body = {"action": "cancel", "filter": {"query": query}, "dry_run": True}
        made = (await api.post(BULK, body)).json
        assert made.get("ids") == ids, query
        assert made.get("ids_searched") == (None if ids is None else True), query
        assert set(made["filter"]["states"]) == set(states), query
    listed = await api.post("/ojs/v1/jobs/bulk/cancel", {"filter": {"query": "worker:w-1"}})
    assert (listed.status, listed.json["cancelled"]) == (200, 1)
    assert (await api.get(f"/ojs/v1/jobs/{first}")).json["state"] == "cancelled"
    assert (await api.get(f"/ojs/v1/jobs/{second}")).json["state"] == "available"


@pytest.mark.parametrize("query", ["", " ", "colour:red", "state:completed", "worker:w"])
async def test_a_search_that_cannot_be_meant_is_refused(api: Api, query: str) -> None:
    body = {"action": "retry" if query == "worker:w" else "cancel", "filter": {"query": query}}
    reply = await api.post(BULK, {**body, "confirm": True})
    assert reply.status == 400
    assert "filter.query" in str(reply.json["error"]["details"])


async def test_a_search_of_a_key_for_some_queues_finds_no_other(standalone: Embedded) -> None:
    access = AccessControl(Keyring({digest(key): who for key, who in PRINCIPALS.items()}, {}))
    async with open_app(standalone, access=access) as app:
        api = Api(app)
        for queue in ("mail", "news"):
            await enqueue(api, queue)
        headers = {"Authorization": "Bearer mail-key"}
        made = []
        for query in ("type:t", "queue:news", "queue:mail"):
            body = {"action": "cancel", "filter": {"query": query}, "dry_run": True}
            reply = await api.post(BULK, body, headers=headers)
            assert reply.status == 202, reply.body
            made.append(reply.json["id"])
        await carry_out(api)
        for operation_id, count in zip(made, (1, 0, 1), strict=True):
            shown = await api.get(f"{BULK}/{operation_id}", headers=headers)
            assert shown.json["matched"] == count


async def test_keys_see_and_change_only_their_queues(standalone: Embedded) -> None:
    access = AccessControl(Keyring({digest(key): who for key, who in PRINCIPALS.items()}, {}))
    async with open_app(standalone, access=access) as app:
        api = Api(app)
        mail, news = await enqueue(api), await enqueue(api, "news")

        async def post(key: str, path: str, body: Any = None) -> Reply:
            return await api.post(path, body, headers={"Authorization": f"Bearer {key}"})

        async def get(key: str, path: str) -> Reply:
            return await api.get(path, headers={"Authorization": f"Bearer {key}"})

        everything = {"action": "cancel", "filter": {}, "confirm": True}
        made = await post("mail-key", BULK, everything)
        assert made.json["filter"]["queues"] == ["mail*"]
        assert made.json["created_by"] == "mail"
        path = f"{BULK}/{made.json['id']}"
        assert (await get("mail-key", path)).status == 200
        assert (await get("news-key", path)).status == 404
        assert (await post("news-key", f"{path}/stop")).status == 404
        assert (await get("news-key", BULK)).json["items"] == []
        listed = (await get("news-key", BULK)).json
        assert (listed["pagination"]["total"], listed["pagination"]["has_more"]) == (0, False)
        dry = {"action": "cancel", "filter": {"queue": "news"}, "dry_run": True}
        newer = [(await post("news-key", BULK, dry)).json["id"] for _ in range(2)]
        listed = (await get("mail-key", f"{BULK}?per_page=1")).json
        assert [item["id"] for item in listed["items"]] == [made.json["id"]]
        assert listed["pagination"]["total"] == 1
        paged = [(await get("news-key", f"{BULK}?per_page=1&page={page}")).json for page in (1, 2)]
        found = [item["id"] for listed in paged for item in listed["items"]]
        assert sorted(found) == sorted(newer)  # those of one millisecond come in any order
        assert (await get("root-key", BULK)).json["pagination"]["total"] == 3
        of_news = {**everything, "filter": {"queue": "news"}}
        assert (await post("mail-key", BULK, of_news)).status == 403
        deletion = {"action": "delete", "filter": {}, "confirm": True}
        for key in ("operator-key", "mail-key"):
            refused = await post(key, BULK, deletion)
            assert (refused.status, refused.error["details"]["required_scope"]) == (
                403,
                "ojs:admin:purge",
            )
        assert (await post("root-key", BULK, deletion)).status == 202
        await carry_out(api)
        jobs = [(await get("root-key", f"/ojs/v1/jobs/{one}")).json for one in (mail, news)]
        assert [job["state"] for job in jobs] == ["cancelled", "available"]


async def test_one_operation_follows_a_dry_run(any_api: Api) -> None:
    await enqueue(any_api)

    async def start(**more: Any) -> str:
        made = await any_api.post(BULK, {**CANCEL, **more})
        assert made.status == 202, made.body
        await carry_out(any_api)
        return str(made.json["id"])

    count, other = await start(dry_run=True), await start(dry_run=True)
    await start()  # the same filter alone does not follow the dry run
    assert "followed_by" not in (await any_api.get(f"{BULK}/{count}")).json
    body = {"action": "cancel", "follows": count, "confirm": True}
    replies = []

    async def follow() -> None:
        replies.append(await any_api.post(BULK, body))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(follow)
    assert sorted(reply.status for reply in replies) == [202, 409, 409]
    [made] = [reply.json for reply in replies if reply.status == 202]
    refused = [reply.json["error"] for reply in replies if reply.status == 409]
    assert {error["details"]["operation_id"] for error in refused} == {made["id"]}
    found = (await any_api.get(f"{BULK}/{count}")).json
    assert found["filter"] == made["filter"]
    assert found["followed_by"] == {"id": made["id"], "state": "running"}
    assert found in (await any_api.get(BULK)).json["items"]

    await carry_out(any_api)
    stored = await operations.get(any_api.app.store, made["id"])
    again = await operations.create(
        any_api.app.store, made["id"], stored.action, stored.selection, follows=count
    )
    assert again == stored, "a repetition of the same request"
    assert "followed_by" not in (await any_api.get(f"{BULK}/{other}")).json
    await any_api.app.store.redis.call(META.slot, "UNLINK", META.bulk(made["id"]))
    assert (await any_api.get(f"{BULK}/{count}")).json["followed_by"] == {"id": made["id"]}


async def test_what_cannot_be_followed_is_refused(api: Api) -> None:
    job = await enqueue(api)
    count = (await api.post(BULK, {**CANCEL, "dry_run": True})).json["id"]
    named = (await api.post(BULK, {**CANCEL, "dry_run": True, "ids": [job]})).json["id"]

    async def refusal(operation_id: str, **more: Any) -> int:
        body = {"action": "cancel", "follows": operation_id, "confirm": True, **more}
        return (await api.post(BULK, body)).status

    assert await refusal(count) == 409, "it has not ended"
    await carry_out(api)
    assert await refusal(named) == 409
    assert await refusal(new_job_id(0, 1, 1)) == 404
    assert await refusal(count, action="retry") == 400
    assert await refusal(count, filter={"queue": "news"}) == 400
    assert await refusal(count, confirm=False) == 400
    assert await refusal(count) == 202


async def test_a_followed_dry_run_may_be_the_oldest_operation(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = (await api.post(BULK, {**CANCEL, "dry_run": True})).json["id"]
    await carry_out(api)
    monkeypatch.setattr(operations, "MAX_OPERATIONS", 1)
    body = {"action": "cancel", "follows": count, "confirm": True}
    assert (await api.post(BULK, body)).status == 202
    exists = await api.app.store.redis.call(META.slot, "EXISTS", META.bulk(count))
    assert exists == 0, "a dry run that was removed stays removed"
