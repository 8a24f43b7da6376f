"""Fire cron jobs that are due (spec: ojs-cron 6 and 7).

An *occurrence* is one time at which a cron job is due. A *run* is the job that it enqueues.

The cron job lives under the meta tag, and its runs in the shards of their queues, so no script can
write both. So an occurrence fires in three idempotent steps:

1. *claim*: one script sets the next occurrence and stores the *firing*: the run's job, its id,
   and the earlier runs to cancel. The script refuses an occurrence that was claimed before. So if
   two leaders check the same occurrence, only one of them fires it.
2. *deliver*: cancel those runs, then store the job under its id. If the job exists, this changes
   nothing. A stalled process must not store the job again after the job has ended and was removed.
   So a delivery that was decided more than ``_STORE_WITHIN_MS`` ago is refused, and the job is kept
   for longer than that after its end.
3. *record*: remove the firing.

After a crash between two steps the firing remains, and the next check delivers it. While a firing
is not delivered, no other occurrence is claimed. So if a shard is away for ten minutes, a cron job
with an occurrence per minute enqueues one late job, not ten.

If no job can be made from the definition, the history records the occurrence as an error, because
every attempt would fail again. The next occurrence is tried as usual. Any other failure postpones
the cron job.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from ojs_cluster.core.errors import (
    ArgsRefused,
    BackendUnavailable,
    Conflict,
    Duplicate,
    NotFound,
    QueueFull,
    TenantLimitExceeded,
)
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.redis.durability import has_unconfirmed_writes
from ojs_cluster.store.features.cron.cron_record import CronRecord
from ojs_cluster.store.features.cron.firing_store import CronStore, DueCrons, OccurrenceDecision
from ojs_cluster.store.features.cron.occurrence_job import UnusableDefinition, make_job
from ojs_cluster.store.features.cron.overlap import (
    EarlierRuns,
    decide,
    decide_to_fire,
    earlier_runs,
    release_held_run,
    with_next_occurrence,
)
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.sweep_result import SweepResult

log = logging.getLogger("ojs.store")

QUEUE_FULL: Final = "queue_full"
"""First word of the reason in the history when a full queue has refused the job."""
TENANT_LIMIT: Final = "tenant_limit"
"""First word of the reason in the history when the job's tenant was at a limit."""
_CHECK_TIMEOUT_S = 2.0
"""Time limit in seconds for the check of one cron job. After that the cron job is postponed."""
_DECIDE_S = 0.5
"""Time in seconds for the decisions about cron jobs that fire together. Some args take long to
validate. The cron jobs that are left are checked concurrently."""
_STORE_WITHIN_MS = 20_000
"""Maximum time in ms from the claim of a firing until its job is stored; a later attempt is
refused. The time is a sixth of the shortest retention of such a job
(``store/include/jobs/removal_time.lua``)."""


async def fire_due(cron_store: CronStore, limit: int) -> SweepResult:
    """Check up to ``limit`` cron jobs that are due.

    A cron job that fails is postponed and does not stop the others.

    Args:
        cron_store: the store.
        limit: maximum number of cron jobs.

    Raises:
        BackendUnavailable: the cron jobs cannot be read, or one that failed cannot be postponed.
    """
    due = await cron_store.due(limit)
    failures: list[Exception] = []

    async def check(name: str) -> None:
        cron: CronRecord | None = None
        try:
            with trio.fail_after(_CHECK_TIMEOUT_S):
                # Each cron job is read separately, because its definition may be large or
                # malformed.
                cron = await cron_store.load(name)
                if cron is not None:
                    await _check_cron(cron_store, cron, due.now_ms)
        except Exception as error:
            log.warning("cron job '%s' failed and is postponed", name, exc_info=error)
            try:
                await _postpone(cron_store, name, cron)
            except Exception as failure:  # raised after all others are checked
                failures.append(failure)

    fired = await _fire_together(cron_store, due)
    await run_concurrently([name for name in due.names if name not in fired], check)
    if failures:
        raise failures[0]
    # The checked cron jobs have new times. It is simpler to read the index again at once than to
    # collect these times.
    following = due.now_ms if due.names else due.next_ms
    return SweepResult(len(due.names), following, due.now_ms, len(due.names) >= limit)


