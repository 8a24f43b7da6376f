"""Queues with a bound over HTTP (spec: ojs-backpressure 6 and 7)."""

from __future__ import annotations

from typing import Any, Final

import pytest
import trio

from ojs_cluster.http.blocking import MAX_BLOCKED
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.engine.enqueue import enqueue as store_enqueue
from ojs_cluster.store.engine.limits.depth_bounds import check_bounds
from ojs_cluster.store.features.maintenance.maintenance import Maintenance
from ojs_cluster.store.ground.settings import StoreSettings
from tests.http.api import Api, Reply, open_app, serving, until
from tests.http.test_entry_points import exchange, request
from tests.store.hot_queues import spread
from tests.support.servers import observer

CONFIG: Final = "/ojs/v1/admin/queues/mail/config"
JOB: Final[dict[str, Any]] = {"type": "t", "args": [], "options": {"queue": "mail"}}


async def bound(api: Api, most: int, **more: Any) -> Reply:
    return await api.call("PUT", CONFIG, {"backpressure": {"max_depth": most, **more}})


def is_refusal(reply: Reply, depth: int, most: int) -> bool:
    error = reply.error
    return (
        reply.status == 429
        and error["code"] == "QUEUE_FULL"
        and error["retryable"] is True
        and error["details"]["queue"] == "mail"
        and reply.headers["x-ojs-queue-depth"] == str(depth)
        and reply.headers["x-ojs-queue-bound"] == str(most)
        and int(reply.headers["retry-after"]) > 0
    )


async def test_a_full_queue_answers_429(api: Api) -> None:
    """The suites ext-backpressure 001, 002, 004 and 005, and workflows."""
    assert (await bound(api, 2, strategy="reject", warning_threshold=0.5)).status == 200
    for _ in range(2):
        assert (await api.post("/ojs/v1/jobs", JOB)).status == 201
    assert is_refusal(await api.post("/ojs/v1/jobs", JOB), 2, 2)
    assert is_refusal(await api.post("/ojs/v1/jobs/batch", {"jobs": [JOB]}), 2, 2)
    assert is_refusal(await api.post("/ojs/v1/workflows", {"type": "chain", "steps": [JOB]}), 2, 2)
    stats = await api.get("/ojs/v1/queues/mail/stats")
    assert (stats.json["stats"]["depth"], stats.json["stats"]["queue"]) == (2, "mail")
    await api.fetch("mail")
    assert (await api.post("/ojs/v1/jobs", JOB)).status == 201


async def test_the_bound_of_a_queue_is_shown_and_removed(api: Api) -> None:
    shown = {"max_depth": 2, "strategy": "reject", "warning_threshold": 0.8}
    assert (await bound(api, 2)).json["backpressure"] == shown
    found = (await api.get(CONFIG)).json
    assert (found["config"]["backpressure"], found["partitions"]) == (shown, 1)
    gone = await api.call("PUT", CONFIG, {"backpressure": None})
    assert "backpressure" not in gone.json
    for _ in range(3):
        assert (await api.post("/ojs/v1/jobs", JOB)).status == 201


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"max_depth": -1}, 400),
        ({"max_depth": 2**60}, 400),
        ({"max_depth": "many"}, 400),
        ({"max_depth": 1, "warning_threshold": 2}, 400),
        ({"max_depth": 1, "surprise": True}, 400),
        ({"strategy": "reject"}, 400),
        ({"max_depth": 1, "strategy": "drop_newest"}, 422),
        ({"max_depth": 1, "max_size_bytes": 5}, 422),
    ],
)
async def test_an_invalid_bound_is_refused(api: Api, wrong: Any, status: int) -> None:
    reply = await api.call("PUT", CONFIG, {"backpressure": wrong, "partitions": 2})
    assert reply.status == status, reply.body
    assert (await api.get(CONFIG)).json["config"] == {
        "partitions": 1,
        "on_exhaustion": "discard",
    }


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_both_entry_points_refuse_by_the_servers_bound(
    standalone: Embedded, lane: bool
) -> None:
    settings = StoreSettings(max_queue_depth=1)
    async with open_app(standalone, store=settings) as app, serving(app, lane=lane) as port:
        assert (await exchange(port, request("POST", "/ojs/v1/jobs", JOB)))[0] == 201
        status, headers, _ = await exchange(port, request("POST", "/ojs/v1/jobs", JOB))
        assert (status, headers["x-ojs-queue-depth"], headers["x-ojs-queue-bound"]) == (
            429,
            "1",
            "1",
        )


