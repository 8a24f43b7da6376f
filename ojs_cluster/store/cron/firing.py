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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

import msgspec
import trio

from ojs_cluster.core.errors import BackendUnavailable, Conflict, Duplicate, NotFound, QueueFull
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.redis.durability import has_unconfirmed_writes
from ojs_cluster.store.cron.cron_record import CronRecord
from ojs_cluster.store.cron.occurrence_job import UnusableDefinition, make_job
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.sweeps.sweep_result import SweepResult

log = logging.getLogger("ojs.store")

MAX_WAITING_RUNS = 100
"""Maximum number of unfinished runs under the policy ``enqueue``; then occurrences are skipped."""
_MANY_WAITING_RUNS = 2
"""If more than this number of runs are unfinished, each further run logs a warning."""
QUEUE_FULL: Final = "queue_full"
"""First word of the reason in the history when a full queue has refused the job."""
_CHECK_TIMEOUT_S = 2.0
"""Time limit in seconds for the check of one cron job. After that the cron job is postponed."""
_STORE_WITHIN_MS = 20_000
"""Maximum time in ms from the claim of a firing until its job is stored; a later attempt is
refused. The time is a sixth of the shortest retention of such a job
(``store/include/jobs/finish_job.lua``)."""

FiringOutcome = Literal["delivered", "refused", "failed", "unreadable", "checked"]
"""Outcomes that ``cron_record_outcome.lua`` describes."""


@dataclass(frozen=True, slots=True)
class OccurrenceDecision:
    """The decision about an occurrence.

    Args:
        fire: whether a job is stored.
        job_id: id of the job to store, or the id of the unfinished run because of which the
            occurrence is skipped.
        refusal: why no job can be made; '' when a job can be made.
        occurrence_ms: Unix time of the occurrence in ms; None for a manual run, which keeps the
            next occurrence.
        next_ms: Unix time of the following occurrence in ms; None if there is none.
        gap_ms: Unix time in ms of a clock change that skips an occurrence before the following
            occurrence; None if there is no such change.
        held: whether the job is stored as pending, until the runs before it have ended.
        cancels: ids of earlier runs to cancel before the job is stored.
        ended: ids of earlier runs that have ended.
    """

    fire: bool
    job_id: str
    refusal: str = ""
    occurrence_ms: int | None = None
    next_ms: int | None = None
    gap_ms: int | None = None
    held: bool = False
    cancels: Sequence[str] = ()
    ended: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class DueCrons:
    """The cron jobs that are due for a check.

    Args:
        names: names of the cron jobs.
        now_ms: Unix time in ms of Redis's clock when the names were read.
        next_ms: Unix time in ms when the next cron job is due; None for never.
    """

    names: Sequence[str]
    now_ms: int
    next_ms: int | None


class CronStore(Protocol):
    """The functions of the store that this module calls."""

    async def due(self, limit: int) -> DueCrons:
        """Return the cron jobs to check now."""
        ...

    async def load(self, name: str) -> CronRecord | None:
        """Return a cron job; None when it does not exist."""
        ...

    async def claim(self, cron: CronRecord, decision: OccurrenceDecision) -> CronRecord | None:
        """Write a decision.

        Returns:
            The cron job afterwards; None when nothing was written, because the cron job differs
            from ``cron`` or has a firing.
        """
        ...

    async def record_outcome(
        self,
        name: str,
        outcome: FiringOutcome,
        firing_id: str,
        ended: Sequence[str] = (),
        released: Sequence[str] = (),
        reason: str = "",
    ) -> None:
        """Record the outcome of a firing, or of a check of earlier runs.

        Args:
            name: the cron job.
            outcome: the outcome.
            firing_id: the job id of the firing; '' for none.
            ended: ids of runs that ended.
            released: ids of held runs that were released.
            reason: why the firing was refused.
        """
        ...

    def job_id(self, cron: CronRecord, occurrence_ms: int | None) -> str:
        """Return the id of a run: the same for each call of an occurrence, new for a manual run."""
        ...

    async def state(self, job_id: str) -> State | None:
        """Return a job's state, None when there is no such job."""
        ...

    async def enqueue(self, job: NewJob, store_before_ms: int, *, ignore_depth_bound: bool) -> str:
        """Store a job.

        Args:
            job: the job.
            store_before_ms: Unix time in ms before which the job must be stored.
            ignore_depth_bound: whether the job is stored even in a full queue.

        Returns:
            The id of the stored job. Under the conflict policy ``ignore`` it may be the id of an
            existing job.

        Raises:
            Duplicate: another job has the id, or a job with the same fingerprint exists.
            QueueFull: the depth bound of the queue is reached.
            Conflict: the time ``store_before_ms`` has passed.
        """
        ...

    async def forbid_id(self, job_id: str) -> bool:
        """Prevent that a job is stored under an id; return False when a job is already stored."""
        ...

    async def cancel(self, job_id: str) -> None:
        """Cancel a job.

        Raises:
            Conflict: the job has ended.
            NotFound: there is no such job.
        """
        ...

    async def activate(self, job_id: str) -> None:
        """Make a pending job available.

        Raises:
            Conflict: the job is not pending.
            NotFound: there is no such job.
        """
        ...


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

    await run_concurrently(due.names, check)
    if failures:
        raise failures[0]
    # The checked cron jobs have new times. It is simpler to read the index again at once than to
    # collect these times.
    following = due.now_ms if due.names else due.next_ms
    return SweepResult(len(due.names), following, due.now_ms, len(due.names) >= limit)


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
    await make_job(cron.name, cron.job, cron.read_ms)
    runs = await _earlier_runs(cron_store, cron)
    claimed = await cron_store.claim(cron, _decide_to_fire(cron_store, cron, runs))
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
        QueueFull: the depth bound of the queue is reached. The firing is removed.
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
            reason = f"{QUEUE_FULL}: {full.message}"
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
        await _release_held_run(cron_store, cron)
    if cron.next_ms is None or cron.next_ms > now_ms:
        return
    try:
        # Before the claim: a firing whose job cannot be read could never be delivered.
        await make_job(cron.name, cron.job, cron.next_ms)
    except UnusableDefinition as unusable:
        _log_refusal(cron, unusable)
        refusal = OccurrenceDecision(fire=False, job_id="", refusal=unusable.reason)
        await cron_store.claim(cron, _with_next_occurrence(cron, refusal, cron.next_ms, now_ms))
        return
    decision = await _decide(cron_store, cron, cron.next_ms, now_ms)
    claimed = await cron_store.claim(cron, decision)
    if claimed is not None and claimed.firing is not None:
        await _deliver_occurrence(cron_store, claimed)


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


