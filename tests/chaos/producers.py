"""Producers of every kind of job, and operators. Each uses its own part of the seed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import trio

from tests.chaos.client import JSON, V1, ChaosClient, Told
from tests.chaos.history import NewJob, Workflow

ANY_QUEUES: Final = ("chaos-a", "chaos-b", "chaos-c")
SPREAD: Final = "chaos-spread"
LIMITED: Final = "chaos-limited"
ORDERED: Final = "chaos-ordered"
PURGED: Final = "chaos-purged"
DEAD: Final = "chaos-dead"
STEPS: Final = "chaos-steps"
CRON: Final = "chaos-cron"
PAUSED: Final = "chaos-paused"
QUEUES: Final = (*ANY_QUEUES, SPREAD, LIMITED, ORDERED, PURGED, DEAD, STEPS, CRON, PAUSED)

QUEUE_LIMIT: Final = 3
KEYS: Final = {"tenant-a": 1, "tenant-b": 3}
FINGERPRINTS: Final = ("invoice-1", "invoice-2", "invoice-3")
CRONS: Final = {"skip": "@every 2s", "allow": "*/2 * * * * *", "enqueue": "*/3 * * * * *"}
CANCELLING_CRON: Final = "cancel_previous"

_FOR_GOOD: Final = {
    "max_attempts": 100,
    "initial_interval": "PT0.2S",
    "backoff_coefficient": 1.0,
    "jitter": False,
}
"""Such a job ends only by an ack or a request."""
_FEW: Final = {**_FOR_GOOD, "max_attempts": 2, "on_exhaustion": "dead_letter"}


@dataclass(slots=True)
class Known:
    """What producers leave for operators, newest last, and when to stop."""

    jobs: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    workflows: list[str] = field(default_factory=list)
    stop: trio.Event = field(default_factory=trio.Event)


class Producer:
    """One client that enqueues, or operates, in a loop."""

    def __init__(self, client: ChaosClient, known: Known) -> None:
        self._client = client
        self._chance = client.chance
        self._known = known
        self._number = 0

    async def run(self, step: Callable[[Producer], Awaitable[None]], pause_s: float) -> None:
        """Repeat a step until the run stops."""
        while not self._known.stop.is_set():
            await step(self)
            await trio.sleep(self._chance.uniform(0, 2 * pause_s))

    # -- jobs ---------------------------------------------------------------------------------

    async def plain(self) -> None:
        """Enqueue a job with any schedule, priority and id."""
        chance = self._chance
        queue = chance.choice((*ANY_QUEUES, SPREAD, LIMITED, PAUSED, PURGED))
        options: JSON = {"retry": _FOR_GOOD, "priority": chance.randint(-2, 2)}
        kind = chance.random()
        if kind < 0.2:
            options["scheduled_at"] = f"+PT{chance.uniform(0.2, 3):.1f}S"
        elif kind < 0.25:
            options["expires_at"] = f"+PT{chance.uniform(0.5, 5):.1f}S"
        elif kind < 0.3:
            options["timeout_ms"] = 1500
        elif kind < 0.35:
            options["pending"] = True
        told, job = await self._one(queue, options)
        if told.done and options.get("pending"):
            self._known.pending.append(told.body["job"]["id"] if told.body.get("job") else job.id)
        elif told.done and told.body.get("job"):
            self._known.jobs.append(told.body["job"]["id"])

    async def doomed(self) -> None:
        """Enqueue a job with few attempts, which may become a dead letter."""
        await self._one(DEAD, {"retry": _FEW})

    async def ordered(self) -> None:
        """Enqueue a job in the queue whose order is checked."""
        await self._one(ORDERED, {"retry": _FOR_GOOD, "priority": self._chance.randint(0, 2)})

    async def unique(self) -> None:
        """Enqueue a unique job."""
        conflict = self._chance.choice(
            ("reject", "ignore", "replace", "replace", "replace_except_schedule")
        )
        fingerprint = self._chance.choice(FINGERPRINTS)
        options: JSON = {
            "retry": _FOR_GOOD,
            "unique": {"key": fingerprint, "on_conflict": conflict},
        }
        if self._chance.random() < 0.3:
            options["scheduled_at"] = "+PT1S"
        queue = self._chance.choice(ANY_QUEUES)
        await self._one(queue, options, fingerprint=fingerprint, on_conflict=conflict)

    async def limited(self) -> None:
        """Enqueue a job with a rate limit key."""
        key = self._chance.choice(list(KEYS))
        on_limit = self._chance.choice(("wait", "wait", "wait", "reschedule", "drop"))
        limit = {"key": key, "concurrency": KEYS[key], "on_limit": on_limit}
        options = {"retry": _FOR_GOOD, "rate_limit": limit}
        await self._one(self._chance.choice(ANY_QUEUES), options, key=key)

    async def batch(self) -> None:
        """Enqueue several jobs over several shards, one of them perhaps unique."""
        jobs = []
        for _ in range(self._chance.randint(2, 6)):
            queue = self._chance.choice((*ANY_QUEUES, SPREAD, ORDERED))
            jobs.append(self._job(queue, {"retry": _FOR_GOOD}, own_id=True))
        if self._chance.random() < 0.4:
            fingerprint = self._chance.choice(FINGERPRINTS)
            conflict = self._chance.choice(("reject", "replace"))
            options = {"retry": _FOR_GOOD, "unique": {"key": fingerprint, "on_conflict": conflict}}
            jobs.append(
                self._job(
                    *(self._chance.choice(ANY_QUEUES), options),
                    own_id=True,
                    fingerprint=fingerprint,
                    on_conflict=conflict,
                )
            )
        await self._client.enqueue(jobs)

    async def _one(self, queue: str, options: JSON, **more: str) -> tuple[Told, NewJob]:
        # If the response is lost, only a job with an id can be found again, so rules apply to such
        # jobs.
        own_id = bool(more) or self._chance.random() < 0.7
        job, body = self._job(queue, options, own_id=own_id, **more)
        return await self._client.enqueue([(job, body)]), job

    def _job(self, queue: str, options: JSON, *, own_id: bool, **more: str) -> tuple[NewJob, JSON]:
        id_ = new_id(self._chance) if own_id else ""
        type_ = "chaos.unique" if "fingerprint" in more else "chaos.job"
        body: JSON = {"type": type_, "args": [], "options": {"queue": queue, **options}}
        if id_:
            body["id"] = id_
        return NewJob(id_, queue, int(options.get("priority", 0)), **more), body

    # -- workflows ----------------------------------------------------------------------------

    async def workflow(self) -> None:
        """Create a chain, a group, or a batch with callbacks."""
        self._number += 1
        tag = f"{self._chance.randrange(1 << 48):x}-{self._number}"
        kind = self._chance.choice(("chain", "group", "batch"))
        names = [f"s{n}" for n in range(self._chance.randint(2, 4))]
        steps = [self._step(tag, name) for name in names]
        body: JSON = {"type": kind, "name": tag, ("steps" if kind == "chain" else "jobs"): steps}
        waits_for: dict[str, Sequence[str]] = {}
        ends_of: dict[str, Sequence[str]] = {}
        if kind == "chain":
            waits_for = {name: [before] for before, name in pairwise(names)}
        if kind == "batch":
            called = ("on_complete", "on_success", "on_failure")
            body["callbacks"] = {name: self._step(tag, name) for name in called}
            waits_for = {"on_success": names}
            ends_of = {"on_complete": names, "on_failure": names}
        told = await self._client.send("POST", f"{V1}/workflows", body)
        id_ = told.body.get("id") or told.details.get("workflow_id") or ""
        self._client.history.workflows.append(
            Workflow(tag, str(id_), told.answer, waits_for, ends_of)
        )
        if told.done:
            self._known.workflows.append(str(id_))

    def _step(self, tag: str, name: str) -> JSON:
        retry = {**_FOR_GOOD, "max_attempts": self._chance.choice((1, 100, 100, 100))}
        options = {"queue": STEPS, "retry": retry}
        return {"type": "chaos.step", "id": name, "args": [tag, name], "options": options}

    # -- operators ----------------------------------------------------------------------------

    async def operate(self) -> None:
        """Do one random operation of an operator."""
        acts: Sequence[Callable[[], Awaitable[Any]]] = (
            self._look,
            self._look,
            self._cancel,
            self._activate,
            self._retry_dead,
            self._purge,
            self._switch,
            self._quiet,
            self._cancel_workflow,
            self._read_pages,
        )
        await self._chance.choice(acts)()

    async def _look(self) -> None:
        if self._known.jobs:
            await self._client.look(self._chance.choice(self._known.jobs[-200:]))

    async def _cancel(self) -> None:
        if self._known.jobs:
            id_ = self._chance.choice(self._known.jobs[-20:])
            await self._client.command("cancel", id_, f"{V1}/jobs/{id_}/cancel")

    async def _activate(self) -> None:
        if self._known.pending:
            id_ = self._known.pending.pop()
            if self._chance.random() < 0.3:
                await self._client.command("cancel", id_, f"{V1}/jobs/{id_}/cancel")
            else:
                await self._client.command("activate", id_, f"{V1}/jobs/{id_}/activate")

    async def _retry_dead(self) -> None:
        told = await self._client.send("GET", f"{V1}/dead-letter?queue={DEAD}&limit=20")
        found = [job["id"] for job in told.body.get("jobs", ())]
        if found:
            id_ = self._chance.choice(sorted(found))
            await self._client.command("retry", id_, f"{V1}/dead-letter/{id_}/retry")

    async def _purge(self) -> None:
        path = f"{V1}/queues/{PURGED}/purge"
        await self._client.command("purge", PURGED, path, {"confirm": True})

    async def _switch(self) -> None:
        await self._client.send("POST", f"{V1}/queues/{PAUSED}/pause")
        await trio.sleep(self._chance.uniform(0, 1))
        await self._client.insist("POST", f"{V1}/queues/{PAUSED}/resume")

    async def _quiet(self) -> None:
        body: JSON = {"worker_ids": [f"beating-{self._chance.randrange(2)}"]}
        path = f"{V1}/admin/workers/directive"
        await self._client.send("POST", path, {**body, "directive": "quiet"})
        await trio.sleep(self._chance.uniform(0, 1))
        await self._client.insist("POST", path, {**body, "directive": "resume"})

    async def _cancel_workflow(self) -> None:
        if self._known.workflows and self._chance.random() < 0.3:
            id_ = self._chance.choice(self._known.workflows[-5:])
            await self._client.command("cancel_workflow", id_, f"{V1}/workflows/{id_}/cancel")

    async def _read_pages(self) -> None:
        pages = ("/queues", "/jobs?limit=20", "/workflows?limit=20", "/admin/stats", "/cron")
        await self._client.send("GET", V1 + self._chance.choice(pages))


STEPS_OF_A_LOAD: Final[Sequence[tuple[str, Callable[[Producer], Awaitable[None]], float]]] = (
    ("plain-0", Producer.plain, 0.1),
    ("plain-1", Producer.plain, 0.1),
    ("doomed", Producer.doomed, 0.5),
    ("ordered", Producer.ordered, 0.2),
    ("unique-0", Producer.unique, 0.2),
    ("unique-1", Producer.unique, 0.2),
    ("limited", Producer.limited, 0.3),
    ("batch", Producer.batch, 0.4),
    ("workflow", Producer.workflow, 0.8),
    ("operator", Producer.operate, 0.3),
)
"""Name, what is repeated, and mean pause in seconds."""


def new_id(chance: Any) -> str:
    """Return a UUIDv7 that depends on the seed except for its time, which does not affect the
    shard.
    """
    value = bytearray(uuid.UUID(int=chance.getrandbits(128)).bytes)
    value[:6] = (time.time_ns() // 1_000_000).to_bytes(6, "big")
    value[6] = 0x70 | value[6] & 0x0F
    value[8] = 0x80 | value[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(value)))
