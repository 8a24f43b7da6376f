"""Cron jobs in memory, in virtual time: implements ``firing_store.CronStore`` without Redis.

A script's decision is atomic, as in Redis. Each call takes some time, during which a leader may
die, before or after its call took effect.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import trio

from ojs_cluster.core.cron.cron_job import CronDefinition, occurrence_job_id
from ojs_cluster.core.errors import Conflict, Duplicate, NotFound
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.store.features.cron.cron_record import CronRecord
from ojs_cluster.store.features.cron.firing_store import DueCrons, FiringOutcome, OccurrenceDecision

_serial = itertools.count()


@dataclass(slots=True)
class Redis:
    """The state that the leaders share.

    Attributes:
        epoch_ms: Redis's clock at virtual time 0, in milliseconds.
        stored: how often each job id was stored.
    """

    epoch_ms: int
    crons: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    jobs: dict[str, State] = field(default_factory=dict)
    stored: Counter[str] = field(default_factory=Counter)
    fired: list[tuple[str, int, int]] = field(default_factory=list)
    most_active: int = 0

    def now_ms(self) -> int:
        return self.epoch_ms + int(trio.current_time() * 1000)

    def register(self, definition: CronDefinition) -> None:
        now = self.now_ms()
        following = definition.schedule.following(now, now)
        assert following is not None
        self.crons[definition.name] = {
            b"expression": definition.schedule.expression.encode(),
            b"timezone": definition.schedule.timezone.encode(),
            b"overlap_policy": definition.overlap.encode(),
            b"job": definition.job,
            b"queue": definition.queue.encode(),
            b"version": b"1",
            b"anchor": b"%d" % now,
            b"next_occurrence": b"%d" % following.ms,
        }

    def check_ms(self, fields: dict[bytes, bytes]) -> int | None:
        maintenance = fields.get(b"next_maintenance")
        if b"firing" in fields:
            return int(maintenance or 0)
        times = [int(value) for value in (fields.get(b"next_occurrence"), maintenance) if value]
        return min(times, default=None)


@dataclass(frozen=True, slots=True)
class InMemoryCronStore:
    """One leader's connection."""

    redis: Redis
    random: Random

    async def _trip(self) -> None:
        await trio.sleep(self.random.uniform(0, 0.05))

    async def due(self, limit: int) -> DueCrons:
        await self._trip()
        now = self.redis.now_ms()
        checks = [(self.redis.check_ms(fields), name) for name, fields in self.redis.crons.items()]
        due = [name for at, name in checks if at is not None and at <= now][:limit]
        later = min((at for at, _ in checks if at is not None and at > now), default=None)
        await self._trip()
        small = [CronRecord(name, dict(self.redis.crons[name]), now) for name in due]
        return DueCrons(due, now, later, small)

    async def load(self, name: str) -> CronRecord | None:
        await self._trip()
        return CronRecord(name, dict(self.redis.crons[name]), self.redis.now_ms())

    async def claim(self, cron: CronRecord, decision: OccurrenceDecision) -> CronRecord | None:
        await self._trip()
        fields = self.redis.crons[cron.name]
        if b"firing" in fields or fields.get(b"next_occurrence") != b"%d" % (
            decision.occurrence_ms or -1
        ):
            return None
        del fields[b"next_occurrence"]
        if decision.next_ms is not None:
            fields[b"next_occurrence"] = b"%d" % decision.next_ms
        now = self.redis.now_ms()
        open_ = [job_id for job_id in cron.open_runs if job_id not in decision.ended]
        if decision.fire:
            open_.append(decision.job_id)
            assert decision.occurrence_ms is not None
            self.redis.fired.append((cron.name, decision.occurrence_ms, now))
            fields |= {
                b"firing": decision.job_id.encode(),
                b"firing_occurrence": b"%d" % decision.occurrence_ms,
                b"firing_job": fields[b"job"],
                b"firing_cancels": " ".join(decision.cancels).encode(),
                b"firing_held": b"1" if decision.held else b"",
                b"next_maintenance": b"%d" % (now + 2000),
            }
            if decision.held:
                fields[b"held_runs"] = " ".join((*cron.held_runs, decision.job_id)).encode()
        fields[b"open_runs"] = " ".join(open_).encode()
        copy = CronRecord(cron.name, dict(fields), self.redis.now_ms())
        await self._trip()
        return copy

    async def claim_each(
        self, decisions: Sequence[tuple[CronRecord, OccurrenceDecision]]
    ) -> list[CronRecord | None]:
        return [await self.claim(cron, decision) for cron, decision in decisions]

    async def record_delivered(self, firings: Mapping[str, str]) -> None:
        for name, job_id in firings.items():
            await self.record_outcome(name, "delivered", job_id)

    async def ended_runs(self, job_ids: Sequence[str]) -> set[str]:
        await self._trip()
        return {job_id for job_id in job_ids if self.redis.jobs.get(job_id) in TERMINAL}

    async def enqueue_each(self, jobs: Sequence[NewJob], store_before_ms: int) -> set[str]:
        stored = set()
        for job in jobs:
            with suppress(Duplicate):
                stored.add(await self.enqueue(job, store_before_ms, ignore_depth_bound=False))
        return stored

    async def record_outcome(
        self,
        name: str,
        outcome: FiringOutcome,
        firing_id: str,
        ended: Sequence[str] = (),
        released: Sequence[str] = (),
        reason: str = "",
    ) -> None:
        assert outcome in ("delivered", "checked"), "nothing fails here"
        await self._trip()
        fields = self.redis.crons[name]
        if outcome == "delivered" and fields.get(b"firing") == firing_id.encode():
            for key in (
                b"firing",
                b"firing_occurrence",
                b"firing_job",
                b"firing_cancels",
                b"firing_held",
            ):
                del fields[key]
        record = CronRecord(name, fields, self.redis.now_ms())
        fields[b"open_runs"] = " ".join(i for i in record.open_runs if i not in ended).encode()
        held = [i for i in record.held_runs if i not in ended and i not in released]
        fields[b"held_runs"] = " ".join(held).encode()
        if b"firing" not in fields:
            fields[b"next_maintenance"] = b"%d" % (self.redis.now_ms() + 1000) if held else b""
        await self._trip()

    def job_id(self, cron: CronRecord, occurrence_ms: int | None) -> str:
        assert occurrence_ms is not None
        return occurrence_job_id(cron.name, occurrence_ms, 0, 64)

    async def state(self, job_id: str) -> State | None:
        await self._trip()
        return self.redis.jobs.get(job_id)

    async def check_args(self, job: NewJob) -> None:
        return

    async def enqueue(self, job: NewJob, store_before_ms: int, *, ignore_depth_bound: bool) -> str:
        await self._trip()
        assert job.id is not None
        if self.redis.now_ms() >= store_before_ms:
            raise Conflict("too late")
        if job.id in self.redis.jobs:
            raise Duplicate("there already", existing_job_id=job.id)
        self.redis.stored[job.id] += 1
        self.redis.jobs[job.id] = State.PENDING if job.pending else State.AVAILABLE
        await self._trip()
        return job.id

    async def forbid_id(self, job_id: str) -> bool:
        raise AssertionError("no queue of the model is full")

    async def cancel(self, job_id: str) -> None:
        await self._trip()
        if job_id not in self.redis.jobs:
            raise NotFound("job", job_id)
        if self.redis.jobs[job_id] in TERMINAL:
            raise Conflict("ended")
        self.redis.jobs[job_id] = State.CANCELLED
        await self._trip()

    async def activate(self, job_id: str) -> None:
        await self._trip()
        if self.redis.jobs[job_id] is not State.PENDING:
            raise Conflict("not pending")
        self.redis.jobs[job_id] = State.AVAILABLE
        await self._trip()


async def work(redis: Redis, random: Random, longest_s: float) -> None:
    """Run an unlimited number of workers: each available job is fetched, and completed later."""

    async def run(job_id: str) -> None:
        await trio.sleep(random.uniform(0, longest_s))
        if redis.jobs[job_id] is State.ACTIVE:
            redis.jobs[job_id] = State.COMPLETED

    async with trio.open_nursery() as nursery:
        while True:
            for job_id, state in list(redis.jobs.items()):
                if state is State.AVAILABLE:
                    redis.jobs[job_id] = State.ACTIVE
                    nursery.start_soon(run, job_id)
                elif state in TERMINAL:
                    del redis.jobs[job_id]
            active = sum(state is State.ACTIVE for state in redis.jobs.values())
            redis.most_active = max(redis.most_active, active)
            await trio.sleep(20.0)
