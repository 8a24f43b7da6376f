"""Unique jobs over HTTP, through a proxy over several nodes of several processes each."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import trio

from ojs_cluster.server.embedded.servers import Embedded
from tests.support.nodes import ApiNode
from tests.support.proxy import proxy
from tests.support.servers import flush

PRODUCERS = 64
QUEUES = [f"unique-{number}" for number in range(8)]
JOBS = "/ojs/v1/jobs"

_types = itertools.count()


@pytest.fixture(scope="module", params=["standalone_server", "cluster_servers"])
def nodes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Two nodes of two API processes each; gives the proxy's URL. No scheduler helps them."""
    backend: Embedded = request.getfixturevalue(request.param)
    flush(backend)
    directory = tmp_path_factory.mktemp("nodes")
    with ExitStack() as stack:
        api = [ApiNode(f"node-{n}", directory, backend.url, workers=2) for n in range(2)]
        for node in api:
            stack.callback(node.stop)
            node.process.start()
        for node in api:
            node.await_ready(120)
        yield stack.enter_context(proxy(directory, [node.address for node in api]))


def job(number: int, job_type: str, policy: str) -> dict[str, Any]:
    unique = {"keys": ["type"], "on_conflict": policy}
    return {
        "type": job_type,
        "args": [number],
        "options": {"queue": QUEUES[number % len(QUEUES)], "unique": unique},
    }


async def all_at_once(url: str, policy: str) -> tuple[str, list[httpx.Response]]:
    """Every producer sends its job, and sends it again when the response asks for that."""
    job_type = f"t.n{next(_types)}"
    answers: list[httpx.Response] = []
    timeout = httpx.Timeout(120)
    limits = httpx.Limits(max_connections=None)

    async with httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits) as client:

        async def produce(number: int) -> None:
            while True:
                answer = await client.post(JOBS, json=job(number, job_type, policy))
                if answer.status_code != 503:
                    answers.append(answer)
                    return
                # Others kept the lock for so long that this one gave up, with nothing stored.
                assert answer.json()["error"]["details"]["outcome"] == "not_applied", answer.text

        with trio.fail_after(300):
            async with trio.open_nursery() as nursery:
                for number in range(PRODUCERS):
                    nursery.start_soon(produce, number)
    return job_type, answers


async def fetched(url: str) -> list[dict[str, Any]]:
    """All jobs that any worker can get; they are completed, for the next test."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        taken = await client.post(
            "/ojs/v1/workers/fetch", json={"queues": QUEUES, "count": 99, "worker_id": "w"}
        )
        for one in taken.json()["jobs"]:
            body = {"job_id": one["id"], "worker_id": "w"}
            assert (await client.post("/ojs/v1/workers/ack", json=body)).status_code == 200
    jobs: list[dict[str, Any]] = taken.json()["jobs"]
    return jobs


async def test_of_producers_that_reject_one_creates_the_job(nodes: str) -> None:
    job_type, answers = await all_at_once(nodes, "reject")

    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: PRODUCERS - 1}
    [created] = [answer.json()["job"] for answer in answers if answer.status_code == 201]
    refused = [answer.json()["error"] for answer in answers if answer.status_code == 409]
    assert {error["code"] for error in refused} == {"duplicate"}
    assert {error["details"]["existing_job_id"] for error in refused} == {created["id"]}
    [only] = await fetched(nodes)
    assert (only["id"], only["type"]) == (created["id"], job_type)


async def test_of_producers_that_ignore_all_get_the_one_job(nodes: str) -> None:
    job_type, answers = await all_at_once(nodes, "ignore")

    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: PRODUCERS - 1}
    assert sum(answer.json().get("deduplicated", False) for answer in answers) == PRODUCERS - 1
    [job_id] = {answer.json()["job"]["id"] for answer in answers}
    [only] = await fetched(nodes)
    assert (only["id"], only["type"]) == (job_id, job_type)


@pytest.mark.parametrize("policy", ["replace", "replace_except_schedule"])
async def test_of_producers_that_replace_one_job_is_left(nodes: str, policy: str) -> None:
    job_type, answers = await all_at_once(nodes, policy)

    assert {answer.status_code for answer in answers} == {201}
    ids = [answer.json()["job"]["id"] for answer in answers]
    assert len(set(ids)) == PRODUCERS
    async with httpx.AsyncClient(base_url=nodes, timeout=120) as client:
        states = Counter(
            [(await client.get(f"{JOBS}/{job_id}")).json()["job"]["state"] for job_id in ids]
        )
    assert states == {"available": 1, "cancelled": PRODUCERS - 1}
    [only] = await fetched(nodes)
    assert only["id"] in ids
    assert only["type"] == job_type
