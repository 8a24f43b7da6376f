"""The fake server shows jobs as a server does."""

from __future__ import annotations

from typing import Any

from ojs_client import Discard, Retry, RetryPolicy, RunningJob, Unique
from ojs_cluster.server.embedded.servers import Embedded
from tests.client_library.fake.worlds import LATER, SOON, World, in_loop, new_worker
from tests.client_library.workers import QUEUE, job_in
from tests.http.api import open_app, serving


async def test_envelopes_have_the_same_members(standalone: Embedded) -> None:
    """Of a job in each state. Only ids and times differ."""
    async with open_app(standalone) as app, serving(app, lane=True) as port:
        seen = await envelopes(f"http://127.0.0.1:{port}")
    assert await envelopes(None) == seen


async def envelopes(url: str | None) -> dict[str, Any]:
    """Return the envelope of a job in each state, without ids and times."""
    worker = new_worker()

    @worker.handler("t.ends")
    async def ends(job: RunningJob) -> Any:
        match job.args[0]:
            case "discarded":
                raise Discard("no")
            case "retryable":
                raise Retry("again", code="busy")
        if job.attempt == 1:
            raise Retry("again")
        await job.progress(0.5, data={"rows": 7})
        return {"n": 1}

    shown: dict[str, Any] = {}

    async def scenario(world: World) -> None:
        client = world.client
        retry = RetryPolicy(initial_interval=SOON, jitter=False, non_retryable_errors=["x.*"])
        later = RetryPolicy(
            initial_interval=LATER, jitter=False, strategy="linear", on_exhaustion="dead_letter"
        )
        common: Any = {"queue": QUEUE, "timeout": 9, "tags": ["a"]}
        async with world.running(worker):
            for state in ("completed", "discarded", "retryable"):
                policy = later if state == "retryable" else retry
                enqueued = await client.enqueue("t.ends", state, **common, retry=policy)
                await world.passes(10 * SOON)
                shown[state] = dict((await job_in(client, enqueued.id, state)).members)
        unique = Unique(keys=["queue", "meta"], meta_keys=["m"], args_keys=["0"], period=90)
        waiting: dict[str, Any] = {
            "available": {"unique": unique, "meta": {"m": 1}},
            "scheduled": {"delay": LATER, "expires": 2 * LATER},
        }
        for state, options in waiting.items():
            enqueued = await client.enqueue("t.ends", state, **common, **options)
            shown[state] = dict((await client.get(enqueued.id)).members)
        shown["cancelled"] = dict((await client.cancel(enqueued.id)).members)
        for members in shown.values():
            for name in [name for name in members if name.endswith("_at") or name == "id"]:
                assert isinstance(members[name], str)
                members[name] = ""
            for error in [*members.get("errors", ()), members.get("error", {})]:
                error.pop("occurred_at", None)

    await in_loop(scenario, url, "asyncio")
    return shown