async def _fire_together(cron_store: CronStore, due: DueCrons) -> set[str]:
    """Fire the plain ones of the cron jobs that are due, each step for all of them at once.

    This takes a quarter of the processor time. The steps of each cron job are those of the module's
    docstring. What is not plain, or is not known to have succeeded, is left to the check of the
    single cron job, as after a crash.

    Returns:
        Names of the cron jobs that need no further check.
    """
    fired: set[str] = set()
    with trio.move_on_after(_CHECK_TIMEOUT_S):
        try:
            decisions: list[tuple[CronRecord, OccurrenceDecision]] = []
            jobs: dict[str, NewJob] = {}
            plain = [cron for cron in due.small if _is_plain(cron, due.now_ms)]
            if len(plain) < 2:
                return fired
            open_runs = [run for cron in plain if _waits(cron) for run in cron.open_runs]
            ended = await cron_store.ended_runs(open_runs)
            decide_until = trio.current_time() + _DECIDE_S
            for cron in plain:
                await trio.lowlevel.checkpoint()  # the calendar may take some milliseconds
                if trio.current_time() > decide_until:
                    break
                decided = await _decide_plainly(cron_store, cron, ended, due.now_ms)
                if decided is not None:
                    decision, jobs[cron.name] = decided
                    decisions.append((cron, decision))
            claimed = await cron_store.claim_each(decisions)
            names = {cron.name for cron in claimed if cron is not None}
            fired.update(cron.name for cron, _ in decisions if cron.name not in names)
            store_before_ms = due.now_ms + _STORE_WITHIN_MS
            stored = await cron_store.enqueue_each([jobs[name] for name in names], store_before_ms)
            delivered = {name: str(jobs[name].id) for name in names if jobs[name].id in stored}
            if has_unconfirmed_writes():
                return fired
            await cron_store.record_delivered(delivered)
            fired.update(delivered)
        except Exception as error:
            log.debug("cron jobs could not be fired together: %r", error)
    return fired


def _waits(cron: CronRecord) -> bool:
    """Return whether the overlap policy asks for the states of earlier runs."""
    return cron.overlap != "allow"


def _is_plain(cron: CronRecord, now_ms: int) -> bool:
    """Return whether an occurrence is due, and nothing else of the cron job."""
    if cron.fault is not None or cron.firing is not None or cron.held_runs or cron.tenant:
        return False
    return cron.next_ms is not None and cron.next_ms <= now_ms


async def _decide_plainly(
    cron_store: CronStore, cron: CronRecord, ended: set[str], now_ms: int
) -> tuple[OccurrenceDecision, NewJob] | None:
    """Return the decision to fire, and the job. None if the cron job must be checked on its own."""
    if cron.next_ms is None or (_waits(cron) and not ended.issuperset(cron.open_runs)):
        return None
    try:
        job = await _make_valid_job(cron_store, cron, cron.next_ms)
        runs = EarlierRuns(ended=cron.open_runs) if _waits(cron) else EarlierRuns()
        decision = decide(cron_store, cron, runs, cron.next_ms, now_ms)
    except Exception:  # the check of the cron job handles it
        return None
    if job.unique is not None or job.rate_limit is not None:
        return None
    return decision, msgspec.structs.replace(job, id=decision.job_id)


async def _postpone(cron_store: CronStore, name: str, cron: CronRecord | None) -> None:
    """Record that a cron job failed: it is checked again after a pause."""
    if cron is None or cron.fault is not None:
        await cron_store.record_outcome(name, "unreadable", "")
    else:
        firing_id = "" if cron.firing is None else cron.firing.job_id
        await cron_store.record_outcome(name, "failed", firing_id)


@dataclass(frozen=True, slots=True)
class ManualRun:
    """A run that a client has requested.

    Args:
        job_id: id of the run.
        is_new: whether the run is a new job. False when an existing job with the same fingerprint
            takes its place.
    """

    job_id: str
    is_new: bool


async def run_manually(cron_store: CronStore, cron: CronRecord) -> ManualRun | None:
    """Fire now, independent of the schedule. The policy ``skip`` does not apply.

    Args:
        cron_store: the store.
        cron: the cron job, as just read.

    Returns:
        The run. None when ``cron`` has changed; the caller then reads it again.

    Raises:
        Duplicate: a job with the same fingerprint exists.
        UnusableDefinition: no job can be made from the definition.
        QueueFull: the depth bound of the queue is reached.
        BackendUnavailable: Redis did not answer in time. With the outcome ``unknown`` the scheduler
            will still deliver the run.
    """
    if cron.firing is not None:
        with suppress(Duplicate, UnusableDefinition, QueueFull):  # errors of the earlier run
            await deliver(cron_store, cron)
        return None
    await _make_valid_job(cron_store, cron, cron.read_ms)
    runs = await earlier_runs(cron_store, cron)
    claimed = await cron_store.claim(cron, decide_to_fire(cron_store, cron, runs))
    if claimed is None or claimed.firing is None:
        return None
    try:
        job_id = await deliver(cron_store, claimed)
    except BackendUnavailable as error:
        # The run is claimed, so the scheduler will deliver it, even if this call stored nothing.
        raise BackendUnavailable(
            error.message, outcome="unknown", retry_after_s=error.retry_after_s
        ) from error
    return ManualRun(job_id, job_id == claimed.firing.job_id)


