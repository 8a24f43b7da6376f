"""Transitions of many jobs in one request: one script per shard, each job by itself.

Unlike a batch of new jobs this is no transaction. A worker reports what has happened to each job;
that one of them was lost to another is no reason to forget the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ojs_cluster.core.errors import NotFound, OJSError
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.fetch.lease_ids import shard_of_lease
from ojs_cluster.store.jobs.by_id import refusal
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.portions import cuts
from ojs_cluster.store.runtime import Arg

PORTION = 100
"""Jobs per script at most, fewer when their results or errors are large."""
_PORTION_BYTES = 512 * 1024
"""Bytes of results or errors per script, unless one alone is larger. A script copies each of them
several times, so 2 MiB of errors take 20 ms."""

Outcome = State | OJSError
"""What became of one job: its state, or why the transition was refused or could not be made."""


@dataclass(frozen=True, slots=True)
class Part:
    """One job of the request.

    Args:
        args: what the script wants to know of it.
        alone: the same transition of this job only, for one that lives elsewhere than its id
            says, or has to be brought into being first.
        refused: why it is not even tried; then this is its outcome.
        lease_id: the caller's lease, which says where the job lives when its id does not lead
            there.
    """

    job_id: str
    args: Sequence[Arg]
    alone: Callable[[], Awaitable[JobRecord]]
    refused: OJSError | None = None
    lease_id: str | None = None


async def on_jobs(
    store: Store,
    name: str,
    shard_keys: Sequence[str],
    args: Sequence[Arg],
    parts: Sequence[Part],
    *,
    idempotent: bool,
) -> list[Outcome]:
    """Run a transition of many jobs; the outcomes are in the order of ``parts``.

    Args:
        name: the script; KEYS are the shard's keys named by ``shard_keys`` and then the jobs, ARGV
            ``args`` and then those of each part.
    """
    outcomes: list[Outcome] = [part.refused or NotFound("job", part.job_id) for part in parts]
    of_shard: dict[Shard, list[int]] = {}
    for index, part in enumerate(parts):
        if part.refused is None and is_job_id(part.job_id):
            of_shard.setdefault(store.keys.shard_of_id(part.job_id), []).append(index)

    async def together(shard: Shard) -> None:
        indexes = of_shard[shard]
        sizes = [_size(parts[index]) for index in indexes]
        for start, end in cuts(sizes, PORTION, _PORTION_BYTES):
            await _portion(shard, indexes[start:end])

    async def _portion(shard: Shard, portion: Sequence[int]) -> None:
        keys = [getattr(shard, key) for key in shard_keys]
        keys += [shard.job(parts[index].job_id) for index in portion]
        words = [*args, *(arg for index in portion for arg in parts[index].args)]
        try:
            reply = await store.run(shard, name, keys, words, idempotent=idempotent)
        except OJSError as error:
            for index in portion:
                outcomes[index] = error
            return
        if reply[0]:
            await deliver(store, shard, reply[0])
        for index, answer in zip(portion, reply[1:], strict=True):
            if answer[0] == b"ok":
                outcomes[index] = State(answer[1].decode())
            elif answer[0] in (b"moved", b"prepared") or _is_elsewhere(store, shard, parts[index]):
                outcomes[index] = await _alone(parts[index])
            else:
                outcomes[index] = refusal(parts[index].job_id, answer, shard)

    await over_shards(of_shard, together)
    return outcomes


def _size(part: Part) -> int:
    return sum(len(arg) for arg in part.args if isinstance(arg, bytes | str))


def _is_elsewhere(store: Store, shard: Shard, part: Part) -> bool:
    """Whether the lease was given by another shard than the one that has refused it."""
    leased_by = shard_of_lease(store.keys, part.lease_id)
    return leased_by is not None and leased_by is not shard


async def _alone(part: Part) -> Outcome:
    try:
        return (await part.alone()).state
    except OJSError as error:
        return error
