"""Cron jobs in memory, in virtual time: stands in for the seam `cron_fire.Book`, not for Redis.

The scripts' decisions are made in one piece, as Redis makes them; each call takes a while, during
which a leader may die, before or after its call took effect.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import trio

from ojs_cluster.core.cron_job import CronDefinition, tick_job_id
from ojs_cluster.core.errors import Conflict, Duplicate, NotFound
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.store.cron.cron_record import CronRecord
from ojs_cluster.store.cron.firing import Claim, Due

_serial = itertools.count()


@dataclass(slots=True)
class Redis:
    """What the leaders share.

    :ivar epoch_ms: what Redis's clock shows at virtual time 0.
    :ivar stored: how often each job id was stored, and for which tick.
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
            b"x": definition.schedule.expression.encode(),
            b"z": definition.schedule.timezone.encode(),
            b"o": definition.overlap.encode(),
            b"j": definition.job,
            b"q": definition.queue.encode(),
            b"v": b"1",
            b"a": b"%d" % now,
            b"n": b"%d" % following.ms,
        }

    def look_ms(self, fields: dict[bytes, bytes]) -> int | None:
        upkeep = fields.get(b"w")
        if b"owed" in fields:
            return int(upkeep or 0)
        times = [int(value) for value in (fields.get(b"n"), upkeep) if value]
        return min(times, default=None)


@dataclass(frozen=True, slots=True)
class ModelBook:
    """One leader's connection."""

    redis: Redis
    random: Random

    async def _trip(self) -> None:
        await trio.sleep(self.random.uniform(0, 0.05))

    async def due(self, limit: int) -> Due:
        await self._trip()
        now = self.redis.now_ms()
        looks = [(self.redis.look_ms(fields), name) for name, fields in self.redis.crons.items()]
        due = [name for at, name in looks if at is not None and at <= now][:limit]
        later = min((at for at, _ in looks if at is not None and at > now), default=None)
        await self._trip()
        return Due(due, now, later)

    async def load(self, name: str) -> CronRecord | None:
        await self._trip()
        return CronRecord(name, dict(self.redis.crons[name]), self.redis.now_ms())

    async def claim(self, cron: CronRecord, claim: Claim) -> CronRecord | None:
        await self._trip()
        fields = self.redis.crons[cron.name]
        if b"owed" in fields or fields.get(b"n") != b"%d" % (claim.tick_ms or -1):
            return None
        del fields[b"n"]
        if claim.next_ms is not None:
            fields[b"n"] = b"%d" % claim.next_ms
        now = self.redis.now_ms()
        open_ = [job_id for job_id in cron.open if job_id not in claim.ended]
        if claim.fire:
            open_.append(claim.job_id)
            assert claim.tick_ms is not None
            self.redis.fired.append((cron.name, claim.tick_ms, now))
            fields |= {
                b"owed": claim.job_id.encode(),
                b"ot": b"%d" % claim.tick_ms,
                b"ob": fields[b"j"],
                b"oc": " ".join(claim.cancels).encode(),
                b"oh": b"1" if claim.hold else b"",
                b"w": b"%d" % (now + 2000),
            }
            if claim.hold:
                fields[b"held"] = " ".join((*cron.held, claim.job_id)).encode()
        fields[b"open"] = " ".join(open_).encode()
        copy = CronRecord(cron.name, dict(fields), self.redis.now_ms())
        await self._trip()
        return copy

    async def settle(
        self,
        name: str,
        what: Literal["delivered", "refused", "failed", "unreadable", "swept"],
        owed: str,
        ended: Sequence[str] = (),
        let_go: Sequence[str] = (),
        reason: str = "",
    ) -> None:
        assert what in ("delivered", "swept"), "nothing fails here"
        await self._trip()
        fields = self.redis.crons[name]
        if what == "delivered" and fields.get(b"owed") == owed.encode():
            for key in (b"owed", b"ot", b"ob", b"oc", b"oh"):
                del fields[key]
        record = CronRecord(name, fields, self.redis.now_ms())
        fields[b"open"] = " ".join(i for i in record.open if i not in ended).encode()
        held = [i for i in record.held if i not in ended and i not in let_go]
        fields[b"held"] = " ".join(held).encode()
        if b"owed" not in fields:
            fields[b"w"] = b"%d" % (self.redis.now_ms() + 1000) if held else b""
        await self._trip()

    def job_id(self, cron: CronRecord, tick_ms: int | None) -> str:
        assert tick_ms is not None
        return tick_job_id(cron.name, tick_ms, 0, 64)

    async def state(self, job_id: str) -> State | None:
        await self._trip()
        return self.redis.jobs.get(job_id)

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

    async def bar(self, job_id: str) -> bool:
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
    """Workers without number: each available job is taken, and done after a while."""

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
