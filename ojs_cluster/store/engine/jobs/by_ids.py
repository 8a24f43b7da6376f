"""Run a transition of many jobs in one request: one script per shard, each job independently.

This is no transaction, unlike a batch of new jobs. A worker reports how each of its jobs ended, and
a job whose lease was lost must not affect the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ojs_cluster.core.errors import NotFound, OJSError
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import refusal
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.lease_ids import shard_of_lease
from ojs_cluster.store.ground.portions import portion_ranges
from ojs_cluster.store.ground.runtime import Arg

PORTION = 100
"""Maximum number of jobs per script; fewer when their results or errors are large, or when
webhooks select their events."""
_MAX_PORTION_BYTES = 512 * 1024
"""Maximum size in bytes of the results or errors of a script with several jobs.

A script copies each result or error several times, so 2 MiB of errors take 20 ms."""

JobOutcome = State | OJSError
"""The state of one job after its transition, or the error that prevented the transition."""


@dataclass(frozen=True, slots=True)
class JobTransition:
    """One job of the request.

    Args:
        job_id: the job.
        args: the script's arguments for this job.
        run_alone: runs the same transition of this job alone. It is called for a job that is
            prepared, or that is stored in another shard than the owner shard of its id.
        refused: the error of a transition that must not run; None to run it.
        lease_id: the caller's lease id, None when it names none.
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
        store: the store.
        name: the script. Its KEYS are the shard's keys and then the jobs. Its ARGV are ``args`` and
            then the arguments of each job.
        shard_keys: the attributes of ``keys.Shard`` whose keys come first in KEYS.
        args: the arguments for all jobs.
        transitions: the jobs.
        idempotent: whether a call may be repeated after a lost reply, as of ``Runtime.run``.

    Returns:
        The outcomes, in the order of ``transitions``.
    """
    outcomes: list[JobOutcome] = [
        transition.refused or NotFound("job", transition.job_id) for transition in transitions
    ]
    by_shard: dict[Shard, list[int]] = {}
    for index, transition in enumerate(transitions):
        if transition.refused is None and is_job_id(transition.job_id):
            by_shard.setdefault(store.keys.shard_of_id(transition.job_id), []).append(index)

    async def run_on_shard(shard: Shard) -> None:
        indexes = by_shard[shard]
        sizes = [_size(transitions[index]) for index in indexes]
        max_jobs = store.webhooks.jobs_per_script(name, PORTION)
        for start, end in portion_ranges(sizes, max_jobs, _MAX_PORTION_BYTES):
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
        for index, job_reply in zip(portion, reply[1:], strict=True):
            transition = transitions[index]
            if job_reply[0] == b"ok":
                state = outcomes[index] = State(job_reply[1].decode())
                if len(job_reply) > 2:  # otherwise the call has ended no attempt
                    _count(store, state, *job_reply[2:])
            elif job_reply[0] in (b"moved", b"prepared") or _leased_elsewhere(
                store, shard, transition
            ):
                outcomes[index] = await _run_alone(transition)
            else:
                outcomes[index] = refusal(transition.job_id, job_reply, shard)

    await run_concurrently(by_shard, run_on_shard)
    return outcomes


def _size(transition: JobTransition) -> int:
    return sum(len(arg) for arg in transition.args if isinstance(arg, bytes | str))


def _leased_elsewhere(store: Store, shard: Shard, transition: JobTransition) -> bool:
    """Return whether the lease id names another shard than ``shard``."""
    lease_shard = shard_of_lease(store.keys, transition.lease_id)
    return lease_shard is not None and lease_shard is not shard


async def _run_alone(transition: JobTransition) -> JobOutcome:
    try:
        return (await transition.run_alone()).state
    except OJSError as error:
        return error


def _count(
    store: Store, state: State, queue: bytes, job_type: bytes, run_ms: int | None = None
) -> None:
    """Count an attempt that this call has ended.

    Args:
        store: the store.
        state: the job's new state.
        queue: the job's queue.
        job_type: the job type.
        run_ms: run time of a completed job in milliseconds, None for a failed attempt.
    """
    if run_ms is None:
        store.job_counts.count_failed(queue, job_type, discarded=state is State.DISCARDED)
    else:
        store.job_counts.count_completed(queue, job_type, run_ms)
