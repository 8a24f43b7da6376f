"""Fetch jobs for a worker (spec: ojs-core, FETCH; ojs-worker-protocol)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError, OutOfTime
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import share_remaining_time
from ojs_cluster.redis.driven_coroutines import ShieldedBlock, driver_state, ensure_task
from ojs_cluster.redis.errors import ReplyTooLarge
from ojs_cluster.redis.packed_calls import PackedKeys
from ojs_cluster.store.context import Store
from ojs_cluster.store.fetch.lease_ids import new_prefix, shard_of_lease
from ojs_cluster.store.fetch.partition_fetch import ask_partitions
from ojs_cluster.store.fetch.ranked_fetch import ask_in_order
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.nack import release as release_one
from ojs_cluster.store.jobs.record import JobRecord, record
from ojs_cluster.store.outbox.outbox import deliver, entries
from ojs_cluster.store.runtime import Arg

RELEASE_S = 5.0
"""How long a cancelled caller's jobs are tried to be given back; then their leases end."""
_MOST_BYTES = 8 * 1024 * 1024
_REPLY_BYTES = 2 * 1024 * 1024
"""A reply with jobs of so many bytes may have left others
(``store/include/base/reply_size.lua``)."""
_ROUNDS = 4
"""How often one fetch asks one shard, when that leads to tokens or past many jobs that wait."""
PASSING_S = 2.0
"""For how long a fetch without jobs goes on while that leads past jobs that wait, or to rate limit
keys that have not been asked. All fetches together pass a job once and ask a full key once, so the
jobs behind them are reached."""
_FIRST_WIDTH, _MOST_WIDTH = 8, 128
"""For how many rate limit keys one call asks tokens when the best jobs had none. Four times as many
each time: few tokens are asked in vain, and a thousand full keys are ten calls."""


_FEW = 4
"""For so many queues the keys are kept: a megabyte in all, however clients mix them."""
_DIRECT = 3
"""Up to so many shards are asked one after the other; the depths of more are read at once."""
_Stage = tuple[list[Shard], list[str]]
"""Shards, and the queues that are asked there together."""


class Quiet(Exception):
    """The worker is marked: it may not fetch, whatever there is."""


async def fetch(
    store: Store,
    queues: Sequence[str],
    *,
    count: int,
    worker_id: str,
    visibility_timeout_ms: int | None = None,
) -> list[JobRecord]:
    """Lease up to ``count`` available jobs, from the queues in the order given.

    A caller that is cancelled claims nothing: what Redis gave is given back. Of large jobs a fetch
    takes about 8 MiB, however many were asked for; where it asks many shards at once, one reply of
    each of the 16 that it waits for more.

    Args:
        queues: strict order; a later queue is asked only when the earlier ones are empty.
        worker_id: the holder of the leases, '' when the caller does not say.
        visibility_timeout_ms: lease length that overrides each job's own.

    Raises:
        BackendUnavailable: Redis did not answer in time, and no job was had before that. Jobs whose
            reply was lost are released as soon as their shard answers again (see
            ``unanswered_fetches``).
    """
    try:
        return await fetch_unless_quiet(store, queues, count, worker_id, visibility_timeout_ms)
    except Quiet:
        return []


async def fetch_unless_quiet(
    store: Store,
    queues: Sequence[str],
    count: int,
    worker_id: str,
    visibility_timeout_ms: int | None,
) -> list[JobRecord]:
    """As ``fetch``, for callers who must tell an empty queue from a worker that may not look.

    Raises:
        Quiet: the worker is marked, and no job was had.
        BackendUnavailable: as ``fetch``.
    """
    await store.fetch_touches.touch(store, worker_id)
    await store.partitions.refresh_if_stale(store)
    asking = _Asking(store, count, worker_id, visibility_timeout_ms)
    stages = _stages(store, queues)
    try:
        failure = await _ask_all(store, stages, asking)
    except BaseException:  # being cancelled while shards are asked at once is a group of them
        await release(store, asking.jobs)
        raise
    if failure is not None and not asking.jobs:
        raise failure
    if len(stages) > 1:
        rank = {queue: place for place, queue in enumerate(dict.fromkeys(queues))}
        asking.jobs.sort(key=lambda job: rank[job.queue])
    return asking.jobs


