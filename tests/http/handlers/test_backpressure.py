"""Queues with a bound over HTTP (spec: ojs-backpressure 6 and 7)."""

from __future__ import annotations

from typing import Any, Final

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.settings import StoreSettings
from tests.http.api import Api, Reply, open_app, serving
from tests.http.test_entry_points import exchange, request

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
    shown = {"max_depth": 2, "strategy": "reject"}
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
        ({"max_depth": 1, "strategy": "drop_oldest"}, 422),
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
