"""Fetch jobs for a worker (spec: ojs-core, FETCH; ojs-worker-protocol)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError, OutOfTime
from ojs_cluster.core.events import JOB_STARTED
from ojs_cluster.keys import Shard
from ojs_cluster.redis.client import SentScript
from ojs_cluster.redis.deadline import current_deadline, share_remaining_time
from ojs_cluster.redis.driven_coroutines import ShieldedBlock, driver_state, ensure_task
from ojs_cluster.redis.errors import ReplyTooLarge
from ojs_cluster.redis.packed_calls import pack_call
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch_script import (
    LIMITED_FIELDS,
    NO_JOB,
    FetchReply,
    digest_of,
    fetch_keys,
    full_fetch_keys,
    queues_per_call,
)
from ojs_cluster.store.engine.fetch.in_progress import FetchInProgress
from ojs_cluster.store.engine.fetch.isolation import BUSY, abort, end_if_idle, isolate
from ojs_cluster.store.engine.fetch.partition_fetch import fetch_from_partitions
from ojs_cluster.store.engine.fetch.ranked_fetch import Stage, fetch_in_order
from ojs_cluster.store.engine.jobs.nack import release as release_one
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.outbox.outbox import deliver, parse_entries
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.lease_ids import new_prefix, shard_of_lease
from ojs_cluster.store.ground.runtime import Arg

RELEASE_S = 5.0
"""Longest time in seconds that a cancelled fetch spends on releasing its jobs.

``unanswered_fetches`` releases the jobs that remain."""
_MAX_BYTES = 8 * 1024 * 1024
"""Size in bytes of the jobs of one fetch. A fetch with jobs of this size calls no more shards."""
_FULL_REPLY_BYTES = 2 * 1024 * 1024
"""Minimum size in bytes of a full reply, which may have left further jobs in the queue.

See ``store/include/base/reply_size.lua``."""
_MAX_CALLS = 4
"""How often one fetch calls one shard again because jobs wait for tokens or are blocked."""
_FURTHER_CALLS = 60
"""How many calls a fetch without jobs may make above ``_MAX_CALLS``, over all of its shards.

Before the first job that can start there may be blocked jobs. Each call moves 200 to 400 of them to
the blocked jobs of their key, or requests tokens for ``_MAX_IDLE_KEYS`` keys. So later calls, and
later fetches, begin after them (docs/adr/011)."""
_RESERVED_S = 2.0
"""A fetch makes none of the further calls in the last seconds of its request.

The client then gets an empty response instead of an error. It is less than the part of the default
time of a request that each of ``_MAX_SEQUENTIAL`` stages has. Of a shorter time, half is reserved.
"""
_FIRST_IDLE_KEYS, _SCAN_IDLE_KEYS, _MAX_IDLE_KEYS = 8, 32, 128
"""Numbers of idle rate limit keys for which a call requests tokens: the first, the largest while
there are jobs that no call has read, and the largest.

An idle key has no pending token request. The first call requests tokens for the best jobs instead.
Then the number of keys grows by a factor of four with each call. So few granted tokens stay unused,
and a thousand exhausted keys take twelve calls. Requests take longer than reading, and a job that
has not been read yet may need no token."""
_FULL_PATH: Final = (b"full_path", b"limited", b"limited_job")
"""Replies of ``fetch.lua`` after which ``fetch_full.lua`` is run."""
_UNREAD_JOBS: Final = 2
"""What a reply says if another call may find more jobs (``FetchReply.more``)."""
_MAX_SEQUENTIAL = 3
"""Maximum number of stages that a fetch calls one after the other.

