"""Workers that use every operation of a worker: complete, fail, requeue, stop silently, die."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from tests.chaos.client import JSON, V1, ChaosClient
from tests.chaos.history import Answer, Lease
from tests.chaos.names import CROWDED, HASTY, KEYS, ORDERED, QUEUES, TENANTS

_LEASE_MS: Final = 3000
_BEAT_S: Final = 0.7
_BEATING: Final = 2
_PLAIN: Final = 6
_AT_ONCE: Final = 8
"""How many queues a fetch names at most."""
_UNWANTED: Final = 0.3
"""Share of the time for which a worker is absent after its death."""


@dataclass(slots=True)
class Crew:
    """All workers. ``calm``: no job fails any more, so that all work can end."""

    make_client: Callable[[str], ChaosClient]
    calm: bool = False
    stop: trio.Event = field(default_factory=trio.Event)
    _scopes: dict[str, trio.CancelScope] = field(default_factory=dict)

    async def run(self) -> None:
        """Run all workers until they are stopped; restart one that was killed."""
        async with trio.open_nursery() as nursery:
            for number in range(_PLAIN):
                nursery.start_soon(self._keep, f"plain-{number}", False, QUEUES)
            for number in range(_BEATING):
                nursery.start_soon(self._keep, f"beating-{number}", True, QUEUES)
            nursery.start_soon(self._keep, "ordered", False, (ORDERED,))
            for tenant in (CROWDED, HASTY):
                nursery.start_soon(self._keep, f"of-{tenant}", False, (TENANTS,), tenant)

    def kill(self, choice: float) -> str:
        """Kill a worker at once; its jobs stay with their leases."""
        if not self._scopes:
            return "no worker"  # none has begun yet
        name = sorted(self._scopes)[int(choice * len(self._scopes))]
        self._scopes[name].cancel()
        return f"worker {name}"

    async def _keep(self, name: str, beats: bool, queues: Sequence[str], tenant: str = "") -> None:
        client = self.make_client(name)
        lives = 0
        while not self.stop.is_set():
            lives += 1
            # Directives of operators and records of the server are about the first name.
            own = name if lives == 1 else f"{name}-{lives}"
            worker = Worker(client, self, own, queues, beats, tenant)
            with trio.CancelScope() as scope:
                self._scopes[name] = scope
                await worker.run()
            await trio.sleep(client.chance.uniform(0, _UNWANTED))


@dataclass(slots=True)
class Worker:
    """One worker under one name."""

    client: ChaosClient
    crew: Crew
    name: str
    queues: Sequence[str]
    beats: bool
    tenant: str = ""
    """The tenant whose jobs the worker fetches, empty for all."""
    _held: dict[str, str] = field(default_factory=dict)
    """Job to lease."""

    @property
    def _chance(self) -> random.Random:
        return self.client.chance

    async def run(self) -> None:
        """Fetch and finish jobs until the worker is stopped or quits."""
        async with trio.open_nursery() as nursery:
            if self.beats:
                nursery.start_soon(self._beat)
            while not self.crew.stop.is_set():
                await self._round()
                if self.beats and not self.crew.calm and self._chance.random() < 0.01:
                    await self._say("terminate")
                    break
            nursery.cancel_scope.cancel()

    async def _round(self) -> None:
        queues = self._chance.sample(self.queues, min(_AT_ONCE, len(self.queues)))
        count = 1 if len(queues) == 1 else self._chance.choice((1, 2, 5))
        body: JSON = {"queues": queues, "count": count, "worker_id": self.name}
        body |= {"wait_ms": self._chance.choice((0, 200, 1500)), "visibility_timeout_ms": _LEASE_MS}
        if self.tenant:
            body["tenant"] = self.tenant
        told = await self.client.send("POST", f"{V1}/workers/fetch", body)
        if not told.done:
            if told.answer.possible:
                self.client.history.unanswered_fetches.append(told.answer)
            await trio.sleep(self._chance.uniform(0.05, 0.3))
            return
        jobs: list[JSON] = told.body["jobs"]
        for job in jobs:
            self.client.history.leases.append(self._lease(job, told.answer))
            self._held[job["id"]] = job["lease_id"]
        await trio.sleep(self._chance.uniform(0, 0.05))
        if len(jobs) > 1 and self._chance.random() < 0.3:
            await self._ack_many(jobs)
        else:
            for job in jobs:
                await self._finish(job)
        for job in jobs:
            self._held.pop(job["id"], None)
        if not jobs:
            await trio.sleep(self._chance.uniform(0, 0.1))

    def _lease(self, job: JSON, answer: Answer) -> Lease:
        options, meta = job.get("rate_limit") or {}, job.get("meta") or {}
        key = options.get("key", "")
        occurrence = (meta["cron_name"], meta["cron_triggered_at"]) if "cron_name" in meta else None
        return Lease(
            job=job["id"],
            lease=job["lease_id"],
            worker=self.name,
            attempt=job["attempt"],
            length=min(_LEASE_MS, job.get("timeout_ms") or _LEASE_MS) / 1000,
            answer=answer,
            queue=job["queue"],
            priority=job.get("priority", 0),
            key=key if key in KEYS else "",
            step=(job["args"][0], job["args"][1]) if job["type"] == "chaos.step" else None,
            occurrence=occurrence,
            item=(job["args"][0], job["args"][1]) if job["type"] == "chaos.keyed" else None,
            tenant=meta.get("tenant_id", ""),
            asked_for=self.tenant,
            beats=self.beats,
        )

    async def _finish(self, job: JSON) -> None:
        how = 1.0 if self.crew.calm or self.queues == (ORDERED,) else self._chance.random()
        if how < 0.02:
            return  # it falls silent about this job
        if how < 0.04:
            await trio.sleep(_LEASE_MS / 1000 + 0.5)  # and comes back too late
        if how < 0.12 or (how < 0.6 and job["queue"] == "chaos-dead"):
            retryable = self._chance.random() < 0.8
            error = {"code": "chaos", "message": "now and then", "retryable": retryable}
            # Jobs that must complete fail only in ways that lead to a retry.
            keeps = job["queue"] != "chaos-dead" and job["type"] != "chaos.step"
            error["retryable"] = keeps or retryable
            await self.client.settle("nack", job, self.name, {"error": error})
        elif how < 0.15:
            await self.client.settle("requeue", job, self.name, {"requeue": True})
        else:
            await self.client.settle("ack", job, self.name, {"result": {"by": self.name}})

    async def _ack_many(self, jobs: Sequence[JSON]) -> None:
        """Acknowledge jobs in one request; acknowledge one by one the jobs that have no result in
        it.
        """
        told = await self.client.ack_many(jobs, self.name)
        results = told.body.get("results", ()) if told.done else ()
        for number, job in enumerate(jobs):
            result = results[number] if number < len(results) else {}
            settled = told.done and result.get("state") == "completed"
            if not told.done or settled:
                self.client.note_settle("ack", job, self.name, told.answer)
            if not settled:
                if told.done:
                    # Repeat the request at once to learn the outcome: refused, unconfirmed or
                    # unknown.
                    unknown = Answer(told.answer.sent, told.answer.answered, "unknown")
                    self.client.note_settle("ack", job, self.name, unknown)
                await self.client.settle("ack", job, self.name, {})

    async def _beat(self) -> None:
        while True:
            await self._say("running")
            await trio.sleep(_BEAT_S)

    async def _say(self, state: str) -> None:
        body: JSON = {"worker_id": self.name, "active_jobs": list(self._held), "state": state}
        body |= {"leases": dict(self._held), "visibility_timeout_ms": _LEASE_MS}
        await self.client.send("POST", f"{V1}/workers/heartbeat", body)
