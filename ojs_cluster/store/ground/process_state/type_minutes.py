"""Statistics over time by job type: written by the processes that count, and read as a series.

The history of a type lies in a shard of its own name, so a series of one type is one read. A record
has the numbers of one minute: waits, runs, jobs enqueued, completed and discarded, and failed
attempts. Records of earlier versions lack the last number, which counts as 0. A second record of
the minute, in a field that begins with ``f``, has the waits and runs in fine buckets, of which the
quantiles are computed. Earlier versions have none. Each shard has at most ``MAX_TYPES`` types. Jobs
of further types are counted as ``OTHER`` of that shard, so a client that invents types can neither
fill Redis nor hide the known types.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.histograms import (
    RUN_BOUNDS_MS,
    WAIT_BOUNDS_MS,
    FineTimes,
    WaitsAndRuns,
    decode_times,
    quantile,
)
from ojs_cluster.keys import Shard
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.runtime import Arg, Runtime

log = logging.getLogger("ojs.store")

MAX_TYPES: Final = 32
"""Maximum number of types of a shard with records, without ``OTHER``."""
OTHER: Final = b"other"
"""The type under which jobs of further types are counted, in each shard."""
KEPT_MINUTES: Final = 120
"""Number of minutes for which a type has records."""
MAX_TYPES_ADDED: Final = 256
"""Maximum number of types that a process adds at once, those with most jobs. More types than Redis
keeps would only make more scripts."""
_AT_ONCE: Final = 8
"""Maximum number of types that one script adds."""
_FINE_PART: Final = 0.9
"""Part of the jobs that must be in fine buckets. Earlier versions do not write these."""
FINE: Final = b"f"
"""The first letter of the fields that have waits and runs in fine buckets."""

Numbers = Sequence[int]
"""Times in the order of ``job_counts.TIMES``, then the numbers of ``_COUNTS``."""
_COUNTS: Final = ("enqueued", "completed", "discarded", "failed")


async def add_type_minutes(
    runtime: Runtime,
    counts: Mapping[bytes, Numbers],
    times: Mapping[bytes, WaitsAndRuns] | None = None,
) -> None:
    """Add what this process has counted since its last call. Failures lose these counts only.

    Args:
        runtime: the store.
        counts: numbers by type.
        times: waits and runs in fine buckets by type.
    """
    counts, times = with_fewer_types(counts, times or {})
    types_of: dict[Shard, list[bytes]] = {}
    for job_type in counts:
        types_of.setdefault(_shard_of(runtime, job_type), []).append(job_type)

    async def write(shard: Shard) -> None:
        if not runtime.redis.is_responsive(shard.slot):
            return
        types = [job_type for job_type in types_of[shard] if job_type != OTHER]
        own_other = counts.get(OTHER, ()) if OTHER in types_of[shard] else ()
        for start in range(0, max(1, len(types)), _AT_ONCE):
            chunk = types[start : start + _AT_ONCE]
            width = len(next(iter(counts.values())))
            args: list[Arg] = [width, KEPT_MINUTES, MAX_TYPES]
            for job_type in chunk:
                args += (job_type, _text(counts[job_type]), _times_of(times, job_type))
            is_first = not start
            args += (OTHER, _text(own_other if is_first else ()))
            args.append(_times_of(times, OTHER) if own_other and is_first else "")
            keys = [_key(shard, job_type) for job_type in (*chunk, OTHER)]
            try:
                await runtime.run(shard, "add_type_minutes", [shard.job_types, *keys], args)
            except (BackendUnavailable, RedisReplyError) as error:
                log.debug("cannot write the counts of types in shard %d: %r", shard.index, error)
                return

    await run_concurrently(types_of, write)


def _times_of(times: Mapping[bytes, WaitsAndRuns], job_type: bytes) -> str:
    return times[job_type].encode() if job_type in times else ""


def with_fewer_types(
    counts: Mapping[bytes, Numbers], times: Mapping[bytes, WaitsAndRuns]
) -> tuple[Mapping[bytes, Numbers], Mapping[bytes, WaitsAndRuns]]:
    """Return the numbers of the types with most jobs, and those of all others as ``OTHER``."""
    if len(counts) <= MAX_TYPES_ADDED:
        return counts, times
    names = sorted(counts, key=lambda name: (name != OTHER, -sum(counts[name][-len(_COUNTS) :])))
    kept = {name: counts[name] for name in names[:MAX_TYPES_ADDED]}
    rest = [counts[name] for name in names[MAX_TYPES_ADDED:]]
    columns = zip(*rest, kept.get(OTHER, [0] * len(rest[0])), strict=True)
    others = WaitsAndRuns()
    for name in {*names[MAX_TYPES_ADDED:], OTHER} & times.keys():
        others.merge(times[name])
    kept_times = {name: times[name] for name in kept.keys() & times.keys()}
    return {**kept, OTHER: [sum(column) for column in columns]}, {**kept_times, OTHER: others}


def _shard_of(runtime: Runtime, job_type: bytes) -> Shard:
    return runtime.keys.shard_of_queue(job_type.decode(errors="replace"))


def _key(shard: Shard, job_type: bytes) -> bytes:
    return shard.type_history(job_type.decode(errors="replace"))


def _text(numbers: Numbers) -> str:
    return ",".join(str(number) if number else "" for number in numbers)


@dataclass(frozen=True, slots=True)
class TypeStatistics:
    """The numbers of one type in a span of time.

    Attributes:
        name: the type.
        times: waits and runs in the order of ``job_counts.TIMES``.
        enqueued, completed, discarded: numbers of jobs.
        failed: number of attempts that nacks have ended.
        fine: waits and runs in fine buckets; none of those that earlier versions have counted.
    """

    name: str
    times: Numbers
    enqueued: int
    completed: int
    discarded: int
    failed: int
    fine: WaitsAndRuns = field(default_factory=WaitsAndRuns)

    @property
    def attempts(self) -> int:
        """The number of attempts that have ended by an ack or a nack."""
        return self.completed + self.failed

    @property
    def failed_share(self) -> float:
        """The part of the ended attempts that failed; 0 without any."""
        return self.failed / self.attempts if self.attempts else 0.0

    @property
    def run_counts(self) -> Numbers:
        """The run times of the completed jobs, as numbers by the buckets of ``RUN_BOUNDS_MS``."""
        return self.times[len(WAIT_BOUNDS_MS) + 1 : -2]

    def without(self, part: TypeStatistics) -> TypeStatistics:
        """Return the numbers without those of a part of the time span, none of them below 0.

        Both are read one after the other, so a part may be larger than the whole.
        """
        times = [max(0, a - b) for a, b in zip(self.times, part.times, strict=True)]
        fine = WaitsAndRuns(
            self.fine.waits.without(part.fine.waits), self.fine.runs.without(part.fine.runs)
        )
        return TypeStatistics(
            self.name,
            times,
            max(0, self.enqueued - part.enqueued),
            max(0, self.completed - part.completed),
            max(0, self.discarded - part.discarded),
            max(0, self.failed - part.failed),
            fine,
        )

    def wait_ms(self, probability: float) -> float:
        """Return a quantile of the waits of the jobs that started, in milliseconds."""
        waits = self.times[: len(WAIT_BOUNDS_MS) + 1]
        return best_quantile(self.fine.waits, waits, WAIT_BOUNDS_MS, probability)

    def run_ms(self, probability: float) -> float:
        """Return a quantile of the run times of the completed jobs, in milliseconds."""
        return best_quantile(self.fine.runs, self.run_counts, RUN_BOUNDS_MS, probability)


def best_quantile(
    fine: FineTimes, counts: Numbers, bounds_ms: Sequence[int], probability: float
) -> float:
    """Return a quantile of the fine buckets, or of the others if earlier versions have counted."""
    if fine.counts and sum(fine.counts.values()) >= _FINE_PART * sum(counts):
        return fine.quantile(probability)
    return quantile(counts, bounds_ms, probability)


@dataclass(slots=True)
class Summed:
    """The summed records of one type."""

    numbers: list[int]
    fine: WaitsAndRuns


Sums = dict[bytes, Summed]
"""Sums by type."""


async def list_types(store: Runtime, minutes: int, width: int) -> tuple[list[TypeStatistics], int]:
    """Return the types with jobs in the last minutes, those with most jobs first.

    Args:
        store: the store.
        minutes: length of the span in minutes, ``KEPT_MINUTES`` at most.
        width: number of the numbers of a record.

    Returns:
        The types, and the number of shards that did not answer.
    """

    async def read(shard: Shard, sums: Sums) -> None:
        await add_minutes(store, shard, minutes, width, sums)

    return await list_summed(store, read, width)


async def add_minutes(store: Runtime, shard: Shard, minutes: int, width: int, sums: Sums) -> None:
    """Add the numbers of the last minutes of all types of a shard to ``sums``.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    names: Any = await store.redis.call(
        shard.slot, "ZRANGE", shard.job_types, 0, MAX_TYPES, idempotent=True
    )
    keys = [_key(shard, name) for name in names]
    await add_records(store, shard, names, keys, [width, minutes, KEPT_MINUTES, 1], sums)