async def _ask_all(store: Store, stages: Sequence[_Stage], asking: _Asking) -> Exception | None:
    """Ask for jobs until there are enough. Returns why some could not be asked for.

    The first queues are asked at once: on a busy queue that is one call. When they give too little,
    and many follow, the depths of all others are read together.
    """
    if len(stages) == 1 and len(stages[0][0]) == 1:
        return await _ask_stage(store, *stages[0], asking)
    failure: Exception | None = None
    direct = len(stages) if len(stages) <= _DIRECT else 1
    if len(stages) > 1 and any(store.depths.in_doubt(shards) for shards, _ in stages):
        direct = 0  # a call that waits for one that is away would delay the jobs of the others
    for place, (shards, names) in enumerate(stages[:direct]):
        if asking.full:
            return failure
        # One that is silent, and not known for it, must leave time for those after it.
        with share_remaining_time(len(stages) - place):
            stopped = await _ask_stage(store, shards, names, asking)
        if isinstance(stopped, Quiet):
            return stopped
        failure = failure or stopped
        if isinstance(stopped, OutOfTime) or not asking.wanted:
            return failure
    if direct < len(stages) and not asking.full:
        later = await ask_in_order(store, stages[direct:], asking)
        failure = failure or later
    return failure


async def _ask_stage(
    store: Store, shards: list[Shard], names: list[str], asking: _Asking
) -> Exception | None:
    """Ask a stage for jobs. Returns why it could not be asked for, or that the worker is quiet."""
    try:
        if len(shards) == 1:
            await asking.ask(shards[0], names)
        else:
            await ask_partitions(store, names[0], shards, asking)
    except Quiet as quiet:
        return quiet
    except OJSError as error:
        if (
            len(shards) == 1
            and isinstance(error, BackendUnavailable)
            and not isinstance(error, OutOfTime)
        ):
            store.depths.failed(shards[0])
        return error
    return None


async def release(store: Store, jobs: Iterable[JobRecord]) -> None:
    """Give back jobs that a vanished client never saw: to the front, their attempt undone.

    Never raises: jobs that cannot be given back in time are left to ``unanswered_fetches``.
    """
    left = list(jobs)
    if not left:
        return
    await ensure_task()
    with trio.move_on_after(RELEASE_S, shield=True):
        while left:
            try:
                await release_one(store, left[-1])
            except BackendUnavailable:
                break
            except OJSError:
                pass  # the lease is over
            left.pop()
    for job in left:
        if job.lease_id is not None:
            shard = shard_of_lease(store.keys, job.lease_id)
            if shard is not None:
                store.unanswered_fetches.note(shard, job.lease_id.encode())


def _stages(store: Store, queues: Sequence[str]) -> list[_Stage]:
    """Whom to ask one after the other: shards, and queues.

    Neighbours in the list that share a shard share a call; a queue of several partitions stands for
    itself. The order stays strict.
    """
    stages: list[_Stage] = []
    for queue in dict.fromkeys(queues):
        shards = store.keys.partitions(queue, store.partitions.layout(queue).open_count)
        if len(shards) == 1 and stages and stages[-1][0] == shards:
            stages[-1][1].append(queue)
        else:
            stages.append((shards, [queue]))
    return stages


def _keys(shard: Shard, queues: Iterable[str]) -> Sequence[bytes]:
    """KEYS of the scripts that fetch from some queues of a shard."""
    keys = [
        shard.due,
        shard.active,
        shard.execution_deadlines,
        shard.expiring,
        shard.finished,
        shard.events,
    ]
    keys.append(shard.quiet_workers)
    for queue in queues:
        keys += (shard.queue_counters(queue), shard.queue_available(queue))
        keys += (shard.queue_blocked(queue), shard.token_demand(queue))
    return keys


@lru_cache(maxsize=1024)
def _packed_keys(shard: Shard, queues: tuple[str, ...]) -> PackedKeys:
    """As ``_keys``, for what is asked for again and again."""
    return PackedKeys(_keys(shard, queues))