async def test_responses_warn_of_a_queue_that_is_nearly_full(api: Api) -> None:
    """The suite ext-backpressure 003, with the jobs that it only describes."""
    await bound(api, 10, warning_threshold=0.5)
    replies = [await api.post("/ojs/v1/jobs", JOB) for _ in range(7)]
    shown = [reply.headers.get("x-ojs-queue-pressure") for reply in replies]
    assert shown == [None] * 5 + ["0.6", "0.7"]
    assert replies[-1].headers["x-ojs-queue-depth"] == "7"
    assert replies[-1].headers["x-ojs-queue-bound"] == "10"
    batch = await api.post("/ojs/v1/jobs/batch", {"jobs": [JOB, JOB]})
    assert batch.headers["x-ojs-queue-pressure"] == "0.9"


async def waiting(api: Api, count: int) -> None:
    """Wait until so many requests wait for room."""

    async def all_wait() -> bool:
        return api.app.blocked.count == count

    await until(all_wait)


BLOCK: Final = {"OJS-Block-Timeout": "60"}


async def test_a_blocked_request_is_stored_when_a_worker_takes_a_job(api: Api) -> None:
    await bound(api, 1, strategy="block")
    assert (await api.post("/ojs/v1/jobs", JOB)).status == 201
    stored: list[int] = []
    waiting_free = api.app.body_memory.waiting_free

    async def enqueue(path: str, body: dict[str, Any]) -> None:
        stored.append((await api.post(path, body, headers=BLOCK)).status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enqueue, "/ojs/v1/jobs", JOB)
        nursery.start_soon(enqueue, "/ojs/v1/jobs/batch", {"jobs": [JOB]})
        await waiting(api, 2)
        assert (await api.get("/ojs/v1/queues/mail")).json["available"] == 1
        taken = 0
        while len(stored) < 2 or taken < 3:
            taken += len(await api.fetch("mail"))
            await trio.sleep(0.01)
    assert stored == [201, 201]
    assert api.app.blocked.count == 0
    assert api.app.body_memory.waiting_free == waiting_free


@pytest.mark.parametrize(
    ("path", "call", "body"),
    [("jobs", "enqueue", JOB), ("jobs/batch", "enqueue_many", {"jobs": [JOB]})],
)
async def test_a_blocked_request_counts_once_for_its_tenant(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str, call: str, body: dict[str, Any]
) -> None:
    original, tries = getattr(store_enqueue, call), 0

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal tries
        tries += 1
        return await original(*args, **options)

    await bound(api, 1, strategy="block")
    assert (await api.post("/ojs/v1/jobs", JOB)).status == 201
    limits = {"max_enqueue_rate": {"limit": 2, "period": "PT1H"}}
    await api.call("PUT", "/ojs/v1/admin/tenants/a/limits", limits)
    tenant = {"X-OJS-Tenant": "a"}
    monkeypatch.setattr(store_enqueue, call, counted)

    async def stored() -> None:
        reply = await api.post(f"/ojs/v1/{path}", body, headers={**tenant, **BLOCK})
        assert reply.status == 201

    async def tried_often() -> bool:
        return tries > 3

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stored)
        await until(tried_often)
        assert len(await api.fetch("mail")) == 1
    monkeypatch.undo()
    assert len(await api.fetch("mail")) == 1
    statuses = [(await api.post("/ojs/v1/jobs", JOB, headers=tenant)).status for _ in range(2)]
    assert statuses == [201, 429]


