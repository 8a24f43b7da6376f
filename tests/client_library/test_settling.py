"""Acks reach the server, whatever happens to other acks or between worker and server."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx2
import pytest

from ojs_client import Client, RunningJob
from tests.client_library.conftest import Server
from tests.client_library.faults import Watched
from tests.client_library.workers import QUEUE, new_worker, serving_jobs, until

UNAVAILABLE = {"code": "unavailable", "message": "the shard does not answer", "retryable": True}


async def test_acks_that_fail_do_not_hold_up_other_acks(server: Server) -> None:
    """The shard of some jobs does not answer. There are more of them than requests at once."""
    away: set[str] = set()
    tried: set[str] = set()

    def refuse(path: str, body: Any) -> httpx2.Response | None:
        if not path.endswith("ack/batch"):
            return None
        ids = {item["job_id"] for item in body["acks"]}
        if not ids <= away:
            return None
        tried.update(ids)
        return httpx2.Response(
            200, json={"results": [{"status": 503, "error": UNAVAILABLE} for _ in body["acks"]]}
        )

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=Watched(instead=refuse), lease=4, heartbeat=0.5)

        @worker.handler("t.short")
        async def short(job: RunningJob) -> None:
            if job.args[0] == "away":
                away.add(job.id)

        async with serving_jobs(worker):
            held = []
            for _ in range(8):
                job = await client.enqueue("t.short", "away", queue=QUEUE)
                await until(partial(away.__contains__, job.id))
                held.append(job.id)
            await until(lambda: len(tried) >= 4)
            for _ in range(3):
                job = await client.enqueue("t.short", "near", queue=QUEUE)
                await client.result(job.id, wait=60)
            # Those of the shard are not given up yet: the others did not wait for that.
            assert worker.held >= len(held)
            away.clear()
            for id in held:
                await client.result(id, wait=60)

    await server.run(scenario)


async def test_a_long_retry_after_does_not_give_an_ack_up(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    refused = 0

    def refuse(path: str, body: Any) -> httpx2.Response | None:
        nonlocal refused
        if not path.endswith("ack/batch") or refused:
            return None
        refused += 1
        return httpx2.Response(503, headers={"Retry-After": "120"})

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=Watched(instead=refuse), lease=4, heartbeat=0.5)

        @worker.handler("t.short")
        async def short(job: RunningJob) -> str:
            return "kept"

        async with serving_jobs(worker):
            job = await client.enqueue("t.short", queue=QUEUE)
            await until(lambda: refused)
            assert worker.held == 1
            assert await client.result(job.id, wait=60) == "kept"

    await server.run(scenario)
    assert "is lost" not in caplog.text


async def test_an_ack_without_an_answer_is_given_up_after_three_leases(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: str, body: Any) -> httpx2.Response | None:
        return httpx2.Response(503) if path.endswith("ack/batch") else None

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=Watched(instead=refuse), lease=1, heartbeat=0.2)

        @worker.handler("t.short")
        async def short(job: RunningJob) -> None: ...

        async with serving_jobs(worker):
            await client.enqueue("t.short", queue=QUEUE)
            await until(lambda: worker.held)
            await until(lambda: not worker.held)

    await server.run(scenario)
    assert "its ack is lost" in caplog.text


REPLIES: list[Any] = [
    {},
    {"results": None},
    {"results": []},
    {"results": [{"status": 200}] * 2},
    {"results": ["fine"]},
    {"results": [{}]},
]


async def test_a_malformed_reply_to_an_ack_is_repeated(server: Server) -> None:
    replies: list[Any] = []

    def answer(path: str, body: Any) -> httpx2.Response | None:
        if path.endswith("ack/batch") and replies:
            return httpx2.Response(200, json=replies.pop())
        return None

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=Watched(instead=answer))

        @worker.handler("t.short")
        async def short(job: RunningJob) -> str:
            return "kept"

        async with serving_jobs(worker):
            for reply in REPLIES:
                replies.append(reply)
                job = await client.enqueue("t.short", queue=QUEUE)
                assert await client.result(job.id, wait=60) == "kept"
                assert not replies

    await server.run(scenario)