async def deliver(cron_store: CronStore, cron: CronRecord) -> str:
    """Store the job of a firing. Repetition changes nothing.

    Args:
        cron_store: the store.
        cron: a cron job with a firing.

    Returns:
        The id of the stored job. Under the conflict policy ``ignore`` it may be the id of an
        existing job.

    Raises:
        Duplicate: a job with the same fingerprint exists. The firing is removed.
        UnusableDefinition: no job can be made. The firing is removed.
        QueueFull: the depth bound of the queue, or a limit of the tenant, is reached. The firing is
            removed.
        OJSError: the job cannot be stored now. The firing remains.
    """
    firing = cron.firing
    if firing is None:
        raise ValueError("the cron job has no firing")
    stored, refusal = firing.job_id, None
    try:
        job = await make_job(cron.name, firing.job, firing.occurrence_ms)
    except UnusableDefinition as unusable:
        await _record_refusal(cron_store, cron.name, firing.job_id, unusable.reason)
        raise
    for job_id in firing.cancels:
        with suppress(Conflict, NotFound):
            await cron_store.cancel(job_id)
    job = msgspec.structs.replace(job, id=firing.job_id, pending=job.pending or firing.held)
    try:
        # A job that replaces cancelled runs is stored even in a full queue. Otherwise the cancelled
        # runs would be lost without a replacement.
        stored = await cron_store.enqueue(
            job, cron.read_ms + _STORE_WITHIN_MS, ignore_depth_bound=bool(firing.cancels)
        )
    except Duplicate as error:
        if error.details.get("existing_job_id") != firing.job_id:
            refusal = error
        elif not job.pending:
            # An earlier delivery has stored the job. It may have stored the job as held: a failover
            # can lose the first claim of an occurrence, and the second claim may find that no run
            # must be waited for. So the job is made available.
            with suppress(Conflict, NotFound):
                await cron_store.activate(firing.job_id)
    except QueueFull as full:
        # The occurrence is not tried again, because the next occurrence will come. The tombstone
        # stops another process that delivers the same firing later, when the queue has room.
        if await cron_store.forbid_id(firing.job_id):
            is_limit = isinstance(full, TenantLimitExceeded)
            reason = f"{TENANT_LIMIT if is_limit else QUEUE_FULL}: {full.message}"
            await _record_refusal(cron_store, cron.name, firing.job_id, reason)
            raise
    # A failover may still lose an unconfirmed write of the job, so the firing must remain.
    if not has_unconfirmed_writes():
        await cron_store.record_outcome(cron.name, "delivered", firing.job_id)
    if refusal is not None:
        raise refusal
    return stored


async def _record_refusal(cron_store: CronStore, name: str, job_id: str, reason: str) -> None:
    await cron_store.record_outcome(name, "refused", job_id, (job_id,), reason=reason)


async def _check_cron(cron_store: CronStore, cron: CronRecord, now_ms: int) -> None:
    if cron.firing is not None:
        await _deliver_occurrence(cron_store, cron)
        return
    if cron.held_runs:
        await release_held_run(cron_store, cron)
    if cron.next_ms is None or cron.next_ms > now_ms:
        return
    try:
        # Before the claim: a firing whose job cannot be read could never be delivered.
        await _make_valid_job(cron_store, cron, cron.next_ms)
    except UnusableDefinition as unusable:
        _log_refusal(cron, unusable)
        refusal = OccurrenceDecision(fire=False, job_id="", refusal=unusable.reason)
        await cron_store.claim(cron, with_next_occurrence(cron, refusal, cron.next_ms, now_ms))
        return
    runs = await earlier_runs(cron_store, cron)
    decision = decide(cron_store, cron, runs, cron.next_ms, now_ms)
    claimed = await cron_store.claim(cron, decision)
    if claimed is not None and claimed.firing is not None:
        await _deliver_occurrence(cron_store, claimed)


async def _make_valid_job(cron_store: CronStore, cron: CronRecord, occurrence_ms: int) -> NewJob:
    """Make the job of an occurrence, and check that its args match the schema of its type.

    The schema does not matter for a claimed firing, which must be delivered.

    Raises:
        UnusableDefinition: no job can be made, or its args are refused.
    """
    job = await make_job(cron.name, cron.job, occurrence_ms)
    try:
        await cron_store.check_args(job)
    except ArgsRefused as error:
        raise UnusableDefinition(error) from error
    return job


async def _deliver_occurrence(cron_store: CronStore, cron: CronRecord) -> None:
    """Deliver an occurrence's firing. If its job cannot be stored, log the reason for operators."""
    try:
        with suppress(Duplicate):
            await deliver(cron_store, cron)
    except QueueFull as full:
        log.warning("cron job '%s': this occurrence is skipped: %s", cron.name, full.message)
    except UnusableDefinition as unusable:
        _log_refusal(cron, unusable)


def _log_refusal(cron: CronRecord, unusable: UnusableDefinition) -> None:
    log.error(
        "cron job '%s': no job can be made from its definition, so this occurrence is skipped: %s. "
        "Register it again with a usable definition",
        cron.name,
        unusable.reason,
    )
