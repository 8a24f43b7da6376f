"""Fill the server, then produce and process jobs until cancelled."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any, Final

import trio

from ojs_cluster.server.demo import shop
from ojs_cluster.server.demo.client import DemoClient, DemoError
from ojs_cluster.server.demo.shop import DemoWorker

log = logging.getLogger("ojs.demo")

_ORDER_EVERY_S: Final = 2.0
_WORKFLOW_EVERY: Final = 5
"""Number of orders per workflow."""
_FIRST_ORDERS: Final = 30
_WAIT_MS: Final = 2000
_STEPS: Final = 5
"""Number of reports of the progress of one job."""
_LONG_S: Final = 5.0
"""Jobs that take at least so many seconds report their progress."""
_PAUSE_S: Final = 5.0
"""Pause in seconds after a request that failed, and of a worker that gets no jobs."""


async def run_demo(client: DemoClient) -> None:
    """Run the demo until cancelled. An error of the server is logged, and the demo goes on.

    Args:
        client: a client with all scopes.
    """
    await _until_done(partial(fill, client))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_produce, client)
        for worker in shop.WORKERS:
            nursery.start_soon(_work, client, worker)


async def fill(client: DemoClient) -> None:
    """Store what the demo begins with. Data of an earlier run is kept.

    Raises:
        DemoError: the server did not answer, or refused a request.
    """
    for cron in shop.CRONS:
        await client.send("POST", "/cron", cron)
    for queue, limits in shop.LIMITS.items():
        await client.send("PUT", f"/admin/queues/{queue}/rate-limit", limits)
    queues = (await client.send("GET", "/queues?limit=100"))["queues"]
    if any(queue["name"] == shop.PAUSED for queue in queues):
        return
    jobs = shop.newsletters()
    for number in range(_FIRST_ORDERS):
        jobs += shop.jobs_of(number)
    await client.send("POST", "/jobs/batch", {"jobs": jobs})
    await client.send("POST", f"/queues/{shop.PAUSED}/pause")
    await client.send("POST", "/workflows", shop.workflow_of(0))


async def _until_done(step: Callable[[], Awaitable[Any]]) -> None:
    """Call ``step`` until it succeeds."""
    while True:
        try:
            await step()
        except DemoError as error:
            log.warning("the demo tries again in %d s: %s", _PAUSE_S, error)
            await trio.sleep(_PAUSE_S)
        else:
            return


async def _produce(client: DemoClient) -> None:
    for number in count(_FIRST_ORDERS):
        jobs = {"jobs": shop.jobs_of(number)}
        await _until_done(partial(client.send, "POST", "/jobs/batch", jobs))
        if number % _WORKFLOW_EVERY == 0:
            order = shop.workflow_of(number)
            await _until_done(partial(client.send, "POST", "/workflows", order))
        await trio.sleep(_ORDER_EVERY_S)


async def _work(client: DemoClient, worker: DemoWorker) -> None:
    """Fetch and process jobs, one at a time, unless the operator has told the worker to stop."""
    while True:
        try:
            state = await _beat(client, worker, [])
            if state != "running":
                await trio.sleep(_PAUSE_S)
                continue
            for job in await _fetch(client, worker):
                await _process(client, worker, job)
        except DemoError as error:
            log.warning("%s tries again in %d s: %s", worker.name, _PAUSE_S, error)
            await trio.sleep(_PAUSE_S)


async def _beat(client: DemoClient, worker: DemoWorker, held: list[str]) -> str:
    """Send a heartbeat; return the state that the operator wants the worker to have."""
    beat = {
        "worker_id": worker.name,
        "hostname": worker.host,
        "queues": worker.queues,
        "language": worker.language,
        "concurrency": 1,
        "active_jobs": held,
    }
    reply = await client.send("POST", "/workers/heartbeat", beat)
    state: str = reply["state"]
    return state


async def _fetch(client: DemoClient, worker: DemoWorker) -> list[dict[str, Any]]:
    body = {"queues": worker.queues, "worker_id": worker.name, "wait_ms": _WAIT_MS}
    reply = await client.send("POST", "/workers/fetch", body)
    jobs: list[dict[str, Any]] = reply.get("jobs", [])
    return jobs


async def _process(client: DemoClient, worker: DemoWorker, job: dict[str, Any]) -> None:
    """Work on a job, and report how it ended."""
    held = {"job_id": job["id"], "worker_id": worker.name, "lease_id": job.get("lease_id")}
    if worker.takes_s < _LONG_S:
        await trio.sleep(worker.takes_s)
    else:
        for done in range(1, _STEPS + 1):
            await trio.sleep(worker.takes_s / _STEPS)
            message = f"{done * 1000} of {_STEPS * 1000} rows"
            report = {**held, "progress": done / _STEPS, "message": message}
            await client.send("POST", "/workers/progress", report)
            await _beat(client, worker, [job["id"]])
    given = job["args"][0] if job["args"] else {}
    number = given.get("number", 0) if isinstance(given, dict) else 0
    error = shop.failure_of(job["type"], number)
    if error is not None:
        await client.send("POST", "/workers/nack", {**held, "error": error})
    else:
        await client.send("POST", "/workers/ack", {**held, "result": {"number": number}})
