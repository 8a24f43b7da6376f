"""Transitions of many jobs in one request: one script per shard, each job independently.

Unlike a batch of new jobs this is no transaction. A worker reports the outcome of each job. A job
whose lease was lost must not affect the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ojs_cluster.core.errors import NotFound, OJSError
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.fetch.lease_ids import shard_of_lease
from ojs_cluster.store.jobs.by_id import refusal
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.portions import portion_ranges
from ojs_cluster.store.runtime import Arg

PORTION = 100
"""Most jobs per script, fewer when their results or errors are large."""
_MAX_PORTION_BYTES = 512 * 1024
"""Bytes of results or errors per script, unless one alone is larger. A script copies each of them
several times, so 2 MiB of errors take 20 ms."""

JobOutcome = State | OJSError
"""The state of one job after its transition, or the error that prevented the transition."""


@dataclass(frozen=True, slots=True)
class JobTransition:
    """One job of the request.

    Args:
        job_id: the job.
        args: the script's arguments for this job.
        run_alone: the same transition of this job only, for a job that is stored in another shard
            than its id names, or that is only prepared.
        refused: the outcome of a job that must not be tried.
        lease_id: the caller's lease, which names the shard of the job when its id does not.
    """

    job_id: str
    args: Sequence[Arg]
    run_alone: Callable[[], Awaitable[JobRecord]]
    refused: OJSError | None = None
    lease_id: str | None = None


async def run_on_jobs(
    store: Store,
    name: str,
    shard_keys: Sequence[str],
    args: Sequence[Arg],
    transitions: Sequence[JobTransition],
    *,
    idempotent: bool,
) -> list[JobOutcome]:
    """Run a transition of many jobs.

    Args:
        name: the script. KEYS are the shard's keys and then the jobs; ARGV are ``args`` and then
            those of each job.
        shard_keys: the shard's keys as attributes of ``keys.Shard``.
        args: the arguments for all jobs.
        transitions: the jobs.
        idempotent: as of ``Runtime.run``.

    Returns:
        The outcomes, in the order of ``transitions``.
    """
    outcomes: list[JobOutcome] = [
        part.refused or NotFound("job", part.job_id) for part in transitions
    ]
    of_shard: dict[Shard, list[int]] = {}
    for index, part in enumerate(transitions):
        if part.refused is None and is_job_id(part.job_id):
            of_shard.setdefault(store.keys.shard_of_id(part.job_id), []).append(index)

    async def run_on_shard(shard: Shard) -> None:
        indexes = of_shard[shard]
        sizes = [_size(transitions[index]) for index in indexes]
        for start, end in portion_ranges(sizes, PORTION, _MAX_PORTION_BYTES):
            await run_portion(shard, indexes[start:end])

    async def run_portion(shard: Shard, portion: Sequence[int]) -> None:
        keys = [getattr(shard, key) for key in shard_keys]
        keys += [shard.job(transitions[index].job_id) for index in portion]
        arguments = [*args, *(arg for index in portion for arg in transitions[index].args)]
        try:
            reply = await store.run(shard, name, keys, arguments, idempotent=idempotent)
        except OJSError as error:
            for index in portion:
                outcomes[index] = error
            return
        if reply[0]:
            await deliver(store, shard, reply[0])
        for index, answer in zip(portion, reply[1:], strict=True):
            one = transitions[index]
            if answer[0] == b"ok":
                outcomes[index] = State(answer[1].decode())
            elif answer[0] in (b"moved", b"prepared") or _leased_elsewhere(store, shard, one):
                outcomes[index] = await _run_alone(one)
            else:
                outcomes[index] = refusal(one.job_id, answer, shard)

    await run_concurrently(of_shard, run_on_shard)
    return outcomes


def _size(part: JobTransition) -> int:
    return sum(len(arg) for arg in part.args if isinstance(arg, bytes | str))


def _leased_elsewhere(store: Store, shard: Shard, part: JobTransition) -> bool:
    """Return whether another shard than the one that refused the lease has granted it."""
    leased_by = shard_of_lease(store.keys, part.lease_id)
    return leased_by is not None and leased_by is not shard


async def _run_alone(part: JobTransition) -> JobOutcome:
    try:
        return (await part.run_alone()).state
    except OJSError as error:
        return error
