"""Fetch jobs for a worker (spec: ojs-core, FETCH; ojs-worker-protocol)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError, OutOfTime
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import share_remaining_time
from ojs_cluster.redis.driven_coroutines import ShieldedBlock, driver_state, ensure_task
from ojs_cluster.redis.errors import ReplyTooLarge
from ojs_cluster.redis.packed_calls import PackedKeys
from ojs_cluster.store.context import Store
from ojs_cluster.store.fetch.lease_ids import new_prefix, shard_of_lease
from ojs_cluster.store.fetch.partition_fetch import fetch_from_partitions
from ojs_cluster.store.fetch.ranked_fetch import fetch_in_order
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.nack import release as release_one
from ojs_cluster.store.jobs.record import JobRecord, record
from ojs_cluster.store.outbox.outbox import deliver, parse_entries
from ojs_cluster.store.runtime import Arg

RELEASE_S = 5.0
"""Longest time in seconds to release the jobs of a cancelled caller; then their leases expire."""
_MAX_BYTES = 8 * 1024 * 1024
"""Size in bytes of the jobs of one fetch; the fetch takes no more jobs beyond it."""
_REPLY_BYTES = 2 * 1024 * 1024
"""A reply with jobs of this many bytes may have left others in the queue
(``store/include/base/reply_size.lua``)."""
_MAX_ROUNDS = 4
"""How often one fetch calls one shard while tokens or blocked jobs are in its way."""
PASSING_S = 2.0
"""How long, in seconds, a fetch without jobs continues while it passes blocked jobs or requests
tokens. Blocked jobs and exhausted keys are passed once by all fetches together, so the jobs behind
them are reached."""
_FIRST_WIDTH, _MAX_WIDTH = 8, 128
"""Number of rate limit keys for which one call requests tokens when the best jobs had none.
It grows by a factor of four: few tokens are requested in vain, and a thousand exhausted keys take
ten calls."""


_MAX_PACKED_QUEUES = 4
"""Keys are cached for lists of at most this many queues: a megabyte in all."""
_MAX_SEQUENTIAL = 3
"""At most this many stages are called one after the other; of more the depths are read at once."""
_Stage = tuple[list[Shard], list[str]]
"""Shards, and the queues that one call to each of them names."""


class WorkerIsQuiet(Exception):
    """The worker has a quiet flag, so it may not fetch."""


_REPLY_HEAD: Final = 4
_JOB_FIELDS: Final = 5


class _LeasedJob(NamedTuple):
    """One job of a reply of ``fetch.lua`` and ``fetch_full.lua``."""

    job_id: bytes
    flat: list[bytes]
    attempt: int
    deadline: int
    lease_ms: bytes


class _Reply(NamedTuple):
    """A reply of ``fetch.lua`` or ``fetch_full.lua`` that leased jobs.

    Args:
        now: the shard's time in milliseconds.
        effects: outbox entries to deliver.
        more: whether blocked jobs or unrequested tokens were left out.
        depth: jobs that the first queue had before the fetch.
    """

    now: int
    effects: list[bytes]
    more: bool
    depth: int
    jobs: list[_LeasedJob]

    @classmethod
    def parse(cls, reply: Sequence[Any]) -> _Reply:
        now, effects, more, depth = reply[:_REPLY_HEAD]
        jobs = [
            _LeasedJob(*reply[at : at + _JOB_FIELDS])
            for at in range(_REPLY_HEAD, len(reply), _JOB_FIELDS)
        ]
        return cls(now, effects, bool(more), int(depth), jobs)


async def fetch(
    store: Store,
    queues: Sequence[str],
    *,
    count: int,
    worker_id: str,
    visibility_timeout_ms: int | None = None,
) -> list[JobRecord]:
    """Lease up to ``count`` available jobs, from the queues in the order given.

    When the caller is cancelled, the jobs are released. A fetch takes about 8 MiB of large jobs,
    whatever ``count`` is. A fetch that calls many shards at once may exceed that by one reply of
    each of the 16 concurrent calls.

    Args:
        queues: strict order; a later queue is used only when the earlier ones are empty.
        worker_id: the holder of the leases, '' for an anonymous worker.
        visibility_timeout_ms: lease length in milliseconds that overrides each job's own.

    Raises:
        BackendUnavailable: Redis did not answer in time, and no job was found before. Jobs whose
            reply was lost are released as soon as their shard answers again (see
            ``unanswered_fetches``).
    """
    try:
        return await fetch_unless_quiet(store, queues, count, worker_id, visibility_timeout_ms)
    except WorkerIsQuiet:
        return []


async def fetch_unless_quiet(
    store: Store,
    queues: Sequence[str],
    count: int,
    worker_id: str,
    visibility_timeout_ms: int | None,
) -> list[JobRecord]:
    """Fetch as ``fetch`` does, for callers that must distinguish a quiet worker from no jobs.

    Raises:
        WorkerIsQuiet: the worker is quiet, and no job was found before.
        BackendUnavailable: as ``fetch``.
    """
    await store.fetch_touches.touch(store, worker_id)
    await store.partitions.refresh_if_stale(store)
    operation = _Fetch(store, count, worker_id, visibility_timeout_ms)
    stages = _stages(store, queues)
    try:
        failure = await _run_stages(store, stages, operation)
    except BaseException:  # cancellation during concurrent calls arrives as an exception group
        await release(store, operation.jobs)
        raise
    if failure is not None and not operation.jobs:
        raise failure
    if len(stages) > 1:
        rank = {queue: place for place, queue in enumerate(dict.fromkeys(queues))}
        operation.jobs.sort(key=lambda job: rank[job.queue])
    return operation.jobs


async def _run_stages(
    store: Store, stages: Sequence[_Stage], operation: _Fetch
) -> Exception | None:
    """Fetch from the stages in order until there are enough jobs.

    The first stage is called at once: on a busy queue that is the only call. When it returns too
    few jobs, and many stages follow, the depths of all others are read together.

    Returns:
        Why some stages could not be served; None when all were.
    """
    if len(stages) == 1 and len(stages[0][0]) == 1:
        return await _run_stage(store, *stages[0], operation)
    failure: Exception | None = None
    sequential = len(stages) if len(stages) <= _MAX_SEQUENTIAL else 1
    if len(stages) > 1 and any(store.depth_reader.any_unreachable(shards) for shards, _ in stages):
        sequential = 0  # waiting for an unreachable shard would delay the jobs of the others
    for place, (shards, names) in enumerate(stages[:sequential]):
        if operation.full:
            return failure
        # A shard that stops answering now must leave time for the later stages.
        with share_remaining_time(len(stages) - place):
            stopped = await _run_stage(store, shards, names, operation)
        if isinstance(stopped, WorkerIsQuiet):
            return stopped
        failure = failure or stopped
        if isinstance(stopped, OutOfTime) or not operation.wanted:
            return failure
    if sequential < len(stages) and not operation.full:
        later = await fetch_in_order(store, stages[sequential:], operation)
        failure = failure or later
    return failure


async def _run_stage(
    store: Store, shards: list[Shard], names: list[str], operation: _Fetch
) -> Exception | None:
    """Fetch from one stage.

    Returns:
        Why the stage could not be served, or that the worker is quiet; otherwise None.
    """
    try:
        if len(shards) == 1:
            await operation.fetch_from(shards[0], names)
        else:
            await fetch_from_partitions(store, names[0], shards, operation)
    except WorkerIsQuiet as quiet:
        return quiet
    except OJSError as error:
        if (
            len(shards) == 1
            and isinstance(error, BackendUnavailable)
            and not isinstance(error, OutOfTime)
        ):
            store.depth_reader.mark_unreachable(shards[0])
        return error
    return None


async def release(store: Store, jobs: Iterable[JobRecord]) -> None:
    """Return jobs that no client received to the front of their queues, and undo the attempt.

    Never raises: ``unanswered_fetches`` releases the jobs that cannot be released in time.
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
                store.unanswered_fetches.add(shard, job.lease_id.encode())


