"""What firing needs from the store: the functions, and the values that they exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.features.cron.cron_record import CronRecord

FiringOutcome = Literal["delivered", "refused", "failed", "unreadable", "checked"]
"""Outcomes that ``cron_record_outcome.lua`` describes."""


@dataclass(frozen=True, slots=True)
class OccurrenceDecision:
    """The decision about an occurrence.

    Args:
        fire: whether a job is stored; not read when there is a refusal.
        job_id: id of the job to store, or the id of the unfinished run because of which the
            occurrence is skipped; '' with a refusal.
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
        small: those cron jobs whose fields are small: they need no call to load them.
    """

    names: Sequence[str]
    now_ms: int
    next_ms: int | None
    small: Sequence[CronRecord] = ()


class CronStore(Protocol):
    """The functions of the store that firing calls.

    Each that calls Redis raises ``BackendUnavailable`` if Redis does not answer in time.
    """

    async def due(self, limit: int) -> DueCrons:
        """Return the cron jobs to check now."""
        ...

    async def load(self, name: str) -> CronRecord | None:
        """Return a cron job; None when it does not exist."""
        ...

    async def claim(self, cron: CronRecord, decision: OccurrenceDecision) -> CronRecord | None:
        """Write a decision: to fire, to skip or to refuse an occurrence.

        Returns:
            The cron job afterwards; None when nothing was written, because the cron job differs
            from ``cron`` or has a firing.
        """
        ...

    async def claim_each(
        self, decisions: Sequence[tuple[CronRecord, OccurrenceDecision]]
    ) -> list[CronRecord | None]:
        """Write several decisions, each as ``claim``; return the results in their order.

        If it raises, some are written. The next check finds the firings of these.
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

    async def record_delivered(self, firings: Mapping[str, str]) -> None:
        """Record that firings were delivered.

        Args:
            firings: the job id of each firing by the name of its cron job.
        """
        ...

    def job_id(self, cron: CronRecord, occurrence_ms: int | None) -> str:
        """Return the id of a run: the same for each call of an occurrence, new for a manual run."""
        ...

    async def state(self, job_id: str) -> State | None:
        """Return a job's state, None when there is no such job or when it is malformed."""
        ...

    async def ended_runs(self, job_ids: Sequence[str]) -> set[str]:
        """Return those jobs that are known to have ended."""
        ...

    async def check_args(self, job: NewJob) -> None:
        """Check the args of a job against the schema of its type.

        Raises:
            ArgsRefused: the args do not match.
        """
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

    async def enqueue_each(self, jobs: Sequence[NewJob], store_before_ms: int) -> set[str]:
        """Store jobs with ids; return the ids of those that are known to be stored by this call."""
        ...

    async def forbid_id(self, job_id: str) -> bool:
        """Forbid to store a job under an id; return False when a job is already stored."""
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
