"""What the scheduler does with a cron job that is due (spec: ojs-cron 6 and 7).

The cron job lives under the meta tag, its jobs in their queues' shards: two places, no common
transaction. So a firing is three idempotent steps, and the first one decides everything:

1. *claim*: one script moves the next tick on and writes down what is owed: which job, under which
   id, and which earlier runs it cancels. It refuses when the tick was claimed before, so whatever
   two leaders at once decide, one decision stands.
2. *deliver*: cancel, then store the job under its id, which does nothing when it is there. Who
   stalls must not store it once more when it has run and its retention is over: a delivery decided
   more than ``_STORE_WITHIN_MS`` ago is refused, and the job is kept for longer than that after its
   end.
3. *settle*: nothing is owed any more.

A crash in between leaves the debt, and the next look delivers it. While something is owed no other
tick is claimed: a shard that is away for ten minutes owes one job then, not ten.

A tick whose job cannot be made is settled with an error in the history, because it would fail again
at each try. The next tick is tried in its turn. Every other failure puts the cron job off.
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
from ojs_cluster.store.cron.tick_job import UnusableDefinition, make_job
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.sweeps.sweep_result import SweepResult

log = logging.getLogger("ojs.store")

MOST_WAITING = 100
"""Runs that may wait for each other under the policy ``enqueue``; further ticks are skipped."""
_MANY_WAITING = 2
QUEUE_FULL: Final = "queue_full"
"""Begins the reason in the history of a tick whose job a full queue has refused."""
_LOOK_S = 2.0
"""A cron job whose shard does not answer is put off after this long: others wait for the step."""
_STORE_WITHIN_MS = 20_000
"""A sixth of the time that such a job is kept at least (``store/include/jobs/finish_job.lua``)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What is decided about a tick.

    Args:
        tick_ms: the tick; None for a run by hand, which moves no tick.
        next_ms, gap_ms: the tick after it, and the change of the clock before that one.
        job_id: the job to store; when skipped, the run that is in the way.
        refusal: why the tick's job cannot be made; '' when it can.
    """

    fire: bool
    job_id: str
    refusal: str = ""
    tick_ms: int | None = None
    next_ms: int | None = None
    gap_ms: int | None = None
    hold: bool = False
    cancels: Sequence[str] = ()
    ended: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Due:
    """Names of cron jobs to check, and when the next one is. Times in ms."""

    names: Sequence[str]
    now_ms: int
    next_ms: int | None


class Book(Protocol):
    """Where cron jobs are kept, and jobs are."""

    async def due(self, limit: int) -> Due:
        """Those to check now."""
        ...

    async def load(self, name: str) -> CronRecord | None:
        """One of them; None when it is gone."""
        ...

    async def claim(self, cron: CronRecord, claim: Claim) -> CronRecord | None:
        """Decide; None when ``cron`` is not what it was, or something is owed."""
        ...

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
        ...

    def job_id(self, cron: CronRecord, tick_ms: int | None) -> str:
        """The id of a tick's job; a fresh one for a run by hand."""
        ...

    async def state(self, job_id: str) -> State | None:
        """A job's state, None when there is no such job."""
        ...

    async def enqueue(self, job: NewJob, store_before_ms: int, *, ignore_depth_bound: bool) -> str:
        """Store a job, unless it is later than ``store_before_ms`` (ms); returns the id of the one
        that is there then: another's where the job's policy ignores it. Raises Duplicate when the
        id is taken, or a job of the same uniqueness is in the way, QueueFull when too many jobs
        wait, unless it is ``ignore_depth_bound``, Conflict when it is too late.
        """
        ...

    async def bar(self, job_id: str) -> bool:
        """Make it impossible that a job is stored; False when it is there."""
        ...

    async def cancel(self, job_id: str) -> None:
        """Cancel a job. Raises Conflict when it has ended, NotFound when there is none."""
        ...

    async def activate(self, job_id: str) -> None:
        """Make a pending job available. Raises as ``cancel``."""
        ...


async def fire_due(book: Book, limit: int) -> SweepResult:
    """Look at up to ``limit`` cron jobs that are due.

    A cron job that fails is put off and stops none of the others.

    Raises:
        BackendUnavailable: the cron jobs themselves cannot be read, or one that failed not be
            put off.
    """
    due = await book.due(limit)
    failures: list[Exception] = []

    async def one(name: str) -> None:
        cron: CronRecord | None = None
        try:
            with trio.fail_after(_LOOK_S):
                # Each by itself: its definition may be large, or cannot be used.
                cron = await book.load(name)
                if cron is not None:
                    await _look_at(book, cron, due.now_ms)
        except Exception as error:
            log.warning("cron job '%s' is put off", name, exc_info=error)
            try:
                await _put_off(book, name, cron)
            except Exception as failure:  # raised when the others have had their turn
                failures.append(failure)

    await over_shards(due.names, one)
    if failures:
        raise failures[0]
    # Those looked at have a new time; asking again is simpler than gathering it.
    following = due.now_ms if due.names else due.next_ms
    return SweepResult(len(due.names), following, due.now_ms, len(due.names) >= limit)