async def test_a_request_waits_only_if_the_queue_and_the_client_say_so(api: Api) -> None:
    await bound(api, 1, strategy="block")
    await api.post("/ojs/v1/jobs", JOB)
    for headers in ({}, {"OJS-Block-Timeout": "0"}, {"OJS-Block-Timeout": "1"}):
        refused = await api.post("/ojs/v1/jobs", JOB, headers=headers)
        assert is_refusal(refused, 1, 1)
        assert refused.error["details"]["strategy"] == "block"
    await bound(api, 1)
    assert is_refusal(await api.post("/ojs/v1/jobs", JOB, headers=BLOCK), 1, 1)
    for wrong in ("-1", "1.5", "soon", "9" * 10):
        refused = await api.post("/ojs/v1/jobs", JOB, headers={"OJS-Block-Timeout": wrong})
        assert (refused.status, refused.error["code"]) == (400, "invalid_request")


async def test_a_drain_of_the_process_ends_the_wait(api: Api) -> None:
    await bound(api, 1, strategy="block")
    await api.post("/ojs/v1/jobs", JOB)
    async with trio.open_nursery() as nursery:

        async def refused() -> None:
            assert is_refusal(await api.post("/ojs/v1/jobs", JOB, headers=BLOCK), 1, 1)

        nursery.start_soon(refused)
        await waiting(api, 1)
        api.app.drain()


async def test_the_number_of_blocked_requests_is_bounded(api: Api) -> None:
    await bound(api, 1, strategy="block")
    await api.post("/ojs/v1/jobs", JOB)
    api.app.blocked.count = MAX_BLOCKED
    with trio.fail_after(30):
        assert is_refusal(await api.post("/ojs/v1/jobs", JOB, headers=BLOCK), 1, 1)


async def test_the_memory_of_blocked_requests_is_bounded(api: Api) -> None:
    await bound(api, 1, strategy="block")
    await api.post("/ojs/v1/jobs", JOB)
    memory = api.app.body_memory
    assert memory.waiting_free == memory.free // 4
    memory.waiting_free = 10
    with trio.fail_after(30):
        assert is_refusal(await api.post("/ojs/v1/jobs", JOB, headers=BLOCK), 1, 1)
    assert memory.waiting_free == 10


async def test_jobs_that_can_never_fit_do_not_wait(api: Api) -> None:
    await bound(api, 1, strategy="block")
    with trio.fail_after(30):
        refused = await api.post("/ojs/v1/jobs/batch", {"jobs": [JOB, JOB]}, headers=BLOCK)
    assert is_refusal(refused, 0, 1)


async def test_new_jobs_of_a_batch_with_known_unique_jobs_wait_for_room(api: Api) -> None:
    await bound(api, 1, strategy="block")
    once = {"queue": "mail", "unique": {"keys": ["type"], "on_conflict": "ignore"}}
    known: dict[str, Any] = {"type": "known", "args": [], "options": once}
    new = {**known, "type": "new"}
    assert (await api.post("/ojs/v1/jobs", known)).status == 201
    async with trio.open_nursery() as nursery:

        async def stored() -> None:
            body = {"jobs": [known, new]}
            assert (await api.post("/ojs/v1/jobs/batch", body, headers=BLOCK)).status == 201

        nursery.start_soon(stored)
        await waiting(api, 1)
        assert len(await api.fetch("mail")) == 1


