"""The functions of the store that firing calls: implements ``firing_store.CronStore``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ojs_cluster.core.cron.cron_job import occurrence_job_id
from ojs_cluster.core.errors import (
    MalformedJob,
    NotFound,
    OJSError,
    QueueFull,
    ValidationBusy,
)
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.redis.connection import pack
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.redis.packed_calls import PackedReads
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import unique_locks as locks
from ojs_cluster.store.engine.args_validation import check_args
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.history_entries import Cause
from ojs_cluster.store.features.cron.cron_record import CronRecord, parse_cron_record
from ojs_cluster.store.features.cron.firing_store import DueCrons, FiringOutcome, OccurrenceDecision
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently

log = logging.getLogger("ojs.store")

HISTORY_KEPT = 100
"""Maximum number of entries in the history of a cron job."""
DELIVERY_MS = 2000
"""Another process may deliver a firing when its claim is older than this time in ms."""
FIRST_PAUSE_MS = 500
"""Time in ms until the next check after a failed check. Each further pause is twice as long."""
LONGEST_PAUSE_MS = 60_000
"""Longest time in ms between two checks after failures."""
SMALL_BYTES = 4096
"""A cron job whose definition has more bytes than this is read on its own."""
SCRIPT_CRONS = 50
"""Maximum number of cron jobs that one script changes."""
_ENDED = frozenset(state.value.encode() for state in TERMINAL)


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
        now_ms, next_ms, *found = await self.store.run_meta(
            "cron_due", [self.store.keys.meta.crons], [limit, SMALL_BYTES]
        )
        names = [name.decode() for name in found[::2]]
        return DueCrons(
            names,
            now_ms,
            None if next_ms < 0 else next_ms,
            [
                parse_cron_record(name, fields, now_ms)
                for name, fields in zip(names, found[1::2], strict=True)
                if fields
            ],
        )

    async def load(self, name: str) -> CronRecord | None:
        """Return a cron job; None when it does not exist."""
        now_ms, flat = await self.store.run_meta("read_hash", [self.store.keys.meta.cron(name)], [])
        return parse_cron_record(name, flat, now_ms) if flat else None

    async def claim(self, cron: CronRecord, decision: OccurrenceDecision) -> CronRecord | None:
        """Write a decision, as ``CronStore.claim``."""
        return (await self.claim_each([(cron, decision)]))[0]

    async def claim_each(
        self, decisions: Sequence[tuple[CronRecord, OccurrenceDecision]]
    ) -> list[CronRecord | None]:
        """Write decisions, as ``CronStore.claim_each``.

        A call is not repeated after a lost reply. The next check finds the firing.
        """
        meta = self.store.keys.meta
        most = self.store.webhooks.jobs_per_script("cron_claim_occurrence", SCRIPT_CRONS)
        claimed: list[CronRecord | None] = []
        for start in range(0, len(decisions), most):
            part = decisions[start : start + most]
            now_ms, *outcomes = await self.store.run_meta(
                "cron_claim_occurrence",
                [meta.crons, meta.events, meta.cron_counts, *self._keys([c.name for c, _ in part])],
                [
                    *(self.store.events_arg, HISTORY_KEPT, DELIVERY_MS),
                    *(arg for cron, decision in part for arg in _claim_args(cron, decision)),
                ],
                idempotent=False,
            )
            claimed += [
                _claimed(cron, decision, now_ms) if outcome == b"ok" else None
                for (cron, decision), outcome in zip(part, outcomes, strict=True)
            ]
        return claimed

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
        await self._record(
            [name], [name, outcome, firing_id, " ".join(ended), " ".join(released), reason]
        )

    async def record_delivered(self, firings: Mapping[str, str]) -> None:
        """Record that firings were delivered."""
        items = list(firings.items())
        for start in range(0, len(items), SCRIPT_CRONS):
            part = items[start : start + SCRIPT_CRONS]
            args = [arg for name, job_id in part for arg in (name, "delivered", job_id, "", "", "")]
            await self._record([name for name, _ in part], args)

    async def _record(self, names: Sequence[str], args: Sequence[str]) -> None:
        await self.store.run_meta(
            "cron_record_outcome",
            [self.store.keys.meta.crons, *self._keys(names)],
            [FIRST_PAUSE_MS, LONGEST_PAUSE_MS, *args],
        )

    def _keys(self, names: Sequence[str]) -> list[bytes]:
        meta = self.store.keys.meta
        return [key for name in names for key in (meta.cron(name), meta.cron_history(name))]

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

    async def ended_runs(self, job_ids: Sequence[str]) -> set[str]:
        """Return those jobs that are known to have ended, by one read of each."""
        shards = map(self.store.keys.shard_of_id, job_ids)
        answers = await self.store.redis.read_each(
            [
                PackedReads(shard.slot, pack((b"HGET", shard.job(job_id), f.STATE)))
                for shard, job_id in zip(shards, job_ids, strict=True)
            ]
        )
        return {
            job_id
            for job_id, answer in zip(job_ids, answers, strict=True)
            if answer and answer[0] in _ENDED
        }

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
        delivery cannot store it again (``include/jobs/removal_time.lua``).
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

    async def enqueue_each(self, jobs: Sequence[NewJob], store_before_ms: int) -> set[str]:
        """Store jobs, as ``CronStore.enqueue_each``: those of a shard together or not at all."""
        groups: dict[int, list[NewJob]] = {}
        for job in jobs:
            groups.setdefault(self.store.keys.shard_of_id(job.id or "").index, []).append(job)
        stored: set[str] = set()

        async def store_group(group: Sequence[NewJob]) -> None:
            with suppress(OJSError, RedisReplyError):  # the caller stores them one by one
                records = await enqueue_many(
                    self.store, group, [f.FIXED_ID, b"1"], store_before_ms=store_before_ms
                )
                stored.update(record.id for record in records)

        await run_concurrently(groups.values(), store_group)
        return stored

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


def _claim_args(cron: CronRecord, decision: OccurrenceDecision) -> list[str]:
    return [
        *(cron.name, cron.version),
        *(_ms(decision.occurrence_ms), _ms(decision.next_ms), _ms(decision.gap_ms)),
        *(_decision_name(decision), decision.refusal or decision.job_id),
        *("1" if decision.held else "", " ".join(decision.cancels), " ".join(decision.ended)),
    ]


def _claimed(cron: CronRecord, decision: OccurrenceDecision, now_ms: int) -> CronRecord:
    """Return a cron job with its firing. The claim has compared the version of the definition."""
    if not decision.fire:
        return cron
    occurrence_ms = now_ms if decision.occurrence_ms is None else decision.occurrence_ms
    firing = {
        b"firing": decision.job_id.encode(),
        b"firing_occurrence": b"%d" % occurrence_ms,
        b"firing_job": cron.job,
        b"firing_cancels": " ".join(decision.cancels).encode(),
        b"firing_held": b"1" if decision.held else b"",
    }
    return CronRecord(cron.name, {**cron.fields, **firing}, now_ms)


def _decision_name(decision: OccurrenceDecision) -> str:
    if decision.refusal:
        return "refuse"
    return "fire" if decision.fire else "skip"


def _ms(value: int | None) -> str:
    return "" if value is None else str(value)