class _Asking:
    """One fetch: what it has, and how it asks for more."""

    def __init__(
        self,
        store: Store,
        count: int,
        worker_id: str,
        visibility_timeout_ms: int | None,
        whole: _Asking | None = None,
    ) -> None:
        self._whole = whole
        self._bytes = 0
        self._store = store
        self._count = count
        self._worker_id = worker_id
        self._visibility_timeout_ms = visibility_timeout_ms
        self.jobs: list[JobRecord] = []

    @property
    def wanted(self) -> int:
        """How many jobs more."""
        return self._count - len(self.jobs)

    @property
    def full(self) -> bool:
        """Whether the jobs of the whole fetch are large together: no more are taken then."""
        return (self._whole or self)._bytes >= _MOST_BYTES

    async def take(self, shard: Shard, queues: Sequence[str], most: int) -> int:
        """Take up to ``most`` jobs of a shard; returns how many it gave.

        Raises:
            Quiet, BackendUnavailable: as ``fetch_unless_quiet``.
        """
        share = _Asking(self._store, most, self._worker_id, self._visibility_timeout_ms, self)
        try:
            # Others may have filled the fetch while this one waited for its turn.
            if not share.full:
                await share.ask(shard, queues)
        finally:
            self.jobs += share.jobs
        return len(share.jobs)

    async def ask(self, shard: Shard, queues: Sequence[str]) -> int:
        """Ask a shard for jobs of some of its queues; returns how many the first has left.

        Raises:
            Quiet, BackendUnavailable: as ``fetch_unless_quiet``.
        """
        left, turn, width, began = 0, 0, 0, trio.current_time()
        while True:
            # Shielded: only the reply tells which jobs have a lease now. The Redis client limits
            # the time of the call.
            with ShieldedBlock():
                before = len(self.jobs)
                asked, more, left = await self._ask(shard, queues, width)
            if driver_state.driven is None:
                await trio.lowlevel.checkpoint_if_cancelled()
            given = self.jobs[before:]
            if self.wanted and sum(job.size for job in given) >= _REPLY_BYTES and not self.full:
                continue
            turn += 1
            passing = not self.jobs and trio.current_time() - began < PASSING_S
            if not (asked or more) or not self.wanted or (turn >= _ROUNDS and not passing):
                return left
            width = min(max(_FIRST_WIDTH, width * 4), _MOST_WIDTH)

    async def _ask(self, shard: Shard, queues: Sequence[str], width: int) -> tuple[bool, bool, int]:
        """Take what one shard gives.

        Returns whether it has asked for tokens, which may have come by now; whether there may be
        jobs behind those that it has looked through, or keys to be asked; and how many jobs the
        first queue has left.

        Args:
            width: for how many keys that have no ask under way tokens are asked, 0: for the
                best jobs.
        """
        store = self._store
        settings, asked_ms = store.settings, self._visibility_timeout_ms
        few = len(queues) <= _FEW
        keys = _packed_keys(shard, tuple(queues)) if few else _keys(shard, queues)
        prefix = new_prefix(shard)
        args: list[Arg] = [
            settings.events_per_shard,
            self.wanted,
            self._worker_id,
            prefix,
            asked_ms if asked_ms is not None else "",
            settings.visibility_timeout_ms,
            settings.retention_discarded_ms,
            shard.index,
            width,
            *queues,
        ]
        limited = store.limited.among(shard, queues)
        try:
            reply = await store.run(shard, "fetch_full" if limited else "fetch", keys, args)
            if reply[1] in (b"full_path", b"limited"):
                if reply[1] == b"limited":
                    store.limited.note(shard, queues)
                reply = await store.run(shard, "fetch_full", keys, args)
        except (BackendUnavailable, ReplyTooLarge) as error:
            if isinstance(error, ReplyTooLarge) or error.outcome != "not_applied":
                store.unanswered_fetches.note(shard, prefix)
            raise
        if reply[1] == b"quiet":
            raise Quiet
        found = self._leased(reply, prefix)
        self.jobs += found  # first: what fails or is cancelled from here on releases them
        (self._whole or self)._bytes += sum([job.size for job in found])
        await deliver(store, shard, reply[1])
        asked = bool(reply[1]) and any(
            entry.kind == "token_request" for entry in entries(shard, reply[1])
        )
        return asked, bool(reply[2]), int(reply[3]) - len(found)

    def _leased(self, reply: Sequence[Any], prefix: bytes) -> list[JobRecord]:
        """The jobs of a reply with their leases: of these it tells only what is not known here."""
        started, worker = b"%d" % reply[0], self._worker_id.encode()
        found: list[JobRecord] = []
        for at in range(4, len(reply), 5):
            job_id, flat, attempt, deadline, lease_ms = reply[at : at + 5]
            flat += (f.STATE, b"active", f.WORKER, worker, f.STARTED, started)
            flat += (f.LEASE, b"%b%d" % (prefix, len(found) + 1), f.LEASE_MS, b"%d" % int(lease_ms))
            flat += (f.ATTEMPT, b"%d" % attempt, f.DEADLINE, b"%d" % deadline)
            found.append(record(job_id.decode(), flat))
        return found
