"""Find the jobs that kill their workers, from the errors that name them."""

from __future__ import annotations

from typing import Final

import msgspec

from ojs_cluster.core.errors import MalformedJob, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.isolation import LONE_DEATH
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.features.error_groups.error_groups import read_error_groups

_MAX_QUEUES: Final = 10
_MAX_KILLERS: Final = 3
"""Number of jobs that are reported."""
_DISCARDED_MS: Final = 3_600_000
"""Time in ms for which a discarded job is reported. A dead letter is reported until it is retried
or deleted."""


class KillerJob(msgspec.Struct, frozen=True):
    """A job whose workers died while they ran it alone.

    Args:
        id: the job.
        type: its type.
        deaths: how many died.
        has_ended: whether it does not run again.
    """

    id: str
    type: str
    deaths: int
    has_ended: bool


async def find_killers(store: Store) -> list[KillerJob]:
    """Return the jobs that kill their workers, the last death first; one of each queue at least.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    groups = [g for g in await read_error_groups(store) if g.message.startswith(LONE_DEATH)]
    queues = list(dict.fromkeys(queue for group in groups for queue in group.queues))
    last_ms: dict[str, int] = {}
    for queue in queues[:_MAX_QUEUES]:
        for group in await read_error_groups(store, queue=queue):
            if group.message.startswith(LONE_DEATH):
                last_ms[group.job_id] = max(group.last_ms, last_ms.get(group.job_id, 0))
    found = []
    for job_id in sorted(last_ms, key=lambda each: -last_ms[each]):
        killer = await _read(store, job_id)
        if killer is not None:
            found.append(killer)
    return found[:_MAX_KILLERS]


async def _read(store: Store, job_id: str) -> KillerJob | None:
    """Return the job; None if it has run to its end, or operators have taken care of it."""
    try:
        job = await read_jobs.get(store, job_id)
    except (NotFound, MalformedJob):
        return None
    if not job.lone_deaths or job.hidden or job.state in (State.COMPLETED, State.CANCELLED):
        return None
    if job.state is State.DISCARDED and not job.dead:
        finished_ms = job.finished_ms or 0
        if store.clock.now_ms() - finished_ms > _DISCARDED_MS:
            return None
    return KillerJob(job.id, job.type, job.lone_deaths, job.state is State.DISCARDED)