async def add_records(
    store: Runtime,
    shard: Shard,
    names: Sequence[bytes],
    keys: Sequence[bytes],
    args: Sequence[int],
    sums: Sums,
) -> None:
    """Add the latest records of some types of a shard to ``sums``.

    Args:
        store: the store.
        shard: the shard.
        names: the types.
        keys: their hashes of records.
        args: ARGV of ``sum_type_minutes`` but the last two.
        sums: the sums.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    width, span = args[:2]
    for name, key in zip(names, keys, strict=True):
        first, newest = 1, ""
        while first <= span:  # one script sums as many records as take milliseconds
            numbers, fine, first, newest = await store.run(
                shard, "sum_type_minutes", [key], [*args, first, newest], idempotent=True
            )
            if len(numbers) == width:
                sum_ = sums.setdefault(name, Summed([0] * width, WaitsAndRuns()))
                sum_.numbers = [a + b for a, b in zip(sum_.numbers, numbers, strict=True)]
                sum_.fine.merge(decode_times(fine))


async def list_summed(
    store: Runtime, read: Callable[[Shard, Sums], Awaitable[None]], width: int
) -> tuple[list[TypeStatistics], int]:
    """Return the types of all shards, those with most jobs first.

    Args:
        store: the store.
        read: adds the numbers of the types of one shard to the sums.
        width: number of the numbers of a type.

    Returns:
        The types with jobs, and the number of shards that did not answer.
    """
    sums: Sums = {}
    unread = 0

    async def read_shard(shard: Shard) -> None:
        nonlocal unread
        if not store.redis.is_responsive(shard.slot):
            unread += 1
            return
        try:
            await read(shard, sums)
        except (BackendUnavailable, RedisReplyError):
            unread += 1

    await run_concurrently(store.keys, read_shard)
    listed = []
    for raw, found in sums.items():
        *times, enqueued, completed, discarded, failed = found.numbers
        counts = (enqueued, completed, discarded, failed)
        name = raw.decode(errors="replace")
        listed.append(TypeStatistics(name, times, *counts, found.fine))
    return sorted(listed, key=lambda one: (-one.completed, -one.enqueued, one.name)), unread


FineRecords = dict[int, WaitsAndRuns]
"""Waits and runs in fine buckets by the number of their minute or hour."""


async def read_type_records(
    store: Runtime, job_type: str, width: int, fine: FineRecords | None = None
) -> dict[int, list[int]]:
    """Return the numbers of one type by the minute at whose start they were complete.

    Args:
        store: the store.
        job_type: the type.
        width: number of the numbers of a record.
        fine: gets the waits and runs in fine buckets.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return await read_records(store, job_type, width, Shard.type_history, fine)