@dataclass(frozen=True, slots=True)
class _EarlierRuns:
    """Earlier runs, oldest first: those that are unfinished and those that have ended."""

    unfinished: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()


async def _earlier_runs(cron_store: CronStore, cron: CronRecord) -> _EarlierRuns:
    if cron.overlap == "allow" and not cron.held_runs:
        return _EarlierRuns()
    unfinished: set[str] = set()

    async def check(job_id: str) -> None:
        if await _is_unfinished(cron_store, job_id):
            unfinished.add(job_id)

    await run_concurrently(cron.open_runs, check)
    return _EarlierRuns(
        tuple(job_id for job_id in cron.open_runs if job_id in unfinished),
        tuple(job_id for job_id in cron.open_runs if job_id not in unfinished),
    )


def _with_next_occurrence(
    cron: CronRecord, decision: OccurrenceDecision, occurrence_ms: int, now_ms: int
) -> OccurrenceDecision:
    """Add the following occurrence to the decision about an occurrence."""
    # If occurrences were missed while there was no leader, only the earliest of them fires. The
    # clock of a new master may be behind, so the following occurrence is computed from the later of
    # the two times.
    following = cron.schedule.following(max(now_ms, occurrence_ms), cron.anchor_ms)
    return replace(
        decision,
        occurrence_ms=occurrence_ms,
        next_ms=None if following is None else following.ms,
        gap_ms=None if following is None else following.gap_ms,
    )


async def _decide(
    cron_store: CronStore, cron: CronRecord, occurrence_ms: int, now_ms: int
) -> OccurrenceDecision:
    runs = await _earlier_runs(cron_store, cron)
    # A run that waits for a worker or for its next attempt counts as unfinished, like an active
    # one: otherwise a queue without workers would collect a job per occurrence.
    limit = {"skip": 1, "enqueue": MAX_WAITING_RUNS}.get(cron.overlap)
    if limit is not None and len(runs.unfinished) >= limit:
        decision = OccurrenceDecision(fire=False, job_id=runs.unfinished[0], ended=runs.ended)
    else:
        decision = _decide_to_fire(cron_store, cron, runs, occurrence_ms)
    return _with_next_occurrence(cron, decision, occurrence_ms, now_ms)


def _decide_to_fire(
    cron_store: CronStore, cron: CronRecord, runs: _EarlierRuns, occurrence_ms: int | None = None
) -> OccurrenceDecision:
    held = cron.overlap == "enqueue" and bool(runs.unfinished)
    if held and len(runs.unfinished) > _MANY_WAITING_RUNS:
        log.warning("cron job '%s': %d runs are unfinished", cron.name, len(runs.unfinished))
    return OccurrenceDecision(
        fire=True,
        job_id=cron_store.job_id(cron, occurrence_ms),
        held=held,
        cancels=runs.unfinished if cron.overlap == "cancel_previous" else (),
        ended=runs.ended,
    )


async def _release_held_run(cron_store: CronStore, cron: CronRecord) -> None:
    """Make the first held run available once all runs before it have ended."""
    ended: list[str] = []
    released: tuple[str, ...] = ()
    for job_id in cron.open_runs:
        if await _is_unfinished(cron_store, job_id):
            if job_id in cron.held_runs:
                with suppress(Conflict):
                    await cron_store.activate(job_id)
                released = (job_id,)
            break
        ended.append(job_id)
    await cron_store.record_outcome(cron.name, "checked", "", ended, released)


async def _is_unfinished(cron_store: CronStore, job_id: str) -> bool:
    state = await cron_store.state(job_id)
    return state is not None and state not in TERMINAL