def _stages(store: Store, queues: Sequence[str]) -> list[_Stage]:
    """Group the queues into stages, in order.

    Neighbours in the list that share a shard share a call. A queue of several partitions is a stage
    of its own. The order stays strict.
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
    """Return KEYS of the scripts that fetch from some queues of a shard."""
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
    """Return ``_keys`` packed, for lists of queues that are fetched repeatedly."""
    return PackedKeys(_keys(shard, queues))


class _Fetch:
    """One fetch: the jobs that it has, and the calls that fetch more.

    Args:
        parent: the fetch that this one is a part of, when it calls several shards at once.
    """

    def __init__(
        self,
        store: Store,
        count: int,
        worker_id: str,
        visibility_timeout_ms: int | None,
        parent: _Fetch | None = None,
    ) -> None:
        self._parent = parent
        self._bytes = 0
        self._store = store
        self._count = count
        self._worker_id = worker_id
        self._visibility_timeout_ms = visibility_timeout_ms
        self.jobs: list[JobRecord] = []

    @property
    def wanted(self) -> int:
        """How many more jobs the fetch may return."""
        return self._count - len(self.jobs)

    @property
    def full(self) -> bool:
        """Whether the jobs of the whole fetch have reached its size limit."""
        return (self._parent or self)._bytes >= _MAX_BYTES

    async def take(self, shard: Shard, queues: Sequence[str], most: int) -> int:
        """Take up to ``most`` jobs of a shard; return how many jobs were taken.

        Raises:
            WorkerIsQuiet, BackendUnavailable: as ``fetch_unless_quiet``.
        """
        part = _Fetch(self._store, most, self._worker_id, self._visibility_timeout_ms, self)
        try:
            # Concurrent parts may have filled the fetch before this one started.
            if not part.full:
                await part.fetch_from(shard, queues)
        finally:
            self.jobs += part.jobs
        return len(part.jobs)

    async def fetch_from(self, shard: Shard, queues: Sequence[str]) -> int:
        """Fetch jobs of some queues of a shard; return how many the first queue has left.

        Raises:
            WorkerIsQuiet, BackendUnavailable: as ``fetch_unless_quiet``.
        """
        left, rounds, width, began = 0, 0, 0, trio.current_time()
        while True:
            # Shielded: only the reply tells which jobs have a lease now. The Redis client limits
            # the time of the call.
            with ShieldedBlock():
                before = len(self.jobs)
                requested, more, left = await self._call(shard, queues, width)
            if driver_state.driven is None:
                await trio.lowlevel.checkpoint_if_cancelled()
            found = self.jobs[before:]
            if self.wanted and sum(job.size for job in found) >= _REPLY_BYTES and not self.full:
                continue
            rounds += 1
            passing = not self.jobs and trio.current_time() - began < PASSING_S
            if (
                not (requested or more)
                or not self.wanted
                or (rounds >= _MAX_ROUNDS and not passing)
            ):
                return left
            width = min(max(_FIRST_WIDTH, width * 4), _MAX_WIDTH)

    async def _call(
        self, shard: Shard, queues: Sequence[str], width: int
    ) -> tuple[bool, bool, int]:
        """Fetch from one shard with one call.

        Args:
            width: number of rate limit keys without a token request for which tokens are
                requested; 0 requests tokens for the best jobs.

        Returns:
            Whether tokens were requested, which may be granted by now; whether there may be jobs
            behind those that were read, or keys to request tokens for; and how many jobs the first
            queue has left.
        """
        store = self._store
        settings, asked_ms = store.settings, self._visibility_timeout_ms
        cached = len(queues) <= _MAX_PACKED_QUEUES
        keys = _packed_keys(shard, tuple(queues)) if cached else _keys(shard, queues)
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
        limited = store.limited_queues.among(shard, queues)
        try:
            reply = await store.run(shard, "fetch_full" if limited else "fetch", keys, args)
            if reply[1] in (b"full_path", b"limited"):
                if reply[1] == b"limited":
                    store.limited_queues.note(shard, queues)
                reply = await store.run(shard, "fetch_full", keys, args)
        except (BackendUnavailable, ReplyTooLarge) as error:
            if isinstance(error, ReplyTooLarge) or error.outcome != "not_applied":
                store.unanswered_fetches.add(shard, prefix)
            raise
        if reply[1] == b"quiet":
            raise WorkerIsQuiet
        parsed = _Reply.parse(reply)
        found = self._leased(parsed, prefix)
        self.jobs += found  # before any step that may fail: the caller releases these jobs
        (self._parent or self)._bytes += sum([job.size for job in found])
        effects = parsed.effects
        await deliver(store, shard, effects)
        requested = bool(effects) and any(
            entry.kind == "token_request" for entry in parse_entries(shard, effects)
        )
        return requested, parsed.more, parsed.depth - len(found)

    def _leased(self, reply: _Reply, prefix: bytes) -> list[JobRecord]:
        """Return the jobs of a reply with the fields of their leases.

        The reply omits the fields that this process knows, to stay short.
        """
        started, worker = b"%d" % reply.now, self._worker_id.encode()
        found: list[JobRecord] = []
        for number, job in enumerate(reply.jobs, 1):
            flat = job.flat
            flat += (f.STATE, b"active", f.WORKER, worker, f.STARTED, started)
            flat += (f.LEASE, b"%b%d" % (prefix, number), f.LEASE_MS, b"%d" % int(job.lease_ms))
            flat += (f.ATTEMPT, b"%d" % job.attempt, f.DEADLINE, b"%d" % job.deadline)
            found.append(record(job.job_id.decode(), flat))
        return found
