"""Producers that use the library's client: plain, unique and retried jobs, batches and chains."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

import trio

from ojs_client import (
    ApiError,
    Client,
    Conflict,
    ConnectionFailed,
    Job,
    RetryPolicy,
    Unique,
    chain,
    new_job,
)
from tests.chaos.faults import HEALED_WITHIN_S
from tests.chaos.history import Answer, Enqueue, History, NewJob, Outcome, Workflow
from tests.chaos.producers import new_id
from tests.kill.library.ledger import Ledger
from tests.kill.library.worker import QUEUES

PATIENCE_S: Final = HEALED_WITHIN_S + 120.0
"""How long a producer repeats a request, in seconds: longer than any fault."""
FINGERPRINTS: Final = 4
MAX_UNFETCHED: Final = 50
"""The producers pause while more jobs wait for their first fetch. A busy machine may run fewer jobs
than they enqueue, and workers fetch earlier queues first, so jobs of the last queue would wait
until the end of the round."""
STEPS: Final = ("first", "second", "third")
_CONFLICTS: Final[tuple[Literal["reject", "ignore", "replace"], ...]] = (
    "reject",
    "ignore",
    "replace",
)
_RETRY: Final = RetryPolicy(
    max_attempts=100, initial_interval=0.1, backoff_coefficient=1, jitter=False
)


@dataclass(slots=True)
class Producers:
    """All producers of a round.

    Attributes:
        client: sends the requests.
        history: gets the requests and their outcomes.
        seed: chooses the jobs.
        ledger: knows the fetched jobs.
    """

    client: Client
    history: History
    seed: int
    ledger: Ledger
    _unfetched: set[str] = field(default_factory=set)
    """Jobs without a known fetch. Unique jobs are not among them, because others replace them."""
    _stop: trio.Event = field(default_factory=trio.Event)
    _number: int = 0

    async def run(self) -> None:
        """Enqueue until stopped."""
        kinds = (self._plain, self._plain, self._unique, self._retried, self._batch, self._chain)
        async with trio.open_nursery() as nursery:
            for number, kind in enumerate(kinds):
                chance = random.Random(f"{self.seed} producer {number}")
                nursery.start_soon(self._repeat, kind, chance)

    def stop(self) -> None:
        self._stop.set()

    async def hold(self, count: int) -> list[str]:
        """Enqueue jobs that end when the test says so; return their ids."""
        chance = random.Random(f"{self.seed} held")
        return [await self._one("kill.holds", chance, own_id=True) for _ in range(count)]

    async def _repeat(self, kind: object, chance: random.Random) -> None:
        assert callable(kind)
        while not self._stop.is_set():
            await kind(chance)
            await trio.sleep(chance.uniform(0.02, 0.15))
            while len(self._unfetched) > MAX_UNFETCHED and not self._stop.is_set():
                self.ledger.read()
                self._unfetched -= self.ledger.fetched
                await trio.sleep(0.1)

    async def _plain(self, chance: random.Random) -> None:
        type_ = chance.choice(("kill.plain", "kill.plain", "kill.thread"))
        await self._one(type_, chance, own_id=chance.random() < 0.7)

    async def _retried(self, chance: random.Random) -> None:
        await self._one("kill.retried", chance, chance.randint(1, 3), own_id=True)

    async def _one(self, type_: str, chance: random.Random, *args: int, own_id: bool) -> str:
        queue, job_id = chance.choice(QUEUES), new_id(chance) if own_id else ""
        job = NewJob(job_id, queue)
        sent = time.monotonic()
        try:
            if own_id:
                made = await self.client.enqueue(
                    type_, *args, queue=queue, retry=_RETRY, job_id=job_id
                )
            else:
                made = await self.client.enqueue(type_, *args, queue=queue, retry=_RETRY)
        except (ApiError, ConnectionFailed) as error:
            if own_id:
                raise
            self._refused([job], sent, error)
            return ""
        self._made([job], sent, [made])
        return made.id

    async def _unique(self, chance: random.Random) -> None:
        number = chance.randrange(FINGERPRINTS)
        how = chance.choice(_CONFLICTS)
        queue, job_id = chance.choice(QUEUES), new_id(chance)
        job = NewJob(job_id, queue, fingerprint=f"unique-{number}", on_conflict=how)
        sent = time.monotonic()
        try:
            made = await self.client.enqueue(
                "kill.unique",
                number,
                queue=queue,
                retry=_RETRY,
                job_id=job_id,
                unique=Unique(on_conflict=how),
            )
        except Conflict as error:
            self._refused([job], sent, error)
        else:
            self._made([job], sent, [made])

    async def _batch(self, chance: random.Random) -> None:
        queues = [chance.choice(QUEUES) for _ in range(chance.randint(2, 5))]
        jobs = [NewJob(new_id(chance), queue) for queue in queues]
        sent = time.monotonic()
        try:
            made = await self.client.enqueue_many(
                new_job("kill.plain", queue=job.queue, retry=_RETRY, job_id=job.id) for job in jobs
            )
        except (ApiError, ConnectionFailed) as error:
            self._refused(jobs, sent, error)
        else:
            self._made(jobs, sent, made)

    async def _chain(self, chance: random.Random) -> None:
        self._number += 1
        tag = f"{self.seed}-{self._number}"
        steps = [
            new_job("kill.step", tag, name, number, queue=chance.choice(QUEUES), retry=_RETRY)
            for number, name in enumerate(STEPS)
        ]
        sent, id_ = time.monotonic(), ""
        try:
            id_ = (await self.client.start(chain(*steps, name=tag))).id
        except (ApiError, ConnectionFailed) as error:
            answer = Answer(sent, time.monotonic(), _outcome(error))
        else:
            answer = Answer(sent, time.monotonic(), "done", 201)
        order = {name: [before] for before, name in pairwise(STEPS)}
        self.history.workflows.append(Workflow(tag, id_, answer, order))

    def _made(self, jobs: Sequence[NewJob], sent: float, made: Sequence[Job]) -> None:
        answer = Answer(sent, time.monotonic(), "done", 201)
        existing = made[0].deduplicated and made[0].id != jobs[0].id
        named = [
            job
            if job.id
            else NewJob(it.id, job.queue, fingerprint=job.fingerprint, on_conflict=job.on_conflict)
            for job, it in zip(jobs, made, strict=True)
        ]
        self.history.enqueues.append(Enqueue(tuple(named), answer, existing))
        self._unfetched.update(job.id for job in named if not job.fingerprint)

    def _refused(
        self, jobs: Sequence[NewJob], sent: float, error: ApiError | ConnectionFailed
    ) -> None:
        if isinstance(error, ApiError) and error.status == 500:
            self.history.errors.append(f"enqueue {error}")
        answer = Answer(sent, time.monotonic(), _outcome(error))
        self.history.enqueues.append(Enqueue(tuple(jobs), answer))


def _outcome(error: ApiError | ConnectionFailed) -> Outcome:
    if error.applied is False:
        return "refused"
    details = error.details if isinstance(error, ApiError) else {}
    return "unconfirmed" if details.get("outcome") == "stored_unconfirmed" else "unknown"
