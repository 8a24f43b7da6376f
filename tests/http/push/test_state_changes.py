"""Each transition of a stored job is a ``job.state_changed`` (spec: ojs-realtime 4.1)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ojs_cluster.core.jobs.states import TRANSITIONS, State
from ojs_cluster.http.app import App
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.engine.queues.deadlines import promote, reap
from ojs_cluster.store.ground import job_fields as f
from tests.http.api import Api, open_app, serving
from tests.http.push.reading import events

LATER = "2100-01-01T00:00:00Z"
RETRY = {"retry": {"initial_interval": "PT5M", "max_attempts": 9}}


class Jobs:
    """Leads jobs of one queue through transitions, without waiting for a time."""

    def __init__(self, app: App) -> None:
        self.app, self.api = app, Api(app)
        self.shard = app.store.keys.shard_of_queue("default")
        self.wanted: list[tuple[str, str, str]] = []

    def expect(self, job: dict[str, Any], *states: str) -> None:
        self.wanted += [(job["id"], a, b) for a, b in pairwise(states)]

    async def make(self, **members: Any) -> dict[str, Any]:
        return await self.api.enqueue(**{"options": RETRY, **members})

    async def post(self, path: str, **body: Any) -> None:
        reply = await self.api.post(f"/ojs/v1/{path}", body)
        assert reply.status in (200, 201), (path, reply.body)

    async def score(self, key: bytes, job: dict[str, Any], field: bytes | None = None) -> None:
        """Give the job a deadline in the past."""
        call, slot = self.app.store.redis.call, self.shard.slot
        await call(slot, "ZADD", key, 1, job["id"])
        if field is not None:
            await call(slot, "HSET", self.shard.job(job["id"]), field, 1)


async def every_transition(jobs: Jobs) -> None:
    api, shard, store = jobs.api, jobs.shard, jobs.app.store

    job = await jobs.make(scheduled_at=LATER)
    await jobs.score(shard.due, job)
    await promote(store, shard, 10)
    [fetched] = await api.fetch()
    await jobs.post("workers/nack", job_id=job["id"], error={"message": "x"})
    await jobs.score(shard.due, job)
    await promote(store, shard, 10)
    await api.fetch()
    await jobs.post("workers/nack", job_id=job["id"], error={"message": "x"}, requeue=True)
    await api.fetch()
    await jobs.score(shard.active, job, f.DEADLINE)
    await reap(store, shard, 10)
    await api.fetch()
    await jobs.post("workers/ack", job_id=job["id"])
    assert fetched["id"] == job["id"]
    jobs.expect(
        job,
        *("scheduled", "available", "active", "retryable", "available", "active", "available"),
        *("active", "available", "active", "completed"),
    )

    once = {"retry": {"max_attempts": 1, "on_exhaustion": "dead_letter"}}
    job = await jobs.make(options=once)
    await api.fetch()
    await jobs.post("workers/nack", job_id=job["id"], error={"message": "x"})
    await jobs.post(f"dead-letter/{job['id']}/retry")
    await api.delete(f"/ojs/v1/jobs/{job['id']}")
    jobs.expect(job, "available", "active", "discarded", "available", "cancelled")

    for state, members in (
        ("pending", {"options": {**RETRY, "pending": True}}),
        ("scheduled", {"scheduled_at": LATER}),
        ("available", {}),
    ):
        job = await jobs.make(**members)
        await api.delete(f"/ojs/v1/jobs/{job['id']}")
        jobs.expect(job, state, "cancelled")
        job = await jobs.make(**members)
        await jobs.score(shard.expiring, job, f.EXPIRES)
        await reap(store, shard, 10)
        jobs.expect(job, state, "discarded")

    job = await jobs.make(options={**RETRY, "pending": True})
    await jobs.post(f"jobs/{job['id']}/activate")
    jobs.expect(job, "pending", "available")
    await api.fetch()
    await api.delete(f"/ojs/v1/jobs/{job['id']}")
    jobs.expect(job, "available", "active", "cancelled")

    job = await jobs.make()
    await jobs.post(f"agents/{job['id']}/pause", reason="approve")
    await jobs.post(f"agents/{job['id']}/resume", approved=True)
    await jobs.post(f"agents/{job['id']}/pause", reason="approve")
    await api.delete(f"/ojs/v1/jobs/{job['id']}")
    jobs.expect(job, "available", "pending", "available", "pending", "cancelled")

    for end in ("cancelled", "discarded"):
        job = await jobs.make()
        await api.fetch()
        await jobs.post("workers/nack", job_id=job["id"], error={"message": "x"})
        if end == "cancelled":
            await api.delete(f"/ojs/v1/jobs/{job['id']}")
        else:
            await jobs.score(shard.expiring, job, f.EXPIRES)
            await reap(store, shard, 10)
        jobs.expect(job, "available", "active", "retryable", end)


async def test_every_transition_names_both_states(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app) as port:
        jobs = Jobs(app)
        await jobs.api.post("/ojs/v1/queues/default/resume")
        target = "/ojs/v1/events/stream?channel=queue:default&types=job.state_changed"
        async with events(port, target) as stream:
            await every_transition(jobs)

            found = await stream.take(len(jobs.wanted))

    seen = [(event.data["job_id"], event.data["from"], event.data["to"]) for event in found]
    assert seen == jobs.wanted
    allowed = {pair for changes in TRANSITIONS.values() for pair in changes.items()}
    assert {(State(a), State(b)) for _, a, b in seen} == allowed
