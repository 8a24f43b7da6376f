"""Decide which jobs of a batch are stored when several have one fingerprint.

The jobs are compared in the order of the batch: the first with the job that holds the lock, each
later job with the job before it that will be stored. The policy of the later job decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.jobs.unique import UniquePolicy
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.engine.unique_locks import LockHolder


@dataclass(slots=True)
class ConflictDecision:
    """What happens to the jobs of one fingerprint, given the job that holds the lock now.

    A number stands for the job at this position of the batch.

    Args:
        last: the job that will hold the lock, None when no job of the batch will.
        instead: for each job that is not stored, the job that is returned instead: a stored job, or
            a job of the batch.
        superseded: jobs that a later job of the batch replaces.
        replaces_holder: whether ``last`` replaces the job that holds the lock now.
        due: for each job that takes over the schedule of the job that it replaces, the Unix time in
            ms when it is due.
    """

    last: int | None = None
    instead: dict[int, JobRecord | int] = field(default_factory=dict)
    superseded: list[int] = field(default_factory=list)
    replaces_holder: bool = False
    due: dict[int, int] = field(default_factory=dict)


def decide_conflicts(
    jobs: Sequence[NewJob],
    fingerprint: str,
    group: Sequence[tuple[int, UniquePolicy]],
    holder: LockHolder | None,
    now_ms: int,
) -> ConflictDecision:
    """Apply the policies of all jobs of a fingerprint, in the order of the request.

    Args:
        jobs: all jobs of the batch.
        fingerprint: the fingerprint.
        group: position and policy of each job of the fingerprint.
        holder: the job that holds the lock, None for none.
        now_ms: the present time in Unix milliseconds.

    Raises:
        Duplicate: a job conflicts, and its policy is ``reject``.
    """
    decision = ConflictDecision()
    for index, policy in group:
        last = decision.last
        state: State | None
        if last is None:
            state = holder.job.state if holder is not None and holder.blocks(policy) else None
            due = holder.job.due_ms if holder is not None else None
        else:
            state, due = _future_state(jobs[last], decision.due.get(last), now_ms)
            state = state if policy.conflicts(state, 0) else None
        if state is None:
            decision.last = index
        elif policy.on_conflict == "reject":
            raise _duplicate_error(len(jobs), fingerprint, index, holder, last)
        elif policy.on_conflict == "ignore":
            decision.instead[index] = holder.job if last is None and holder else last or 0
        else:
            if last is None:
                decision.replaces_holder = True
            else:
                decision.superseded.append(last)
            if policy.on_conflict == "replace_except_schedule" and state == State.SCHEDULED:
                decision.due[index] = due or 0
            decision.last = index
    return decision


def _duplicate_error(
    count: int, fingerprint: str, index: int, holder: LockHolder | None, last: int | None
) -> Duplicate:
    """Return the error for a job that conflicts with the holder, or with job ``last``."""
    position = index if count > 1 else None
    if last is None and holder is not None:
        return unique.duplicate_error(fingerprint, holder.job, position)
    return Duplicate(
        f"jobs[{index}] conflicts with jobs[{last}], which has the same fingerprint",
        uniqueness_key=fingerprint,
        index=index,
    )


def _future_state(job: NewJob, due_ms: int | None, now_ms: int) -> tuple[State, int | None]:
    """Return the state in which a job will be stored, and the Unix time in ms when it is due.

    Args:
        job: the job.
        due_ms: Unix time in ms of a schedule that the job takes over, None for its own schedule.
        now_ms: Unix time in ms.
    """
    if job.pending:
        return State.PENDING, None
    if due_ms is None and job.scheduled is not None:
        due_ms = job.scheduled.ms + (now_ms if job.scheduled.relative else 0)
    if due_ms is not None and due_ms > now_ms:
        return State.SCHEDULED, due_ms
    return State.AVAILABLE, None