If there are more, it reads the depths of all stages after the first at once."""


@dataclass(frozen=True, slots=True)
class SentFetch:
    """A call of ``fetch.lua`` for one job of one queue, sent before ``resume``.

    Args:
        call: the call.
        shard: the shard of the queue.
        prefix: the prefix of the lease ids.
        since: as in ``long_poll.fetch_or_wait``, before the call.
    """

    call: SentScript
    shard: Shard
    prefix: bytes
    since: int | None


class WorkerIsQuiet(Exception):
    """The worker is quiet or isolated, so it may not fetch.

    Args:
        isolated: whether it runs a suspect alone, and may fetch again soon.
    """

    def __init__(self, *, isolated: bool = False) -> None:
        super().__init__()
        self.isolated = isolated


class FetchIsUnfinished(Exception):
    """The fetch got no job in its number of calls. The next fetch continues where it stopped."""


class SuspectsAreLeft(Exception):
    """The fetch got no job, but left suspects, which other workers may run (``suspects.lua``)."""


async def fetch(
    store: Store,
    queues: Sequence[str],
    *,
    count: int,
    worker_id: str,
    visibility_timeout_ms: int | None = None,
    tenant: str = "",
    types: str = "",
) -> list[JobRecord]:
    """Lease up to ``count`` available jobs, from the queues in the order given.

    When the caller is cancelled, the jobs are released. A fetch returns jobs of about 8 MiB at
    most, even when ``count`` is larger. A fetch that calls many shards at once may exceed that by
    one reply of each of the 16 concurrent calls.

    Args:
        store: the store.
        queues: the queues in strict order: jobs of a later queue are fetched only when the earlier
            queues have no job that can start.
        count: maximum number of jobs.
        worker_id: the holder of the leases, '' for an anonymous worker.
        visibility_timeout_ms: length of the leases in milliseconds; None for the visibility timeout
            of each job.
        tenant: the tenant whose jobs are fetched, '' for jobs of any tenant and of none.
        types: the job types that the worker runs, as ``pack_types``; '' for any.

    Raises:
        BackendUnavailable: Redis did not answer in time, and no job was found before. If a reply
            was lost, the jobs in it are released as soon as their shard answers again (see
            ``unanswered_fetches``).
    """
    try:
        return await fetch_unless_quiet(
            store, queues, count, worker_id, visibility_timeout_ms, tenant, types
        )
    except (WorkerIsQuiet, FetchIsUnfinished, SuspectsAreLeft):
        return []


async def fetch_unless_quiet(
    store: Store,
    queues: Sequence[str],
    count: int,
    worker_id: str,
    visibility_timeout_ms: int | None,
    tenant: str = "",
    types: str = "",
) -> list[JobRecord]:
    """Fetch as ``fetch`` does, for callers that must know why there is no job.

    Raises:
        WorkerIsQuiet: the worker is quiet, and no job was found before.
        FetchIsUnfinished: no job was found, and another fetch may find one at once.
        SuspectsAreLeft: no job was found for this worker.
        BackendUnavailable: as ``fetch``.
    """
    await store.fetch_touches.touch(store, worker_id)
    await store.partitions.refresh_if_stale(store)
    operation = _Fetch(store, count, worker_id, visibility_timeout_ms, tenant, types)
    stages = store.partitions.group_queues(store.keys, queues)
    try:
        failure = await _run_stages(store, stages, operation)
    except BaseException:  # cancellation during concurrent calls arrives as an exception group
        await release(store, operation.jobs)
        raise
    operation.check_result(failure)
    if len(stages) > 1:
        rank = {queue: position for position, queue in enumerate(dict.fromkeys(queues))}
        operation.jobs.sort(key=lambda job: rank[job.queue])
    return operation.jobs


def plain_command(
    store: Store, shard: Shard, queue: str, worker_id: str, types: str, prefix: bytes
) -> bytes:
    """Return the packed call of ``fetch.lua`` that ``fetch`` sends for one job of one queue."""
    args = _Fetch(store, 1, worker_id, None, "", types)._args(prefix, with_depth=False)
    return pack_call(store.scripts["fetch"], fetch_keys(shard, [queue]), args)


async def resume(
    store: Store, queues: Sequence[str], count: int, worker_id: str, types: str, sent: SentFetch
) -> list[JobRecord]:
    """Fetch from one queue whose first call is sent; otherwise as ``fetch_unless_quiet``.

    Nothing is awaited before the shielded wait for the reply. A cancellation would lose the jobs.
    """
    resumed = _Fetch(store, count, worker_id, None, "", types)
    resumed.sent = sent
    try:
        failure = await _run_stage(store, [sent.shard], list(queues), resumed)
    except BaseException:
        await release(store, resumed.jobs)
        raise
    resumed.check_result(failure)
    return resumed.jobs


async def collect(
    store: Store,
    count: int,
    worker_id: str,
    visibility_timeout_ms: int | None,
    run: Callable[[FetchInProgress], Awaitable[Exception | None]],
    tenant: str = "",
    types: str = "",
) -> list[JobRecord]:
    """Fetch jobs with calls that ``run`` chooses; otherwise as ``fetch_unless_quiet``.

    Args:
        store: the store.
        count: maximum number of jobs.
        worker_id: the holder of the leases, '' for an anonymous worker.
        visibility_timeout_ms: length of the leases in milliseconds; None for that of each job.
        run: makes the calls. It returns the failure to raise if the fetch got no job.
        tenant: the tenant whose jobs are fetched, '' for any.
        types: the job types that the worker runs, as ``pack_types``; '' for any.

    Raises:
        WorkerIsQuiet, BackendUnavailable: ``run`` has returned it, and no job was found.
        FetchIsUnfinished, SuspectsAreLeft: as ``fetch_unless_quiet``.
    """
    await store.fetch_touches.touch(store, worker_id)
    await store.partitions.refresh_if_stale(store)
    collected = _Fetch(store, count, worker_id, visibility_timeout_ms, tenant, types)
    try:
        failure = await run(collected)
    except BaseException:
        await release(store, collected.jobs)
        raise
    collected.check_result(failure)
    return collected.jobs


async def _run_stages(store: Store, stages: Sequence[Stage], operation: _Fetch) -> Exception | None:
    """Fetch from the stages in order until there are enough jobs.

    The first stage is called at once. If it has enough jobs, that is the only call. If it has too
    few, and many stages follow, the depths of all other stages are read together.

    Returns:
        The first error of a stage, or ``WorkerIsQuiet``; None when all stages were called.
    """
    if len(stages) == 1 and len(stages[0][0]) == 1:
        return await _run_stage(store, *stages[0], operation)
    failure: Exception | None = None
    sequential = len(stages) if len(stages) <= _MAX_SEQUENTIAL else 1
    if len(stages) > 1 and any(store.depth_reader.any_unreachable(shards) for shards, _ in stages):
        sequential = 0  # waiting for an unreachable shard would delay the jobs of the others
    for index, (shards, names) in enumerate(stages[:sequential]):
        if operation.full:
            return failure
        # If a shard stops answering now, time must remain for the later stages.
        with share_remaining_time(len(stages) - index):
            error = await _run_stage(store, shards, names, operation)
        if isinstance(error, WorkerIsQuiet):
            return error
        failure = failure or error
        if isinstance(error, OutOfTime) or not operation.wanted:
            return failure
    if sequential < len(stages) and not operation.full:
        later_failure = await fetch_in_order(store, stages[sequential:], operation)
        failure = failure or later_failure
    return failure


async def _run_stage(
    store: Store, shards: list[Shard], names: list[str], operation: _Fetch
) -> Exception | None:
    """Fetch from one stage.

    Returns:
        The error that prevented the fetch, or ``WorkerIsQuiet``; otherwise None.
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
    unreleased = list(jobs)
    if not unreleased:
        return
    await ensure_task()
    with trio.move_on_after(RELEASE_S, shield=True):
        while unreleased:
            try:
                await release_one(store, unreleased[-1])
            except BackendUnavailable:
                break
            except OJSError:
                pass  # the lease has ended
            unreleased.pop()
    for job in unreleased:
        if job.lease_id is not None:
            shard = shard_of_lease(store.keys, job.lease_id)
            if shard is not None:
                store.unanswered_fetches.add(shard, job.lease_id.encode())