def count_attempts(records: Iterable[Numbers]) -> tuple[int, int]:
    """Return the numbers of failed attempts and of all that have ended."""
    completed = failed = 0
    for numbers in records:
        _, more_completed, _, more_failed = numbers[-len(_COUNTS) :]
        completed, failed = completed + more_completed, failed + more_failed
    return failed, failed + completed


async def read_records(
    store: Runtime,
    job_type: str,
    width: int,
    key_of: Callable[[Shard, str], bytes],
    fine: FineRecords | None = None,
) -> dict[int, list[int]]:
    """Return the numbers of one type by the number of their minute or hour.

    Args:
        store: the store.
        job_type: the type; ``OTHER`` has records in all shards.
        width: number of the numbers of a record.
        key_of: returns the key of the hash of records in a shard.
        fine: gets the waits and runs in fine buckets.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    name = job_type.encode()
    shards = list(store.keys) if name == OTHER else [_shard_of(store, name)]
    records: dict[int, list[int]] = {}

    async def read(shard: Shard) -> None:
        texts: Any = await store.redis.call(
            shard.slot, "HGETALL", key_of(shard, job_type), idempotent=True
        )
        for field_name, text in zip(texts[::2], texts[1::2], strict=True):
            if field_name.startswith(FINE):
                if fine is not None:
                    add_fine_record(fine, text)
                continue
            try:
                minute, *numbers = (int(number or 0) for number in text.split(b","))
            except ValueError:
                continue
            if width - 1 <= len(numbers) <= width:
                old = records.get(minute, [0] * width)
                records[minute] = [a + b for a, b in zip_longest(old, numbers, fillvalue=0)]

    await run_concurrently(shards, read)
    return records


def add_fine_record(records: FineRecords, text: bytes) -> None:
    """Add a record of fine buckets to those of its number; nothing if it is damaged."""
    number, _, times = text.partition(b" ")
    if number.isdigit():
        records.setdefault(int(number), WaitsAndRuns()).merge(decode_times(times))
