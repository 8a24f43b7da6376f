"""The history of a job, and its place in its workflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ojs_cluster.core.access.scopes import Keyring, Principal, QueuePatterns, Scope, digest
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.handlers.history.workflow_graph import WorkflowGraph
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.queue_deletion.move_waiting import move
from ojs_cluster.store.ground.settings import StoreSettings
from tests.http.api import Api, Reply, open_app
from tests.store.shortcuts import clock_ms

NACK = "/ojs/v1/workers/nack"
ACK = "/ojs/v1/workers/ack"


async def history(api: Api, job_id: str, query: str = "") -> dict[str, Any]:
    reply = await api.get(f"/ojs/v1/jobs/{job_id}/history{query}")
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    times = [event["timestamp"] for event in found["events"]]
    assert times == sorted(times)
    assert all(event["job_id"] == job_id for event in found["events"])
    return found


def kinds(found: dict[str, Any]) -> list[str]:
    return [event["event_type"] for event in found["events"]]


def data_of(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [event["data"] for event in found["events"] if event["event_type"] == kind]


def changes(found: dict[str, Any]) -> list[str]:
    return [f"{each['from']} {each['to']}" for each in data_of(found, "job.state_changed")]


async def again(api: Api, worker: str) -> list[dict[str, Any]]:
    """Fetch until the retry is due."""
    while not (jobs := await api.fetch(worker_id=worker)):
        pass
    return jobs


async def wait_for_the_next_millisecond(api: Api) -> None:
    """Only then is an activation later than the job."""
    now = await clock_ms(api.app.store, 0)
    while await clock_ms(api.app.store, 0) <= now + 1:
        pass


async def lineage(api: Api, job_id: str) -> dict[str, Any]:
    reply = await api.get(f"/ojs/v1/jobs/{job_id}/lineage")
    assert reply.status == 200, reply.body
    found: dict[str, Any] = reply.json
    return found


async def test_the_history_of_a_completed_job_is_complete(any_api: Api) -> None:
    job = await any_api.active(args=[1, "two"])
    running = await history(any_api, job["id"])
    assert running["events"][-1]["actor"] == {"type": "worker", "id": "w1"}
    await any_api.post(ACK, {"job_id": job["id"]})

    found = await history(any_api, job["id"])

    assert kinds(found) == [
        "job.created",
        "job.state_changed",
        "job.attempt_started",
        "job.attempt_completed",
        "job.state_changed",
    ]
    assert found["complete"] is True
    [created] = data_of(found, "job.created")
    assert created == {"queue": "default", "type": "test.echo", "args_size_bytes": 10}
    assert data_of(found, "job.state_changed") == [
        {"from": "available", "to": "active"},
        {"from": "active", "to": "completed"},
    ]
    [completed] = data_of(found, "job.attempt_completed")
    assert completed["attempt"] == 1
    assert completed["duration_ms"] >= 0
    assert len({event["id"] for event in found["events"]}) == found["total"] == 5


async def test_the_history_has_each_attempt_with_its_worker(any_api: Api) -> None:
    retry = {"max_attempts": 2, "initial_interval": "PT0.001S", "jitter": False}
    job_id = (await any_api.active(options={"retry": retry}))["id"]
    await any_api.post(NACK, {"job_id": job_id, "error": {"type": "x", "message": "one"}})
    await again(any_api, "w2")
    await any_api.post(NACK, {"job_id": job_id, "error": {"type": "x", "message": "two"}})

    found = await history(any_api, job_id)

    assert found["complete"] is True
    failed = data_of(found, "job.attempt_failed")
    assert [(each["attempt"], each["error"], each["will_retry"]) for each in failed] == [
        (1, "one", True),
        (2, "two", False),
    ]
    assert all(each["duration_ms"] >= 0 for each in failed)
    started = data_of(found, "job.attempt_started")
    assert started == [{"attempt": 1, "worker_id": "w1"}, {"attempt": 2, "worker_id": "w2"}]
    [discarded] = data_of(found, "job.discarded")
    assert discarded == {"total_attempts": 2, "expired": False, "last_error": "two"}
    assert changes(found) == [
        "available active",
        "active retryable",
        "retryable available",
        "available active",
        "active discarded",
    ]


async def test_a_history_that_was_not_recorded_is_not_complete(standalone: Embedded) -> None:
    settings = StoreSettings(history_enabled=False)
    async with open_app(standalone, store=settings, test_hooks=True) as app:
        api = Api(app)
        retry = {"max_attempts": 2, "initial_interval": "PT0.001S", "jitter": False}
        job_id = (await api.active(options={"retry": retry}))["id"]
        await api.post(NACK, {"job_id": job_id, "error": {"type": "x", "message": "one"}})
        await again(api, "w2")
        await api.post(NACK, {"job_id": job_id, "error": {"type": "x", "message": "two"}})
        found = await history(api, job_id)
    assert found["complete"] is False
    assert [each["error"] for each in data_of(found, "job.attempt_failed")] == ["one", "two"]
    assert data_of(found, "job.attempt_started") == [{"attempt": 2, "worker_id": "w2"}]


async def test_a_returned_attempt_is_not_the_one_that_failed(any_api: Api) -> None:
    retry = {"max_attempts": 3, "initial_interval": "PT0.001S", "jitter": False}
    job_id = (await any_api.active(options={"retry": retry}))["id"]
    await any_api.post(NACK, {"job_id": job_id, "error": {"type": "x", "message": "one"}})
    [fetched] = await again(any_api, "w1")
    body = {"lease_id": fetched["lease_id"], "requeue": True, "started": False}
    assert (await any_api.post(NACK, {"job_id": job_id, **body})).status == 200

    found = await history(any_api, job_id)

    assert data_of(found, "job.attempt_started") == [{"attempt": 1, "worker_id": "w1"}]
    assert changes(found)[-1] == "retryable available"
    assert found["complete"] is True


async def test_a_requeued_attempt_is_in_the_history(any_api: Api) -> None:
    job = await any_api.active()
    await any_api.post(NACK, {"job_id": job["id"], "requeue": True})
    await any_api.fetch(worker_id="w2")
    await any_api.post(ACK, {"job_id": job["id"]})
    found = await history(any_api, job["id"])
    assert found["complete"] is True
    assert changes(found) == [
        "available active",
        "active available",
        "available active",
        "active completed",
    ]
    assert [each["worker_id"] for each in data_of(found, "job.attempt_started")] == ["w1", "w2"]


async def test_a_manual_retry_erases_nothing(any_api: Api) -> None:
    job_id = (await any_api.active(options={"retry": {"max_attempts": 1}}))["id"]
    await any_api.post(NACK, {"job_id": job_id, "error": {"message": "no"}})
    before = await history(any_api, job_id)
    await any_api.post(f"/ojs/v1/admin/jobs/{job_id}/retry")
    await any_api.fetch(worker_id="w2")
    await any_api.post(NACK, {"job_id": job_id, "error": {"message": "again"}})
    await any_api.post(f"/ojs/v1/admin/jobs/{job_id}/retry")

    found = await history(any_api, job_id)

    assert found["complete"] is True
    assert found["events"][: before["total"]] == before["events"]
    retries = [event for event in found["events"] if event["data"].get("manual")]
    assert [event["actor"] for event in retries] == [{"type": "client", "id": "anonymous"}] * 2
    assert [each["error"] for each in data_of(found, "job.attempt_failed")] == ["no", "again"]
    assert len(data_of(found, "job.discarded")) == 2
    assert (await any_api.get(f"/ojs/v1/jobs/{job_id}")).json["job"].get("errors") is None


async def test_the_history_says_who_has_changed_a_job(any_api: Api) -> None:
    job = await any_api.enqueue(options={"scheduled_at": "+PT1H"})
    path = f"/ojs/v1/jobs/{job['id']}"
    assert (await any_api.call("PATCH", path, {"priority": 5})).status == 200
    await any_api.delete(path)
    found = await history(any_api, job["id"])
    [changed] = [e for e in found["events"] if e["event_type"] == "job.priority_changed"]
    assert (changed["data"], changed["actor"]["id"]) == ({"from": 0, "to": 5}, "anonymous")
    assert found["events"][-1]["event_type"] == "job.cancelled"
    assert found["events"][-1]["actor"] == {"type": "client", "id": "anonymous"}


async def test_a_bulk_operation_is_named_in_the_history(any_api: Api) -> None:
    job = await any_api.enqueue()
    body = {"ids": [job["id"]]}
    assert (await any_api.post("/ojs/v1/jobs/bulk/cancel", body)).status == 200
    found = await history(any_api, job["id"])
    assert found["events"][-1]["actor"] == {"type": "client", "id": "anonymous"}


@pytest.mark.parametrize("options", [{"scheduled_at": "+PT0.001S"}, {"pending": True}])
async def test_a_job_that_has_waited_became_available(
    any_api: Api, options: dict[str, Any]
) -> None:
    job = await any_api.enqueue(options=options)
    if "pending" in options:
        await wait_for_the_next_millisecond(any_api)
        await any_api.post(f"/ojs/v1/jobs/{job['id']}/activate")
    while not await any_api.fetch(worker_id="w1"):
        pass
    found = await history(any_api, job["id"])
    first = "pending" if "pending" in options else "scheduled"
    assert changes(found) == [f"{first} available", "available active"]


async def test_a_deleted_history_has_what_the_job_still_has(any_api: Api) -> None:
    job_id = (await any_api.active(options={"retry": {"max_attempts": 1}}))["id"]
    await any_api.post(NACK, {"job_id": job_id, "error": {"message": "no"}})
    await any_api.post(f"/ojs/v1/admin/jobs/{job_id}/retry")
    reply = await any_api.delete(f"/ojs/v1/jobs/{job_id}/history")
    assert reply.json == {"deleted": True, "events_deleted": 2}
    found = await history(any_api, job_id)
    assert kinds(found) == ["job.created"]
    assert found["complete"] is False


async def test_a_cancelled_job_has_one_end(any_api: Api) -> None:
    job = await any_api.enqueue(options={"scheduled_at": "+PT1H"})
    await any_api.delete(f"/ojs/v1/jobs/{job['id']}")
    assert kinds(await history(any_api, job["id"])) == ["job.created", "job.cancelled"]


async def test_ojs_cli_reads_the_type_and_the_state_of_each_event(any_api: Api) -> None:
    job = await any_api.active()
    await any_api.post(ACK, {"job_id": job["id"]})
    reply = await any_api.get(f"/ojs/v1/events/{job['id']}/history")
    assert [(each["type"], each["state"]) for each in reply.json["events"]] == [
        ("job.created", ""),
        ("job.state_changed", "active"),
        ("job.attempt_started", "active"),
        ("job.attempt_completed", "completed"),
        ("job.state_changed", "completed"),
    ]


async def test_an_edited_job_says_so(any_api: Api) -> None:
    job = await any_api.enqueue()
    reply = await any_api.call("PATCH", f"/ojs/v1/jobs/{job['id']}", {"args": [1]})
    assert reply.status == 200, reply.body
    assert kinds(await history(any_api, job["id"])) == ["job.created", "job.edited"]


async def test_a_restricted_key_sees_its_jobs_and_their_relatives_only(
    standalone: Embedded,
) -> None:
    keys = {
        "all": Principal("all"),
        "mail": Principal("mail", queues=QueuePatterns(["mail"])),
        "reader": Principal("reader", frozenset({Scope.DATA_READ})),
    }
    access = AccessControl(Keyring({digest(key): who for key, who in keys.items()}, {}))
    async with open_app(standalone, access=access) as app:
        api = Api(app)
        bearer = {key: {"Authorization": f"Bearer {key}"} for key in keys}
        jobs = [{"type": "a.b", "args": [], "options": {"queue": q}} for q in ("mail", "secret")]
        group = {"type": "group", "jobs": [jobs[0], jobs[1]]}
        chain = {"type": "chain", "steps": [jobs[0], group]}
        made = await api.post("/ojs/v1/workflows", chain, headers=bearer["all"])
        first = made.json["steps"][0]["job_id"]
        fetched: dict[str, str] = {}
        for queue in ("mail", "mail", "secret"):
            body = {"queues": [queue], "worker_id": "w", "wait_ms": 30_000}
            reply = await api.post("/ojs/v1/workers/fetch", body, headers=bearer["all"])
            [job] = reply.json["jobs"]
            fetched[queue] = job["id"]
            await api.post(ACK, {"job_id": job["id"]}, headers=bearer["all"])

        async def ask(what: str, key: str = "mail", method: str = "GET") -> Reply:
            return await api.call(method, f"/ojs/v1/{what}", headers=bearer[key])

        for what in ("history", "lineage"):
            own = await ask(f"jobs/{first}/{what}")
            assert own.status == 200
            other = await ask(f"jobs/{fetched['secret']}/{what}")
            assert (other.status, other.error["code"]) == (404, "not_found")
        refused = await ask(f"events/{fetched['secret']}/history")
        assert refused.status == 404
        mail = (await ask(f"jobs/{first}/lineage")).json["children"]
        everything = (await ask(f"jobs/{first}/lineage", "all")).json["children"]
        assert {each["job_id"] for each in mail} == {fetched["mail"]}
        assert {each["job_id"] for each in everything} == set(fetched.values())
        kept = await ask(f"jobs/{first}/history", "reader", "DELETE")
        assert (kept.status, kept.error["code"]) == (403, "permission_denied")


async def test_a_restricted_key_does_not_learn_of_steps_that_were_moved_to_another_queue(
    standalone: Embedded,
) -> None:
    keys = {
        "all": Principal("all"),
        "mail": Principal("mail", queues=QueuePatterns(["mail"])),
        "both": Principal("both", queues=QueuePatterns(["mail", "secret"])),
    }
    access = AccessControl(Keyring({digest(key): who for key, who in keys.items()}, {}))
    async with open_app(standalone, access=access) as app:
        api = Api(app)
        bearer = {key: {"Authorization": f"Bearer {key}"} for key in keys}
        step = {"type": "a.b", "args": [], "options": {"queue": "mail"}}
        chain = {"type": "chain", "steps": [step, {"type": "group", "jobs": [step, step]}]}
        made = await api.post("/ojs/v1/workflows", chain, headers=bearer["all"])
        first = made.json["steps"][0]["job_id"]
        body = {"queues": ["mail"], "worker_id": "w", "wait_ms": 30_000}
        await api.post("/ojs/v1/workers/fetch", body, headers=bearer["all"])
        await api.post(ACK, {"job_id": first}, headers=bearer["all"])

        async def children(key: str) -> set[str]:
            found = await api.get(f"/ojs/v1/jobs/{first}/lineage", headers=bearer[key])
            assert found.status == 200, found.body
            return {each["job_id"] for each in found.json["children"]}

        before = await children("mail")
        assert len(before) == 2
        await move(app.store, min(before), "secret")
        assert await children("all") == await children("both") == before
        assert await children("mail") == set()


async def test_the_history_has_pages(any_api: Api) -> None:
    job = await any_api.active()
    await any_api.post(ACK, {"job_id": job["id"]})
    seen: list[str] = []
    query = "?limit=2"
    while query:
        page = await history(any_api, job["id"], query)
        assert len(page["events"]) <= 2
        seen += [event["id"] for event in page["events"]]
        query = f"?limit=2&cursor={page['next_cursor']}" if "next_cursor" in page else ""
    assert len(seen) == len(set(seen)) == 5


@pytest.mark.parametrize("path", ["history", "lineage"])
async def test_an_unknown_job_has_neither(any_api: Api, path: str) -> None:
    unknown = new_job_id(0, 8, 1)
    assert (await any_api.delete(f"/ojs/v1/jobs/{unknown}/history")).status == 404
    assert (await any_api.get(f"/ojs/v1/jobs/{unknown}/{path}")).status == 404


async def test_the_lineage_of_a_job_without_a_workflow(any_api: Api) -> None:
    job_id = (await any_api.enqueue())["id"]
    assert await lineage(any_api, job_id) == {
        "job_id": job_id,
        "workflow_id": None,
        "root_id": job_id,
        "parent_id": None,
        "parents": [],
        "children": [],
        "truncated": False,
    }


async def test_the_lineage_of_a_chain_grows_as_its_steps_are_enqueued(any_api: Api) -> None:
    steps = [{"type": "a.b", "args": [], "options": {"queue": "chain"}}] * 2
    made = (await any_api.post("/ojs/v1/workflows", {"type": "chain", "steps": steps})).json
    first = made["steps"][0]["job_id"]
    before = await lineage(any_api, first)
    assert (before["workflow_id"], before["children"]) == (made["id"], [])

    [job] = await any_api.fetch("chain", worker_id="w1")
    await any_api.post(ACK, {"job_id": job["id"]})
    [second] = await any_api.fetch("chain", worker_id="w1", wait_ms=60_000)

    after = await lineage(any_api, first)
    assert after["children"] == [{"job_id": second["id"], "children": []}]
    child = await lineage(any_api, second["id"])
    assert (child["parent_id"], child["root_id"], child["parents"]) == (first, first, [first])


def graph_of(raw: bytes) -> WorkflowGraph:
    plan = parse_workflow(raw).plan
    visible = {number for number, node in enumerate(plan.nodes) if node.job >= 0}
    return WorkflowGraph(plan, visible)


def test_a_nested_workflow_is_between_its_neighbours() -> None:
    step = b'{"type":"a.b","args":[]}'
    group = b'{"type":"group","jobs":[%b,%b]}' % (step, step)
    graph = graph_of(b'{"type":"chain","steps":[%b,%b,%b]}' % (step, group, step))
    first, one, two, last = [n for n, node in enumerate(graph.plan.nodes) if node.job >= 0]
    assert [graph.parents(n) for n in (first, one, two, last)] == [[], [first], [first], [one, two]]
    assert {graph.root(n) for n in (first, one, two, last)} == {first}
    assert graph.take_children(first) == [one, two]
    assert graph.take_children(one) == [last]
    assert graph.take_children(two) == []


def test_two_groups_in_a_row_are_followed_without_all_pairs() -> None:
    step = b'{"type":"a.b","args":[]}'
    group = b'{"type":"group","jobs":[%b]}' % b",".join([step] * 300)
    graph = graph_of(b'{"type":"chain","steps":[%b,%b,%b]}' % (step, group, group))
    first, *jobs = [n for n, node in enumerate(graph.plan.nodes) if node.job >= 0]
    followed = 0
    first_jobs = graph._first_jobs

    def counted(number: int) -> Iterator[int]:
        nonlocal followed
        for each in first_jobs(number):
            followed += 1
            yield each

    graph._first_jobs = counted  # type: ignore[method-assign]
    assert graph.take_children(first) == jobs[:300]
    assert [graph.take_children(n) for n in jobs[:300]] == [jobs[300:], *[[]] * 299]
    assert graph.parents(jobs[-1]) == jobs[:300]
    assert followed <= 4 * len(jobs)
