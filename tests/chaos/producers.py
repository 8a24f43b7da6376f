"""Producers of every kind of job. Each uses its own part of the seed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Self

import trio

from tests.chaos.client import JSON, V1, ChaosClient, Told
from tests.chaos.history import NewJob, Workflow
from tests.chaos.names import (
    ANY_QUEUES,
    DEAD,
    FINGERPRINTS,
    FOR_GOOD,
    KEYS,
    LIMITED,
    ORDERED,
    PAUSED,
    PURGED,
    SPREAD,
    STEPS,
)

_FEW: Final = {**FOR_GOOD, "max_attempts": 2, "on_exhaustion": "dead_letter"}


@dataclass(slots=True)
class Known:
    """What producers leave for operators, newest last, and when to stop."""

    jobs: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    workflows: list[str] = field(default_factory=list)
    of_tenants: list[tuple[str, str]] = field(default_factory=list)
    """Tenant and job."""
    requests: dict[str, JSON] = field(default_factory=dict)
    """Idempotency key to the body of its bulk request."""
    stop: trio.Event = field(default_factory=trio.Event)


class Producer:
    """One client that enqueues, or operates, in a loop."""

    def __init__(self, client: ChaosClient, known: Known) -> None:
        self.client = client
        self.chance = client.chance
        self.known = known
        self._number = 0

    async def run(self, step: Callable[[Self], Awaitable[None]], pause_s: float) -> None:
        """Repeat a step until the run stops."""
        while not self.known.stop.is_set():
            await step(self)
            await trio.sleep(self.chance.uniform(0, 2 * pause_s))

    # -- jobs ---------------------------------------------------------------------------------

    async def plain(self) -> None:
        """Enqueue a job with any schedule, priority and id."""
        chance = self.chance
        queue = chance.choice((*ANY_QUEUES, SPREAD, LIMITED, PAUSED, PURGED))
        options: JSON = {"retry": FOR_GOOD, "priority": chance.randint(-2, 2)}
        kind = chance.random()
        if kind < 0.2:
            options["scheduled_at"] = f"+PT{chance.uniform(0.2, 3):.1f}S"
        elif kind < 0.25:
            options["expires_at"] = f"+PT{chance.uniform(0.5, 5):.1f}S"
        elif kind < 0.3:
            options["timeout_ms"] = 1500
        elif kind < 0.35:
            options["pending"] = True
        told, job = await self.one(queue, options)
        if told.done and options.get("pending"):
            self.known.pending.append(told.body["job"]["id"] if told.body.get("job") else job.id)
        elif told.done and told.body.get("job"):
            self.known.jobs.append(told.body["job"]["id"])

    async def doomed(self) -> None:
        """Enqueue a job with few attempts, which may become a dead letter."""
        await self.one(DEAD, {"retry": _FEW})

    async def ordered(self) -> None:
        """Enqueue a job in the queue whose order is checked."""
        await self.one(ORDERED, {"retry": FOR_GOOD, "priority": self.chance.randint(0, 2)})

    async def unique(self) -> None:
        """Enqueue a unique job."""
        conflict = self.chance.choice(
            ("reject", "ignore", "replace", "replace", "replace_except_schedule")
        )
        fingerprint = self.chance.choice(FINGERPRINTS)
        options: JSON = {
            "retry": FOR_GOOD,
            "unique": {"key": fingerprint, "on_conflict": conflict},
        }
        if self.chance.random() < 0.3:
            options["scheduled_at"] = "+PT1S"
        queue = self.chance.choice(ANY_QUEUES)
        await self.one(queue, options, fingerprint=fingerprint, on_conflict=conflict)

    async def limited(self) -> None:
        """Enqueue a job with a rate limit key."""
        key = self.chance.choice(list(KEYS))
        on_limit = self.chance.choice(("wait", "wait", "wait", "reschedule", "drop"))
        limit = {"key": key, "concurrency": KEYS[key], "on_limit": on_limit}
        options = {"retry": FOR_GOOD, "rate_limit": limit}
        await self.one(self.chance.choice(ANY_QUEUES), options, key=key)

    async def batch(self) -> None:
        """Enqueue several jobs over several shards, one of them perhaps unique."""
        jobs = []
        for _ in range(self.chance.randint(2, 6)):
            queue = self.chance.choice((*ANY_QUEUES, SPREAD, ORDERED))
            jobs.append(self._job(queue, {"retry": FOR_GOOD}, own_id=True))
        if self.chance.random() < 0.4:
            fingerprint = self.chance.choice(FINGERPRINTS)
            conflict = self.chance.choice(("reject", "replace"))
            options = {"retry": FOR_GOOD, "unique": {"key": fingerprint, "on_conflict": conflict}}
            jobs.append(
                self._job(
                    *(self.chance.choice(ANY_QUEUES), options),
                    own_id=True,
                    fingerprint=fingerprint,
                    on_conflict=conflict,
                )
            )
        await self.client.enqueue(jobs)

    async def one(self, queue: str, options: JSON, **more: str) -> tuple[Told, NewJob]:
        """Enqueue one job; ``more`` has further attributes of ``NewJob``."""
        # If the response is lost, only a job with an id can be found again, so rules apply to such
        # jobs.
        own_id = bool(more) or self.chance.random() < 0.7
        job, body = self._job(queue, options, own_id=own_id, **more)
        return await self.client.enqueue([(job, body)]), job

    def _job(self, queue: str, options: JSON, *, own_id: bool, **more: str) -> tuple[NewJob, JSON]:
        id_ = new_id(self.chance) if own_id else ""
        type_ = "chaos.unique" if "fingerprint" in more else "chaos.job"
        body: JSON = {"type": type_, "args": [], "options": {"queue": queue, **options}}
        if "tenant" in more:
            body["meta"] = {"tenant_id": more["tenant"]}
        if id_:
            body["id"] = id_
        due_s, expires_s = (_seconds(options.get(it, "")) for it in ("scheduled_at", "expires_at"))
        priority = int(options.get("priority", 0))
        return NewJob(id_, queue, priority, due_s=due_s, expires_s=expires_s, **more), body

    # -- workflows ----------------------------------------------------------------------------

    async def workflow(self) -> None:
        """Create a chain, a group, or a batch with callbacks."""
        self._number += 1
        tag = f"{self.chance.randrange(1 << 48):x}-{self._number}"
        kind = self.chance.choice(("chain", "group", "batch"))
        names = [f"s{n}" for n in range(self.chance.randint(2, 4))]
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
        told = await self.client.send("POST", f"{V1}/workflows", body)
        id_ = told.body.get("id") or told.details.get("workflow_id") or ""
        self.client.history.workflows.append(
            Workflow(tag, str(id_), told.answer, waits_for, ends_of)
        )
        if told.done:
            self.known.workflows.append(str(id_))

    def _step(self, tag: str, name: str) -> JSON:
        retry = {**FOR_GOOD, "max_attempts": self.chance.choice((1, 100, 100, 100))}
        options = {"queue": STEPS, "retry": retry}
        return {"type": "chaos.step", "id": name, "args": [tag, name], "options": options}


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
)
"""Name, what is repeated, and mean pause in seconds."""


def _seconds(after: str) -> float:
    """Return the number of seconds in ``+PT1.5S``; 0 for an empty text."""
    return float(after.removeprefix("+PT").removesuffix("S") or 0)


def new_id(chance: Any) -> str:
    """Return a UUIDv7 that depends on the seed except for its time, which does not affect the
    shard.
    """
    value = bytearray(uuid.UUID(int=chance.getrandbits(128)).bytes)
    value[:6] = (time.time_ns() // 1_000_000).to_bytes(6, "big")
    value[6] = 0x70 | value[6] & 0x0F
    value[8] = 0x80 | value[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(value)))
