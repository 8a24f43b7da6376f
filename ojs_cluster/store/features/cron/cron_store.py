"""The functions of the store that firing calls: implements ``firing_store.CronStore``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ojs_cluster.core.cron.cron_job import occurrence_job_id
from ojs_cluster.core.errors import MalformedJob, NotFound, QueueFull, ValidationBusy
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import unique_locks as locks
from ojs_cluster.store.engine.args_validation import check_args
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.history_entries import Cause
from ojs_cluster.store.features.cron.cron_record import CronRecord, parse_cron_record
from ojs_cluster.store.features.cron.firing_store import DueCrons, FiringOutcome, OccurrenceDecision
from ojs_cluster.store.ground import job_fields as f

log = logging.getLogger("ojs.store")

HISTORY_KEPT = 100
"""Maximum number of entries in the history of a cron job."""
DELIVERY_MS = 2000
"""Another process may deliver a firing when its claim is older than this time in ms."""
FIRST_PAUSE_MS = 500
"""Time in ms until the next check after a failed check. Each further pause is twice as long."""
LONGEST_PAUSE_MS = 60_000
"""Longest time in ms between two checks after failures."""


@dataclass(frozen=True, slots=True)
class RedisCronStore:
    """Cron jobs under the meta tag, their jobs in the shards.

    Args:
        store: an open store.
    """

    store: Store

    async def due(self, limit: int) -> DueCrons:
        """Return the cron jobs to check now."""
        await self.store.partitions.refresh_if_stale(self.store)
        now_ms, next_ms, *names = await self.store.run_meta(
            "cron_due", [self.store.keys.meta.crons], [limit]
        )
        found = [name.decode() for name in names]
        return DueCrons(found, now_ms, None if next_ms < 0 else next_ms)

    async def load(self, name: str) -> CronRecord | None:
        """Return a cron job; None when it does not exist."""
        now_ms, flat = await self.store.run_meta("read_hash", [self.store.keys.meta.cron(name)], [])
        return parse_cron_record(name, flat, now_ms) if flat else None

    async def claim(self, cron: CronRecord, decision: OccurrenceDecision) -> CronRecord | None:
        """Write a decision, as ``CronStore.claim``.

        The call is not repeated after a lost reply. The next check finds the firing.
        """
        meta = self.store.keys.meta
        reply = await self.store.run_meta(
            "cron_claim_occurrence",
            [meta.cron(cron.name), meta.crons, meta.cron_history(cron.name), meta.events],
            [
                *(self.store.events_arg, cron.name, cron.version),
                *(_ms(decision.occurrence_ms), _ms(decision.next_ms), _ms(decision.gap_ms)),
                *(_decision_name(decision), decision.refusal or decision.job_id),
                *("1" if decision.held else "", " ".join(decision.cancels)),
                *(" ".join(decision.ended), HISTORY_KEPT, DELIVERY_MS),
            ],
            idempotent=False,
        )
        return parse_cron_record(cron.name, reply[1], reply[2]) if reply[0] == b"ok" else None

    async def record_outcome(
        self,
        name: str,
        outcome: FiringOutcome,
        firing_id: str,
        ended: Sequence[str] = (),
        released: Sequence[str] = (),
        reason: str = "",
    ) -> None:
        """Record the outcome of a firing or of earlier runs, as ``CronStore.record_outcome``."""
        meta = self.store.keys.meta
        await self.store.run_meta(
            "cron_record_outcome",
            [meta.cron(name), meta.crons, meta.cron_history(name)],
            [
                *(name, outcome, firing_id, " ".join(ended), " ".join(released)),
                *(FIRST_PAUSE_MS, LONGEST_PAUSE_MS, reason),
            ],
        )

    def job_id(self, cron: CronRecord, occurrence_ms: int | None) -> str:
        """Return the id of an occurrence's job, in the shard of its queue."""
        keys, place = self.store.keys, self.store.partitions.choose_shard
        if occurrence_ms is None:
            shard = place(self.store, cron.queue)
            return new_job_id(shard.index, len(keys), self.store.clock.now_ms())
        shard = place(self.store, cron.queue, f"{cron.name} {occurrence_ms}")
        return occurrence_job_id(cron.name, occurrence_ms, shard.index, len(keys))

    async def state(self, job_id: str) -> State | None:
        """Return a job's state; None when the job does not exist or is malformed."""
        try:
            return (await read_jobs.get(self.store, job_id)).state
        except (NotFound, MalformedJob):  # a malformed run never ends; it must not stop later runs
            return None

    async def check_args(self, job: NewJob) -> None:
        """Check the args of a job against the schema of its type.

        Args that cannot be validated now are not refused: an occurrence must not be lost, nor delay
        other cron jobs.

        Raises:
            ArgsRefused: the args do not match.
        """
        try:
            await check_args(self.store, job)
        except ValidationBusy:
            log.warning("the args of a cron job of type %s were not validated", job.type)

    async def enqueue(self, job: NewJob, store_before_ms: int, *, ignore_depth_bound: bool) -> str:
        """Store a job, as ``CronStore.enqueue``.

        The field ``FIXED_ID`` keeps the job for two minutes after its end at least, so that a late
        delivery cannot store it again (``include/jobs/finish_job.lua``).
        """
        fields = [f.FIXED_ID, b"1"]
        try:
            stored = await enqueue(
                self.store,
                job,
                fields=fields,
                store_before_ms=store_before_ms,
                ignore_depth_bound=ignore_depth_bound,
            )
        except QueueFull as full:
            await self.store.rejections.report(self.store, self.store.events_arg, full, job.type)
            raise
        return stored.id

    async def forbid_id(self, job_id: str) -> bool:
        """Write a tombstone for a job id. It exists for longer than a delivery can take."""
        shard = self.store.keys.shard_of_id(job_id)
        return await locks.write_tombstone(self.store, shard, job_id, overridable=False)

    async def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        cause = Cause("system", why="replaced by the next occurrence of the cron job")
        await cancel(self.store, job_id, cause=cause)

    async def activate(self, job_id: str) -> None:
        """Make a pending job available."""
        await activate(self.store, job_id)


def _decision_name(decision: OccurrenceDecision) -> str:
    if decision.refusal:
        return "refuse"
    return "fire" if decision.fire else "skip"


def _ms(value: int | None) -> str:
    return "" if value is None else str(value)