@pytest.mark.parametrize(
    ("size", "partitions", "asks_first"), [(20_000, 1, True), (10, 1, False), (20_000, 4, False)]
)
async def test_a_large_blocked_request_sends_its_jobs_only_when_they_fit(
    api: Api,
    standalone: Embedded,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    partitions: int,
    asks_first: bool,
) -> None:
    """With several partitions, the answer for one of them says nothing about the next try."""
    with observer(standalone) as db:
        await spread(api.app.store, db, partitions, "mail")
    await bound(api, 4, strategy="block")
    while (await api.post("/ojs/v1/jobs", JOB)).status == 201 or (
        await api.get("/ojs/v1/queues/mail")
    ).json["available"] < 4:
        pass
    job = {**JOB, "args": ["x" * size]}
    tries = 0
    original = store_enqueue.enqueue_many

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 2:
            api.app.drain()
        return await original(*args, **options)

    checks = 0

    async def counted_check(*args: Any) -> None:
        nonlocal checks
        checks += 1
        api.app.drain()  # the next try is the last
        await check_bounds(*args)

    monkeypatch.setattr("ojs_cluster.http.blocking.check_bounds", counted_check)
    monkeypatch.setattr(store_enqueue, "enqueue_many", counted)
    refused = await api.post("/ojs/v1/jobs/batch", {"jobs": [job]}, headers=BLOCK)
    assert (refused.status, refused.error["code"]) == (429, "QUEUE_FULL")
    assert tries == 2 if asks_first else tries >= 2  # at the beginning and at the end
    assert (checks > 0) is asks_first


async def test_maintenance_mode_ends_the_wait(api: Api) -> None:
    await bound(api, 1, strategy="block")
    await api.post("/ojs/v1/jobs", JOB)
    async with trio.open_nursery() as nursery:

        async def refused() -> None:
            with trio.fail_after(30):
                reply = await api.post("/ojs/v1/jobs", JOB, headers=BLOCK)
            assert reply.status == 503

        nursery.start_soon(refused)
        await waiting(api, 1)
        api.app.maintenance.set(Maintenance(frozenset({"enqueue"})))


async def test_a_dropped_job_says_why_it_was_discarded(api: Api) -> None:
    shown = await bound(api, 1, strategy="drop_oldest")
    assert shown.json["backpressure"]["strategy"] == "drop_oldest"
    oldest = await api.enqueue(options={"queue": "mail"})
    assert (await api.post("/ojs/v1/jobs/batch", {"jobs": [JOB]})).status == 201
    job = (await api.get(f"/ojs/v1/jobs/{oldest['id']}")).json["job"]
    assert (job["state"], job["error"]["type"], job["attempt"]) == ("discarded", "overflow", 0)
    history = await api.get(f"/ojs/v1/jobs/{oldest['id']}/history")
    assert history.status == 200, history.body
    [event] = (await api.get("/ojs/v1/events?types=backpressure.dropped")).json["events"]
    assert event["data"] == {"job_id": oldest["id"], "job_type": oldest["type"], "queue": "mail"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("jobs", JOB),
        ("jobs/batch", {"jobs": [JOB]}),
        ("jobs/bulk", {"jobs": [JOB]}),
        ("workflows", {"type": "chain", "steps": [JOB]}),
    ],
)
async def test_refusals_of_a_queue_are_announced_once_in_a_while(
    api: Api, path: str, body: dict[str, Any]
) -> None:
    await bound(api, 1)
    await api.post("/ojs/v1/jobs", JOB)
    for _ in range(3):
        await api.post(f"/ojs/v1/{path}", body)

    async def announced() -> Any:
        return (await api.get("/ojs/v1/events?types=backpressure.*")).json["events"]

    with trio.fail_after(60):
        while len(events := await announced()) < 2:  # noqa: ASYNC110 - the events come later
            await trio.sleep(0.01)
    data = {"queue": "mail", "depth": 1, "bound": 1}
    found = {event["type"]: (event["subject"], event["data"]) for event in events}
    assert found == {
        "backpressure.warning": ("mail", data),
        "backpressure.rejected": ("mail", {**data, "job_type": "t"}),
    }