def _remaining_s() -> float:
    return current_deadline().at - trio.current_time()


class _Fetch:
    """One fetch: its jobs so far, and the calls that fetch more.

    Args:
        store: the store.
        count: maximum number of jobs.
        worker_id: the holder of the leases, '' for an anonymous worker.
        visibility_timeout_ms: length of the leases in milliseconds; None for that of each job.
        tenant: the tenant whose jobs are fetched, '' for any.
        types: the job types that the worker runs, as ``pack_types``; '' for any.
        parent: for one of several concurrent calls, the fetch that these calls belong to.
    """

    def __init__(
        self,
        store: Store,
        count: int,
        worker_id: str,
        visibility_timeout_ms: int | None,
        tenant: str,
        types: str = "",
        parent: _Fetch | None = None,
    ) -> None:
        self._parent = parent
        self._bytes = 0
        self._further_calls = 0
        self._is_unfinished = False
        self._has_suspect = False
        self._left_suspects = False
        self._store = store
        self._count = count
        self._worker_id = worker_id
        self._visibility_timeout_ms = visibility_timeout_ms
        self.tenant = tenant
        self.types = types
        self.jobs: list[JobRecord] = []
        self.sent: SentFetch | None = None
        """The first call of the fetch, if it is sent already."""

    @property
    def wanted(self) -> int:
        """How many more jobs the fetch may return."""
        if (self._parent or self)._has_suspect:
            return 0
        return self._count - len(self.jobs)

    @property
    def full(self) -> bool:
        """Whether the jobs of the whole fetch have reached its size limit."""
        return (self._parent or self)._bytes >= _MAX_BYTES

    def check_result(self, failure: Exception | None) -> None:
        """Raise ``failure``, or why another fetch may find a job, if there is none."""
        if self.jobs:
            return
        if failure or self._is_unfinished:
            raise failure or FetchIsUnfinished
        if self._left_suspects:
            raise SuspectsAreLeft

    async def take(self, shard: Shard, queues: Sequence[str], max_jobs: int) -> int:
        """Fetch up to ``max_jobs`` jobs of a shard; return how many jobs were fetched.

        Raises:
            WorkerIsQuiet, BackendUnavailable: as ``fetch_unless_quiet``.
        """
        part = _Fetch(
            *(self._store, max_jobs, self._worker_id, self._visibility_timeout_ms),
            *(self.tenant, self.types, self),
        )
        try:
            # Concurrent calls may have fetched ``_MAX_BYTES`` before this call starts.
            if not part.full:
                await part.fetch_from(shard, queues)
        finally:
            self.jobs += part.jobs
        return len(part.jobs)

    async def fetch_from(
        self, shard: Shard, queues: Sequence[str], *, with_depth: bool = False
    ) -> int:
        """Fetch jobs of some queues of a shard.

        Args:
            shard: the shard.
            queues: the queues in order.
            with_depth: whether the caller uses the result, which costs one command.

        Returns:
            How many jobs remain in the first queue; any number without ``with_depth``.

        Raises:
            WorkerIsQuiet, BackendUnavailable: as ``fetch_unless_quiet``.
        """
        size = queues_per_call(self.types)
        if len(queues) > size:
            first_depth = await self.fetch_from(shard, queues[:size], with_depth=with_depth)
            for first in range(size, len(queues), size):
                if self.wanted:
                    await self.fetch_from(shard, queues[first : first + size])
            return first_depth
        remaining, calls, idle_keys, requested = 0, 0, 0, False
        reserved_s = _RESERVED_S
        while True:
            # Shielded from cancellation: without the reply, this process would not know which jobs
            # have a lease now. The Redis client limits the time of the call.
            with ShieldedBlock():
                count_before = len(self.jobs)
                # The fast path takes jobs that have just got their tokens.
                requested, more, remaining = await self._call(
                    shard, queues, idle_keys, with_depth, try_fast=requested
                )
            if driver_state.driven is None:
                await trio.lowlevel.checkpoint_if_cancelled()
            if self.wanted and not self.full and self._is_full_reply(count_before):
                continue
            calls += 1
            if not (requested or more) or not self.wanted:
                return remaining
            if calls == 1:
                reserved_s = min(reserved_s, _remaining_s() / 2)
            if calls >= _MAX_CALLS and not self._may_call_further(more, reserved_s):
                return remaining
            most = _SCAN_IDLE_KEYS if more == _UNREAD_JOBS else _MAX_IDLE_KEYS
            idle_keys = min(max(_FIRST_IDLE_KEYS, idle_keys * 4), most)

    def _may_call_further(self, more: int, reserved_s: float) -> bool:
        """Return whether the fetch may exceed ``_MAX_CALLS``, and count the call.

        Args:
            more: as ``FetchReply.more``.
            reserved_s: the time in seconds that must remain.
        """
        if self.jobs:
            return False
        whole = self._parent or self
        whole._further_calls += 1
        if whole._further_calls <= _FURTHER_CALLS and _remaining_s() > reserved_s:
            return True
        whole._is_unfinished |= bool(more)
        return False

    def _is_full_reply(self, count_before: int) -> bool:
        """Return whether the last reply had as many jobs as it may have, so more may follow.

        Args:
            count_before: number of jobs that the fetch had before this reply.
        """
        jobs = self.jobs[count_before:]
        wanted = self._count - count_before
        return sum(job.size for job in jobs) >= _FULL_REPLY_BYTES or len(
            jobs
        ) >= self._store.webhooks.jobs_per_script("fetch_full", wanted)

    async def _call(
        self,
        shard: Shard,
        queues: Sequence[str],
        idle_keys: int,
        with_depth: bool,
        *,
        try_fast: bool,
    ) -> tuple[bool, int, int]:
        """Fetch from one shard with one call.

        Args:
            shard: the shard.
            queues: the queues in order.
            idle_keys: number of rate limit keys without a pending request for which tokens are
                requested; 0 requests tokens for the best jobs.
            with_depth: as for ``fetch_from``.
            try_fast: whether ``fetch.lua`` is tried although the last call met limits.

        Returns:
            Whether tokens were requested, which may be granted by now; what another call may do, as
            ``FetchReply.more``; and how many jobs remain in the first queue.
        """
        store = self._store
        sent, self.sent = self.sent, None
        prefix = new_prefix(shard) if sent is None else sent.prefix
        limited = bool(self.tenant) or (
            not try_fast and store.limited_queues.contains(shard, queues)
        )
        reply: Any = None
        try:
            if sent is not None:
                limited, reply = False, await store.redis.complete(sent.call)
            elif not (limited or store.webhooks.selects(JOB_STARTED)):
                args = self._args(prefix, with_depth)
                reply = await store.run(shard, "fetch", fetch_keys(shard, queues), args)
            if reply in _FULL_PATH:
                if reply != b"full_path":
                    by_job = reply == b"limited_job"
                    store.limited_queues.add(shard, queues, by_job=by_job)
                reply = None
            if reply is None:
                reply = await self._run_full(prefix, shard, queues, idle_keys)
                limited = True
        except (BackendUnavailable, ReplyTooLarge) as error:
            if isinstance(error, ReplyTooLarge) or error.outcome != "not_applied":
                store.unanswered_fetches.add(shard, prefix)
            raise
        if reply == NO_JOB:
            return False, 0, 0
        if reply == b"quiet":
            raise WorkerIsQuiet
        if reply == b"isolated":
            if not await end_if_idle(store, shard, self._worker_id):
                raise WorkerIsQuiet(isolated=True)
            return await self._call(shard, queues, idle_keys, with_depth, try_fast=try_fast)
        if isinstance(reply, bytes):
            parsed = FetchReply.of_plain_job(reply, store.settings.visibility_timeout_ms)
        else:
            parsed = FetchReply.parse(reply)
        fetched = parsed.records(self._worker_id, prefix)
        if (
            limited
            and len(fetched) >= self.wanted
            and all(LIMITED_FIELDS.isdisjoint(job.fields) for job in fetched)
        ):
            store.limited_queues.pass_jobs(shard, queues)
        self.jobs += fetched  # before any step that may fail: the caller releases these jobs
        whole = self._parent or self
        whole._bytes += sum([job.size for job in fetched])
        whole._left_suspects |= parsed.left_suspects
        whole._has_suspect |= len(fetched) == 1 and f.SUSPECT in fetched[0].fields
        for job in fetched:
            if job.fields[f.ATTEMPT] == b"1":
                store.job_counts.count_start(job.fields, parsed.now)
        requested, effects = False, parsed.effects
        if effects:
            await deliver(store, shard, effects)
            entries = parse_entries(shard, effects)
            requested = any(entry.kind == "token_request" for entry in entries)
        return requested, parsed.more, parsed.depth - len(fetched)

    async def _run_full(
        self, prefix: bytes, shard: Shard, queues: Sequence[str], idle_keys: int
    ) -> Any:
        """Run ``fetch_full.lua``; return its reply.

        If the first job is a suspect, the worker is first isolated.
        """
        store, keys = self._store, full_fetch_keys(shard, queues)
        mode = "later" if (self._parent or self)._bytes else ""
        args = self._full_args(prefix, shard, queues, idle_keys, mode)
        reply = await store.run(shard, "fetch_full", keys, args)
        if reply != b"suspect":
            return reply
        mode = await isolate(store, shard, self._worker_id)
        args = self._full_args(prefix, shard, queues, idle_keys, mode)
        try:
            reply = await store.run(shard, "fetch_full", keys, args)
        except BackendUnavailable as error:
            # After a lost reply the worker may hold the suspect: ``end_if_idle`` finds out.
            if mode != BUSY and error.outcome == "not_applied":
                await abort(store, self._worker_id, mode)
            raise
        if mode != BUSY and not (isinstance(reply, list) and FetchReply.parse(reply).is_suspect):
            await abort(store, self._worker_id, mode)
        return reply

    def _args(self, prefix: bytes, with_depth: bool) -> list[Arg]:
        """Return ARGV of ``fetch.lua``."""
        settings, lease_ms = self._store.settings, self._visibility_timeout_ms
        args: list[Arg] = [
            settings.events_per_shard,
            self._worker_id,
            prefix + b"1",
            settings.visibility_timeout_ms,
        ]
        wanted = self.wanted
        if wanted != 1 or lease_ms is not None or with_depth:
            args += (wanted, "" if lease_ms is None else lease_ms, "1" if with_depth else "")
        elif self.types:
            args += ("", "", "")
        if self.types:
            args.append(self.types)
        return args

    def _full_args(
        self, prefix: bytes, shard: Shard, queues: Sequence[str], idle_keys: int, mode: str
    ) -> list[Arg]:
        """Return ARGV of ``fetch_full.lua``."""
        store, lease_ms = self._store, self._visibility_timeout_ms
        return [
            store.events_arg,  # the full path appends further events
            store.webhooks.jobs_per_script("fetch_full", self.wanted),
            self._worker_id,
            prefix,
            "" if lease_ms is None else lease_ms,
            store.settings.visibility_timeout_ms,
            store.settings.retention_discarded_ms,
            shard.index,
            idle_keys,
            self.tenant,
            self.types,
            digest_of(self.types),
            mode,
            *queues,
        ]
