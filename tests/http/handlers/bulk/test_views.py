"""The bulk endpoints of the specification and of clients."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.access.scopes import Keyring, Principal, Scope, digest
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.handlers.bulk import views
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app
from tests.http.handlers.bulk.test_operations import carry_out, enqueue
from tests.store.shortcuts import id_in

JOBS = "/ojs/v1/jobs/bulk"
ADMIN = "/ojs/v1/admin/jobs/bulk"
_OWN = {"queue", "operation_id", "state"}
"""Members in which the answers of two purges differ."""
DEAD: dict[str, Any] = {"retry": {"max_attempts": 1, "on_exhaustion": "dead_letter"}}


async def state(api: Api, job_id: str) -> str:
    reply = await api.get(f"/ojs/v1/jobs/{job_id}")
    return str(reply.json["state"]) if reply.status == 200 else "gone"


async def fetched(api: Api, queue: str = "mail") -> str:
    reply = await api.post("/ojs/v1/workers/fetch", {"queues": [queue], "worker_id": "w"})
    return str(reply.json["jobs"][0]["id"])


async def ended(api: Api, how: str, queue: str = "mail", **options: Any) -> str:
    await enqueue(api, queue, **options)
    job_id = await fetched(api, queue)
    body = {"job_id": job_id, "error": {"message": "no"}}
    assert (await api.post(f"/ojs/v1/workers/{how}", body)).status == 200
    return job_id


async def test_ids_are_cancelled_with_an_item_for_each(any_api: Api) -> None:
    waiting, done = await enqueue(any_api, "a"), await ended(any_api, "ack")
    missing = id_in(3)

    reply = await any_api.post(f"{JOBS}/cancel", {"job_ids": [waiting, done, missing]})

    assert (reply.status, reply.headers["x-ojs-batch-size"]) == (207, "3")
    found = reply.json
    assert [item["status"] for item in found["items"]] == ["cancelled", "skipped", "failed"]
    assert [item["index"] for item in found["items"]] == [0, 1, 2]
    assert "completed" in found["items"][1]["reason"]
    counts = ("total_matched", "cancelled", "failed", "skipped")
    assert [found[name] for name in counts] == [3, 1, 2, 1]
    assert await state(any_api, waiting) == "cancelled"
    # A repetition has the same outcome: the job has the wanted state.
    assert (await any_api.post(f"{JOBS}/cancel", {"job_ids": [waiting]})).status == 200
    assert (await any_api.post(f"{JOBS}/cancel", {"job_ids": [missing]})).status == 422


async def test_ids_are_retried_and_deleted(api: Api) -> None:
    dead, waiting = await ended(api, "nack", **DEAD), await enqueue(api, "other")
    reply = await api.post(f"{JOBS}/retry", {"job_ids": [dead, waiting]})
    assert (reply.status, reply.json["retried"], reply.json["skipped"]) == (207, 1, 1)
    assert await state(api, dead) == "available"
    done = await ended(api, "ack", "third")
    reply = await api.post(f"{JOBS}/delete", {"job_ids": [done, waiting]})
    assert (reply.status, reply.json["deleted"], reply.json["skipped"]) == (207, 1, 1)
    assert [await state(api, job_id) for job_id in (done, waiting)] == ["gone", "available"]


async def test_a_filter_cancels_waiting_jobs_of_the_named_states(api: Api) -> None:
    later = {"scheduled_at": "2099-01-01T00:00:00Z"}
    jobs = [await enqueue(api), await enqueue(api, **later), await enqueue(api, pending=True)]
    running = await enqueue(api, "other")
    assert await fetched(api, "other") == running

    reply = await api.post(f"{JOBS}/cancel", {"filter": {"type": "t"}})

    assert (reply.status, reply.json["state"]) == (200, "completed")
    assert (reply.json["total_matched"], reply.json["cancelled"], reply.json["failed"]) == (2, 2, 0)
    assert [await state(api, job_id) for job_id in jobs] == ["cancelled", "cancelled", "pending"]
    assert await state(api, running) == "active"
    body = {"filter": {"state": ["active", "pending"]}}
    assert (await api.post(f"{JOBS}/cancel", body)).json["cancelled"] == 2


async def test_the_admin_view_cancels_and_deletes_by_a_filter(api: Api) -> None:
    job_id = await enqueue(api)
    refused = await api.post(f"{ADMIN}/cancel", {"filter": {"queue": "mail"}})
    assert (refused.status, refused.error["details"]["field"]) == (400, "confirm")
    reply = await api.post(f"{ADMIN}/cancel", {"filter": {"queue": "mail"}, "confirm": True})
    names = ("action", "matched", "succeeded", "failed", "errors")
    assert [reply.json[name] for name in names] == ["cancel", 1, 1, 0, []]
    body = {"filter": {"state": "cancelled", "older_than": "2000-01-01T00:00:00Z"}, "confirm": True}
    assert (await api.post(f"{ADMIN}/delete", body)).json["matched"] == 0
    body["filter"] = {"state": "cancelled", "until": "2099-01-01T00:00:00Z"}
    assert (await api.post(f"{ADMIN}/delete", body)).json["deleted"] == 1
    assert await state(api, job_id) == "gone"


async def test_what_takes_longer_is_left_to_the_scheduler(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_RUN_S", 0.0)
    job_id = await enqueue(api)
    reply = await api.post(f"{JOBS}/cancel", {"filter": {"queue": "mail"}})
    assert (reply.status, reply.json["state"], reply.json["has_more"]) == (202, "running", True)
    assert reply.headers["location"] == f"/ojs/v1/admin/bulk/{reply.json['operation_id']}"
    await carry_out(api)
    assert (await api.get(reply.headers["location"])).json["succeeded"] == 1
    assert await state(api, job_id) == "cancelled"


async def test_only_a_key_that_may_read_an_operation_is_told_where_it_is(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_RUN_S", 0.0)
    principals = {
        "producer-key": Principal("producer", frozenset({Scope.DATA_WRITE})),
        "reader-key": Principal("reader", frozenset({Scope.DATA_WRITE, Scope.ADMIN_READ})),
    }
    access = AccessControl(Keyring({digest(key): who for key, who in principals.items()}, {}))
    async with open_app(standalone, access=access) as app:
        api = Api(app)
        for key, told in (("producer-key", False), ("reader-key", True)):
            headers = {"Authorization": f"Bearer {key}"}
            body = {"filter": {"queue": "mail"}}
            reply = await api.post(f"{JOBS}/cancel", body, headers=headers)
            assert (reply.status, "location" in reply.headers) == (202, told)
            path = f"/ojs/v1/admin/bulk/{reply.json['operation_id']}"
            status = (await api.get(path, headers=headers)).status
            assert status == (200 if told else 403)


async def test_jobs_of_a_queue_are_removed_by_state(api: Api) -> None:
    path = "/ojs/v1/admin/queues/mail/jobs"
    done, waiting = await ended(api, "ack"), await enqueue(api)
    other = await enqueue(api, "other")
    for wrong in (
        {"states": ["available"]},
        {"confirm": True},
        {"states": ["active"], "confirm": True},
    ):
        assert (await api.call("DELETE", path, wrong)).status == 400

    body = {"states": ["completed", "available"], "confirm": True}
    reply = await api.call("DELETE", path, body)

    assert (reply.status, reply.json["purged_count"]) == (200, 2)
    assert reply.json["states"] == ["completed", "available"]
    found = [await state(api, job_id) for job_id in (waiting, done, other)]
    assert found == ["gone", "gone", "available"]


@pytest.mark.parametrize("states", [["completed"], ["completed", "discarded"], ["available"]])
async def test_both_purges_take_the_same_states_and_answer_alike(
    api: Api, states: list[str]
) -> None:
    routes = (("DELETE", "/ojs/v1/admin/queues/{}/jobs"), ("POST", "/ojs/v1/queues/{}/purge"))
    answers = []
    for (method, path), queue in zip(routes, ("one", "two"), strict=True):
        await ended(api, "ack", queue)
        await ended(api, "nack", queue, retry={"max_attempts": 1})
        await enqueue(api, queue)
        body = {"states": states, "confirm": True}
        for wrong in ({**body, "states": ["active"]}, {**body, "states": ["done"]}, {"confirm": 1}):
            refused = await api.call(method, path.format(queue), wrong)
            assert (refused.status, refused.error["code"]) == (400, "invalid_request")
        reply = await api.call(method, path.format(queue), body)
        assert reply.status == 200, reply.body
        assert reply.json["queue"] == queue
        answers.append({name: reply.json[name] for name in reply.json.keys() - _OWN})
    assert answers[0] == answers[1]
    counts = ("purged", "purged_count", "deleted", "left", "states")
    assert tuple(answers[0][name] for name in counts) == (*[len(states)] * 3, 0, states)


async def test_a_purge_for_one_tenant_keeps_the_jobs_of_others(api: Api) -> None:
    for tenant in ("acme", "beta"):
        headers = {"X-OJS-Tenant": tenant}
        job = {"type": "t", "args": [], "options": {"queue": "mail"}}
        assert (await api.post("/ojs/v1/jobs", job, headers=headers)).status == 201
    reply = await api.post(
        "/ojs/v1/queues/mail/purge", {"states": ["available"]}, headers={"X-OJS-Tenant": "acme"}
    )
    assert (reply.status, reply.json["deleted"]) == (200, 1)
    assert [job["meta"]["tenant_id"] for job in await api.fetch("mail", count=5)] == ["beta"]


@pytest.mark.parametrize("path", ["/ojs/v1/admin/dead-letter", "/ojs/v1/dead-letter"])
async def test_dead_letters_are_purged(api: Api, path: str) -> None:
    dead, kept = await ended(api, "nack", **DEAD), await ended(api, "nack", "other", **DEAD)
    discarded = await ended(api, "nack", "mail", retry={"max_attempts": 1})
    assert (await api.call("DELETE", path, {})).status == 400
    old = {"older_than": "2000-01-01T00:00:00Z", "confirm": True}
    assert (await api.call("DELETE", path, old)).json["deleted"] == 0
    reply = await api.call("DELETE", path, {"queue": "mail", "confirm": True})
    assert (reply.status, reply.json["deleted"], reply.json["purged_count"]) == (200, 1, 1)
    found = [await state(api, job_id) for job_id in (dead, kept, discarded)]
    assert found == ["gone", "discarded", "discarded"]
    assert (await api.call("POST", "/ojs/v1/dead-letter/purge?older_than=30d")).json["deleted"] == 0
    assert (await api.call("POST", "/ojs/v1/dead-letter/purge")).json["deleted"] == 1


async def test_dead_letters_are_retried_in_the_data_plane(api: Api) -> None:
    dead = await ended(api, "nack", **DEAD)
    reply = await api.post("/ojs/v1/dead-letter/retry", {"confirm": True})
    assert (reply.status, reply.json["retried"]) == (200, 1)
    assert await state(api, dead) == "available"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "filter"),
        ({"filter": {}}, 400, "filter"),
        ({"filter": {"queue": "q"}, "job_ids": [id_in(1)]}, 400, "filter"),
        ({"job_ids": []}, 400, "job_ids"),
        ({"job_ids": [id_in(1)] * 1001}, 413, "job_ids"),
        ({"job_ids": [id_in(1)], "atomicity": "atomic"}, 422, "atomicity"),
        ({"filter": {"state": "completed"}}, 400, "filter.state"),
        ({"filter": {"states": []}}, 400, "filter.states"),
        ({"filter": {"state": []}}, 400, "filter.state"),
        ({"filter": {"queue": "q", "states": ["available"], "state": []}}, 400, "filter.state"),
        ({"filter": {"type": "*"}}, 400, "filter"),
        ({"filter": {"query": "colour:red"}}, 400, "filter.query"),
    ],
)
async def test_an_invalid_request_is_refused(
    api: Api, body: dict[str, Any], status: int, field: str
) -> None:
    reply = await api.post(f"{JOBS}/cancel", body)
    assert (reply.status, reply.error["details"]["field"]) == (status, field)


@pytest.mark.parametrize(
    "filter_",
    [
        {"states": []},
        {"state": []},
        {"type": "*"},
        {"query": "type:*"},
        {"query": 'queue:a,""* id:*', "type": "*"},
    ],
)
async def test_a_filter_without_a_condition_deletes_nothing(
    api: Api, filter_: dict[str, Any]
) -> None:
    done = await ended(api, "ack")
    assert (await api.post(f"{JOBS}/delete", {"filter": filter_})).status == 400
    assert await state(api, done) == "completed"