async def _put_off(book: Book, name: str, cron: CronRecord | None) -> None:
    """Note that a cron job failed: it is checked again after a pause."""
    if cron is None or cron.fault is not None:
        await book.settle(name, "unreadable", "")
    else:
        await book.settle(name, "failed", "" if cron.owed is None else cron.owed.job_id)


@dataclass(frozen=True, slots=True)
class Run:
    """A run by hand. ``own`` is False where a job of the same uniqueness answers for it."""

    job_id: str
    own: bool


async def run_by_hand(book: Book, cron: CronRecord) -> Run | None:
    """Fire now, whatever the schedule; the policy ``skip`` does not apply to who asks for a run.

    Returns the run, or None when ``cron`` is not what it was: read it again.

    Raises:
        Duplicate: a job of the same uniqueness is in the way.
        UnusableDefinition: its job cannot be made.
        QueueFull: its queue takes no more jobs.
        BackendUnavailable: Redis did not answer in time; ``unknown`` when the run will still
            happen.
    """
    if cron.owed is not None:
        with suppress(Duplicate, UnusableDefinition, QueueFull):  # that was another's run
            await deliver(book, cron)
        return None
    await make_job(cron.name, cron.fields[b"j"], cron.read_ms)
    runs = await _runs(book, cron)
    claimed = await book.claim(cron, _fire(book, cron, runs))
    if claimed is None or claimed.owed is None:
        return None
    try:
        job_id = await deliver(book, claimed)
    except BackendUnavailable as error:
        # Whatever became of this command, the run is decided: the scheduler will deliver it.
        raise BackendUnavailable(
            error.message, outcome="unknown", retry_after_s=error.retry_after_s
        ) from error
    return Run(job_id, job_id == claimed.owed.job_id)


async def deliver(book: Book, cron: CronRecord) -> str:
    """Store what is owed. Doing it twice is the same as once.

    Returns the id of the job that is there then: another's where the job's policy ignores it.

    Raises:
        Duplicate: a job of the same uniqueness is in the way, and so nothing is owed any more.
        UnusableDefinition: the job cannot be made, and so nothing is owed any more.
        QueueFull: its queue takes no more jobs, and so nothing is owed any more.
        OJSError: not possible now; the debt stays.
    """
    owed = cron.owed
    if owed is None:
        raise ValueError("nothing is owed")
    stored, refusal = owed.job_id, None
    try:
        job = await make_job(cron.name, owed.job, owed.tick_ms)
    except UnusableDefinition as found:
        reason, gone = found.reason, (owed.job_id,)
        await book.settle(cron.name, "refused", owed.job_id, gone, reason=reason)
        raise
    for job_id in owed.cancels:
        with suppress(Conflict, NotFound):
            await book.cancel(job_id)
    job = msgspec.structs.replace(job, id=owed.job_id, pending=job.pending or owed.hold)
    try:
        # It takes the place of the runs that were cancelled: those must not go for nothing.
        stored = await book.enqueue(
            job, cron.read_ms + _STORE_WITHIN_MS, ignore_depth_bound=bool(owed.cancels)
        )
    except Duplicate as error:
        if error.details.get("existing_job_id") != owed.job_id:
            refusal = error
        elif not job.pending:
            # It is there, as it should. It may wait for an earlier run that has ended since: a
            # failover can lose that this tick was claimed before, and with it who lets it go.
            with suppress(Conflict, NotFound):
                await book.activate(owed.job_id)
    except QueueFull as full:
        # Not tried again: a tick that comes late is worth less than the next one. Another process
        # that delivers the same may be slower, and find room.
        if await book.bar(owed.job_id):
            reason = f"{QUEUE_FULL}: {full.message}"
            await book.settle(cron.name, "refused", owed.job_id, (owed.job_id,), reason=reason)
            raise
    # A node may still lose an unconfirmed job: the record of the due run must outlive it.
    if not has_unconfirmed_writes():
        await book.settle(cron.name, "delivered", owed.job_id)
    if refusal is not None:
        raise refusal
    return stored


