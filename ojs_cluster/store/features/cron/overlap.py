"""Overlap policies: what happens while earlier runs are unfinished (spec: ojs-cron 7)."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace

from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.store.features.cron.cron_record import CronRecord
from ojs_cluster.store.features.cron.firing_store import CronStore, OccurrenceDecision
from ojs_cluster.store.ground.fanout import run_concurrently

log = logging.getLogger("ojs.store")

MAX_WAITING_RUNS = 100
"""Maximum number of unfinished runs under the policy ``enqueue``; then occurrences are skipped."""
_MANY_WAITING_RUNS = 2
"""If more than this number of runs are unfinished, each further run logs a warning."""


@dataclass(frozen=True, slots=True)
class EarlierRuns:
    """Earlier runs, oldest first: those that are unfinished and those that have ended."""

    unfinished: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()


async def earlier_runs(cron_store: CronStore, cron: CronRecord) -> EarlierRuns:
    """Return the earlier runs of a cron job; none under the policy ``allow``, which needs none."""
    if cron.overlap == "allow" and not cron.held_runs:
        return EarlierRuns()
    unfinished: set[str] = set()

    async def check(job_id: str) -> None:
        if await _is_unfinished(cron_store, job_id):
            unfinished.add(job_id)

    await run_concurrently(cron.open_runs, check)
    return EarlierRuns(
        tuple(job_id for job_id in cron.open_runs if job_id in unfinished),
        tuple(job_id for job_id in cron.open_runs if job_id not in unfinished),
    )


def decide(
    cron_store: CronStore, cron: CronRecord, runs: EarlierRuns, occurrence_ms: int, now_ms: int
) -> OccurrenceDecision:
    """Decide about an occurrence that is due: fire, or skip because of unfinished runs."""
    # A run that waits for a worker or for its next attempt counts as unfinished, like an active
    # one: otherwise a queue without workers would collect a job per occurrence.
    limit = {"skip": 1, "enqueue": MAX_WAITING_RUNS}.get(cron.overlap)
    if limit is not None and len(runs.unfinished) >= limit:
        decision = OccurrenceDecision(fire=False, job_id=runs.unfinished[0], ended=runs.ended)
    else:
        decision = decide_to_fire(cron_store, cron, runs, occurrence_ms)
    return with_next_occurrence(cron, decision, occurrence_ms, now_ms)


def decide_to_fire(
    cron_store: CronStore, cron: CronRecord, runs: EarlierRuns, occurrence_ms: int | None = None
) -> OccurrenceDecision:
    """Return the decision to fire; without ``occurrence_ms`` that of a manual run."""
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


def with_next_occurrence(
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


async def release_held_run(cron_store: CronStore, cron: CronRecord) -> None:
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
