"""The cron jobs in Redis, as firing them needs them (a `cron_fire.Book`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ojs_cluster.core.cron_job import tick_job_id
from ojs_cluster.core.errors import MalformedJob, NotFound
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.cron.cron_record import CronRecord, cron_record
from ojs_cluster.store.cron.firing import Claim, Due
from ojs_cluster.store.enqueue.enqueue import enqueue
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.jobs.activate import activate
from ojs_cluster.store.jobs.cancel import cancel
from ojs_cluster.store.unique import locks

HISTORY_KEPT = 100
TAKE_UP_MS = 2000
"""How long a firing is left to who claimed it before another process may deliver it too."""
FIRST_PAUSE_MS = 500
LONGEST_PAUSE_MS = 60_000


@dataclass(frozen=True, slots=True)
class StoreBook:
    """Cron jobs under the meta tag, their jobs in the shards."""

    store: Store

    async def due(self, limit: int) -> Due:
        """Those to check now."""
        await self.store.partitions.refresh_if_stale(self.store)
        now_ms, next_ms, *names = await self.store.run_meta(
            "cron_due", [self.store.keys.meta.crons], [limit]
        )
        found = [name.decode() for name in names]
        return Due(found, now_ms, None if next_ms < 0 else next_ms)

    async def load(self, name: str) -> CronRecord | None:
        """One of them."""
        now_ms, flat = await self.store.run_meta("read_hash", [self.store.keys.meta.cron(name)], [])
        return cron_record(name, flat, now_ms) if flat else None

    async def claim(self, cron: CronRecord, claim: Claim) -> CronRecord | None:
        """Decide. Not repeated when the reply is lost: a debt shows at the next look."""
        meta = self.store.keys.meta
        reply = await self.store.run_meta(
            "cron_claim",
            [meta.cron(cron.name), meta.crons, meta.cron_history(cron.name), meta.events],
            [
                *(self.store.settings.events_per_shard, cron.name, cron.version),
                *(_ms(claim.tick_ms), _ms(claim.next_ms), _ms(claim.gap_ms)),
                *(_decision(claim), claim.refusal or claim.job_id, "1" if claim.hold else ""),
                *(" ".join(claim.cancels), " ".join(claim.ended), HISTORY_KEPT, TAKE_UP_MS),
            ],
            idempotent=False,
        )
        return cron_record(cron.name, reply[1], reply[2]) if reply[0] == b"ok" else None

    async def settle(
        self,
        name: str,
        what: Literal["delivered", "refused", "failed", "unreadable", "swept"],
        owed: str,
        ended: Sequence[str] = (),
        let_go: Sequence[str] = (),
        reason: str = "",
    ) -> None:
        """Write down what became of a firing (``reason``: why it was refused), or of runs."""
        meta = self.store.keys.meta
        await self.store.run_meta(
            "cron_settle",
            [meta.cron(name), meta.crons, meta.cron_history(name)],
            [
                *(name, what, owed, " ".join(ended), " ".join(let_go)),
                *(FIRST_PAUSE_MS, LONGEST_PAUSE_MS, reason),
            ],
        )

    def job_id(self, cron: CronRecord, tick_ms: int | None) -> str:
        """The id of a tick's job, in the shard of its queue."""
        keys, place = self.store.keys, self.store.partitions.choose_shard
        if tick_ms is None:
            shard = place(self.store, cron.queue)
            return new_job_id(shard.index, len(keys), time.time_ns() // 1_000_000)
        shard = place(self.store, cron.queue, f"{cron.name} {tick_ms}")
        return tick_job_id(cron.name, tick_ms, shard.index, len(keys))

    async def state(self, job_id: str) -> State | None:
        """A job's state; None for one that is gone or malformed."""
        try:
            return (await read_jobs.get(self.store, job_id)).state
        except (NotFound, MalformedJob):  # a run that nothing can end must not stop those after it
            return None

    async def enqueue(self, job: NewJob, store_before_ms: int, *, ignore_depth_bound: bool) -> str:
        """Store a job, which is then kept long enough (``store/include/jobs/finish_job.lua``)."""
        fields = [f.FIXED, b"1"]
        stored = await enqueue(
            self.store,
            job,
            fields=fields,
            store_before_ms=store_before_ms,
            ignore_depth_bound=ignore_depth_bound,
        )
        return stored.id

    async def bar(self, job_id: str) -> bool:
        """Make it impossible that a job is stored: longer than any delivery may take."""
        shard = self.store.keys.shard_of_id(job_id)
        return await locks.write_tombstone(self.store, shard, job_id, overridable=False)

    async def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        await cancel(self.store, job_id)

    async def activate(self, job_id: str) -> None:
        """Make a pending job available."""
        await activate(self.store, job_id)


def _decision(claim: Claim) -> str:
    if claim.refusal:
        return "refuse"
    return "fire" if claim.fire else "skip"


def _ms(value: int | None) -> str:
    return "" if value is None else str(value)
