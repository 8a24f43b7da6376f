"""Worker pools over HTTP (spec: ojs-fair-scheduling 10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.statistics.record_minutes import MinuteRecorder
from tests.http.access.test_scopes import access_of, bearer
from tests.http.api import Api, open_app

POOLS = "/ojs/v1/admin/pools"
STATS = "/ojs/v1/admin/scheduling/stats"
FETCH = "/ojs/v1/workers/fetch"


@pytest.fixture
async def keyed(standalone: Embedded) -> AsyncIterator[Api]:
    """An API with a key for all queues, and one for those that begin with ``mail-``."""
    async with open_app(standalone, access=access_of("key-admin", "mail")) as app:
        yield Api(app)


async def enqueue(api: Api, queue: str, number: int, **given: Any) -> None:
    jobs = [{"type": "t", "args": [], "options": {"queue": queue}} for _ in range(number)]
    reply = await api.call("POST", "/ojs/v1/jobs/batch", {"jobs": jobs}, **given)
    assert reply.status == 201, reply.body


async def fetched(api: Api, **members: Any) -> Counter[str]:
    reply = await api.post(FETCH, {"worker_id": "w", **members})
    assert reply.status == 200, reply.body
    return Counter(job["queue"] for job in reply.json["jobs"])


async def test_both_forms_of_a_pool_mean_the_same(any_api: Api) -> None:
    as_map = {"strategy": "weighted", "queues": {"high": {"weight": 70}, "low": {"weight": 30}}}
    reply = await any_api.call("PUT", f"{POOLS}/one", {"name": "one", **as_map})
    assert reply.status == 201, reply.body
    as_list = {"strategy": "weighted", "queues": ["high", "low"]}
    weights = {"high": 70, "low": 30}
    await any_api.call("PUT", f"{POOLS}/two", {**as_list, "weights": weights})
    listed = (await any_api.get(POOLS)).json
    assert listed["items"] == listed["pools"]
    for pool, name in zip(listed["pools"], ("one", "two"), strict=True):
        assert pool.items() >= (await any_api.get(f"{POOLS}/{name}")).json["pool"].items()
        assert pool["name"] == name
        assert {**pool, **as_list, "weights": weights} == pool
    replaced = await any_api.call("PUT", f"{POOLS}/two", {"queues": ["high"]})
    assert (replaced.status, replaced.json["pool"]["strategy"]) == (200, "round-robin")
    assert (await any_api.call("DELETE", f"{POOLS}/two")).json == {"deleted": True, "name": "two"}
    for method in ("GET", "DELETE"):
        assert (await any_api.call(method, f"{POOLS}/two")).status == 404


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"queues": []}, 400, "queues"),
        ({"queues": {}}, 400, "queues"),
        ({"queues": ["a"], "name": "other"}, 400, "name"),
        ({"queues": ["a"], "strategy": "random"}, 400, "strategy"),
        ({"queues": {"a": {"weight": 0}}, "strategy": "weighted"}, 400, "weights"),
        ({"queues": {"a": {}}, "weights": {"a": 1}}, 400, "weights"),
        ({"queues": ["a"], "weights": {"b": 1}}, 400, "weights"),
        ({"queues": ["a"], "surprise": 1}, 400, "surprise"),
        ({"queues": ["a"], "concurrency": 20}, 422, "concurrency"),
        ({"queues": ["a"], "isolated": True}, 422, "isolated"),
        ({"queues": ["a"], "starvation_prevention": {"enabled": True}}, 422, None),
    ],
)
async def test_what_would_have_no_effect_is_refused(
    any_api: Api, body: dict[str, Any], status: int, field: str | None
) -> None:
    reply = await any_api.call("PUT", f"{POOLS}/p", body)
    assert reply.status == status, reply.body
    assert field is None or reply.error["details"]["field"] == field
    assert (await any_api.get(f"{POOLS}/p")).status == 404
    off = {"isolated": False, "starvation_prevention": {"enabled": False}, "concurrency": None}
    assert (await any_api.call("PUT", f"{POOLS}/p", {"queues": ["a"], **off})).status == 201


async def test_a_pool_that_was_changed_in_between_is_not_replaced(any_api: Api) -> None:
    path = "/ojs/v1/admin/pools/shared"

    async def put(queue: str, **more: Any) -> Any:
        return await any_api.call("PUT", path, {"queues": [queue], **more})

    first = (await put("a", updated_at=None)).json["updated_at"]
    taken = await put("b", updated_at=None)
    assert (taken.status, taken.json["error"]["details"]["updated_at"]) == (409, first)
    second = (await put("b", updated_at=first)).json["updated_at"]
    assert (await put("c", updated_at=first)).status == 409
    assert (await any_api.get(path)).json["queues"] == ["b"]
    assert (await put("d")).status == 200, "without it a client replaces what there is"
    await any_api.call("DELETE", path)
    gone = await put("e", updated_at=second)
    assert (gone.status, "there is none" in gone.json["error"]["message"]) == (409, True)
    assert (await put("f", updated_at=7)).status == 400


async def test_the_statistics_are_those_of_the_fetches(any_api: Api) -> None:
    empty = (await any_api.get(STATS)).json
    nothing = {"pools": [], "queues": [], "dispatch_count": 0}
    assert empty["stats"] == {"window": "PT1M", "strategy": "strict", **nothing}
    weights = {"high": {"weight": 70}, "low": {"weight": 30}}
    pool = {"strategy": "weighted", "queues": weights}
    await any_api.call("PUT", f"{POOLS}/p", pool)
    for queue in weights:
        await enqueue(any_api, queue, 30)
    found: Counter[str] = Counter()
    for _ in range(10):
        found += await fetched(any_api, pool="p", count=2)
    assert found == {"high": 14, "low": 6}
    stats = (await any_api.get(STATS)).json["stats"]
    assert stats["dispatch_count"] == 20
    [shown] = stats["pools"]
    assert (shown["fetches"], shown["dispatch_count"]) == (10, 20)
    assert shown["queues"] == [
        {
            "name": "high",
            "dispatch_count": 14,
            "dispatch_ratio": 0.7,
            "configured_ratio": 0.7,
        },
        {"name": "low", "dispatch_count": 6, "dispatch_ratio": 0.3, "configured_ratio": 0.3},
    ]
    await any_api.call("PUT", f"{POOLS}/p", {**pool, "strategy": "strict"})
    assert (await any_api.get(STATS)).json["stats"]["pools"][0]["fetches"] == 0


async def test_the_statistics_have_the_last_minute_of_each_queue(any_api: Api) -> None:
    store, now = any_api.app.store, any_api.app.store.clock.now_ms() // 60_000
    recorder = MinuteRecorder(store)
    await any_api.call("PUT", f"{POOLS}/p", {"queues": ["a", "b", "c"]})
    await any_api.call("PUT", f"{POOLS}/q", {"queues": ["a"], "strategy": "strict"})
    for queue, number in (("a", 4), ("b", 2), ("c", 1)):
        await enqueue(any_api, queue, number)
    await recorder.record(now - 1)
    await any_api.post("/ojs/v1/queues/c/pause")
    assert await fetched(any_api, pool="p", queues=["a"], count=3) == {"a": 3}
    await store.job_counts.flush(store)
    await recorder.record(now)
    stats = (await any_api.get(STATS)).json
    assert (stats["window"], stats["strategy"]) == ("PT1M", "mixed")
    a, b, c = stats["queues"]
    numbers = {"dispatched": 3, "weight": 1, "dispatch_count_1m": 3, "dispatch_ratio_1m": 1.0}
    assert a.items() >= {**numbers, "active_jobs": 3, "starved": False}.items()
    assert a["avg_wait_ms"] == 0
    assert b.items() >= {"dispatched": 0, "dispatch_count_1m": 0, "starved": True}.items()
    assert c["starved"] is False, "a paused queue is not starved"


async def test_minutes_of_long_ago_say_nothing_of_now(api: Api) -> None:
    minute = api.app.store.clock.now_ms() // 60_000 - 9
    await api.call("PUT", f"{POOLS}/p", {"queues": ["a"]})
    await enqueue(api, "a", 1)
    await MinuteRecorder(api.app.store).record(minute)
    [queue] = (await api.get(STATS)).json["queues"]
    assert (queue["dispatch_count_1m"], queue["starved"]) == (0, False)


async def test_a_list_of_pools_has_their_workers_and_active_jobs(any_api: Api) -> None:
    await any_api.call("PUT", f"{POOLS}/mail", {"queues": ["a", "b"]})
    await any_api.call("PUT", f"{POOLS}/shop", {"queues": ["c"]})
    for worker, told in (
        ("w1", {"queues": ["b"], "concurrency": 5}),
        ("w2", {"queues": ["a", "c"], "concurrency": 9}),
        ("w3", {"pool": "shop", "queues": ["a"], "concurrency": 2}),
        ("w4", {"queues": "a", "pool": 7, "concurrency": "many"}),
    ):
        beat = await any_api.post("/ojs/v1/workers/heartbeat", {"worker_id": worker, **told})
        assert beat.status == 200, beat.body
    await enqueue(any_api, "b", 2)
    await fetched(any_api, queues=["b"], count=2)
    listed = (await any_api.get(POOLS)).json["items"]
    numbers = ("id", "workers", "active_workers", "active_jobs", "concurrency")
    assert [tuple(pool[name] for name in numbers) for pool in listed] == [
        ("mail", 1, 1, 2, 5),
        ("shop", 1, 1, 0, 2),
    ]


async def test_a_fetch_may_narrow_the_queues_of_its_pool(any_api: Api) -> None:
    await any_api.call("PUT", f"{POOLS}/p", {"queues": ["a", "b", "c"]})
    for queue in "abc":
        await enqueue(any_api, queue, 4)
    assert await fetched(any_api, pool="p", queues=["c", "other", "a"], count=4) == {
        "a": 2,
        "c": 2,
    }
    assert await fetched(any_api, pool="p", count=4) == {"a": 1, "b": 2, "c": 1}
    # A fetch without a pool keeps the order of its queues.
    assert await fetched(any_api, queues=["c", "a"], count=2) == {"c": 1, "a": 1}


async def test_a_fetch_that_names_nothing_or_an_unknown_pool_is_refused(any_api: Api) -> None:
    await any_api.call("PUT", f"{POOLS}/p", {"queues": ["a"]})
    for body, status in (
        ({}, 400),
        ({"queues": []}, 400),
        ({"pool": "Not A Name"}, 400),
        ({"pool": "p", "queues": ["b"]}, 400),
        ({"pool": "q"}, 404),
        ({"pool": "q", "queues": ["a"]}, 404),
    ):
        reply = await any_api.post(FETCH, body)
        assert reply.status == status, (body, reply.body)


async def test_a_waiting_fetch_gets_the_first_job_of_any_queue_of_its_pool(any_api: Api) -> None:
    await any_api.call("PUT", f"{POOLS}/p", {"queues": ["a", "b"]})
    found: list[Counter[str]] = []

    async def wait() -> None:
        found.append(await fetched(any_api, pool="p", wait_ms=20_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        while not any_api.app.waiters:  # noqa: ASYNC110 - the beginning of a wait has no event
            await trio.sleep(0.01)
        await enqueue(any_api, "b", 1)
    assert found == [{"b": 1}]


async def test_a_restricted_key_has_pools_of_its_queues_only(keyed: Api) -> None:
    admin, mail = bearer("key-admin"), bearer("mail")

    async def call(method: str, target: str, body: Any = None, **given: Any) -> int:
        return (await keyed.call(method, target, body, **given)).status

    mixed = {"queues": ["mail-a", "other"]}
    assert await call("PUT", f"{POOLS}/mixed", mixed, headers=mail) == 403
    assert await call("PUT", f"{POOLS}/mixed", mixed, headers=admin) == 201
    own = {"queues": ["mail-a", "mail-b"]}
    assert await call("PUT", f"{POOLS}/own", own, headers=mail) == 201
    # The pool of others is neither shown nor replaced nor deleted, and its jobs are not fetched.
    assert await call("PUT", f"{POOLS}/mixed", own, headers=mail) == 403
    assert await call("DELETE", f"{POOLS}/mixed", headers=mail) == 404
    assert await call("GET", f"{POOLS}/mixed", headers=mail) == 404
    assert await call("POST", FETCH, {"pool": "mixed"}, headers=mail) == 403
    assert await call("POST", FETCH, {"pool": "mixed", "queues": ["mail-a"]}, headers=mail) == 200
    assert await call("POST", FETCH, {"pool": "own"}, headers=mail) == 200
    for target in (POOLS, STATS):
        shown = (await keyed.get(target, headers=mail)).json["pools"]
        assert [pool["name"] for pool in shown] == ["own"]
    assert await call("DELETE", f"{POOLS}/own", headers=mail) == 200