async def _look_at(book: Book, cron: CronRecord, now_ms: int) -> None:
    if cron.owed is not None:
        await _deliver_tick(book, cron)
        return
    if cron.held:
        await _let_go(book, cron)
    if cron.next_ms is None or cron.next_ms > now_ms:
        return
    try:
        # A job that cannot be read must not become a debt: that could never be delivered.
        await make_job(cron.name, cron.fields[b"j"], cron.next_ms)
    except UnusableDefinition as found:
        _log_refusal(cron, found)
        refusal = Claim(fire=False, job_id="", refusal=found.reason)
        await book.claim(cron, _moving_on(cron, refusal, cron.next_ms, now_ms))
        return
    claimed = await book.claim(cron, await _decide(book, cron, cron.next_ms, now_ms))
    if claimed is not None and claimed.owed is not None:
        await _deliver_tick(book, claimed)


async def _deliver_tick(book: Book, cron: CronRecord) -> None:
    """Deliver what is owed; nobody waits for what keeps its job from being stored."""
    try:
        with suppress(Duplicate):
            await deliver(book, cron)
    except QueueFull as full:
        log.warning("cron job '%s': this tick is left out: %s", cron.name, full.message)
    except UnusableDefinition as found:
        _log_refusal(cron, found)


def _log_refusal(cron: CronRecord, found: UnusableDefinition) -> None:
    log.error(
        "cron job '%s': no job can be made of its definition, so this tick is left out: %s. "
        "Register it again with a definition that works",
        cron.name,
        found.reason,
    )


@dataclass(frozen=True, slots=True)
class _Runs:
    """Earlier runs: what is left of them, oldest first."""

    unfinished: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()


async def _runs(book: Book, cron: CronRecord) -> _Runs:
    if cron.overlap == "allow" and not cron.held:
        return _Runs()
    unfinished: set[str] = set()

    async def look(job_id: str) -> None:
        if await _unfinished(book, job_id):
            unfinished.add(job_id)

    await over_shards(cron.open, look)
    return _Runs(
        tuple(job_id for job_id in cron.open if job_id in unfinished),
        tuple(job_id for job_id in cron.open if job_id not in unfinished),
    )


def _moving_on(cron: CronRecord, claim: Claim, tick_ms: int, now_ms: int) -> Claim:
    """Add to what is decided about a tick the one that follows it."""
    # Ticks missed while nobody led are one, the earliest; the clock of a new master may be behind.
    following = cron.schedule.following(max(now_ms, tick_ms), cron.anchor_ms)
    return replace(
        claim,
        tick_ms=tick_ms,
        next_ms=None if following is None else following.ms,
        gap_ms=None if following is None else following.gap_ms,
    )


async def _decide(book: Book, cron: CronRecord, tick_ms: int, now_ms: int) -> Claim:
    runs = await _runs(book, cron)
    # A run that waits for a worker or for its next attempt is in the way like an active one:
    # otherwise a queue without workers would gather a job per tick.
    most = {"skip": 1, "enqueue": MOST_WAITING}.get(cron.overlap)
    if most is not None and len(runs.unfinished) >= most:
        claim = Claim(fire=False, job_id=runs.unfinished[0], ended=runs.ended)
    else:
        claim = _fire(book, cron, runs, tick_ms)
    return _moving_on(cron, claim, tick_ms, now_ms)


def _fire(book: Book, cron: CronRecord, runs: _Runs, tick_ms: int | None = None) -> Claim:
    hold = cron.overlap == "enqueue" and bool(runs.unfinished)
    if hold and len(runs.unfinished) > _MANY_WAITING:
        log.warning("cron job '%s': %d runs are unfinished", cron.name, len(runs.unfinished))
    return Claim(
        fire=True,
        job_id=book.job_id(cron, tick_ms),
        hold=hold,
        cancels=runs.unfinished if cron.overlap == "cancel_previous" else (),
        ended=runs.ended,
    )


async def _let_go(book: Book, cron: CronRecord) -> None:
    """Make the first held run available once all runs before it have ended."""
    ended: list[str] = []
    let_go: tuple[str, ...] = ()
    for job_id in cron.open:
        if await _unfinished(book, job_id):
            if job_id in cron.held:
                with suppress(Conflict):
                    await book.activate(job_id)
                let_go = (job_id,)
            break
        ended.append(job_id)
    await book.settle(cron.name, "swept", "", ended, let_go)


async def _unfinished(book: Book, job_id: str) -> bool:
    state = await book.state(job_id)
    return state is not None and state not in TERMINAL
