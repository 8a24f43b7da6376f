"""Count how long jobs waited and ran, and jobs by type, in the process that handles them.

A process counts in memory, and adds its counts to Redis every 15 seconds by one script per queue.
The transitions do not count, because that would cost Redis 2 to 3 µs per job. An API process needs
about 1 µs (docs/adr/039). A process that is killed loses the counts of the last 15 seconds.

The wait of a job is counted when its first attempt starts, and its run when it is completed. The
scheduler does not read the types of the jobs that it discards after a lost lease. So only the
counters of their queue contain these jobs, not the counts by type.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from operator import add
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.histograms import (
    FINE_BOUNDS_MS,
    RUN_BOUNDS_MS,
    WAIT_BOUNDS_MS,
    WaitsAndRuns,
)
from ojs_cluster.keys import Shard
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.store.ground.process_state.type_minutes import (
    KEPT_MINUTES,
    OTHER,
    Numbers,
    add_type_minutes,
    with_fewer_types,
)
from ojs_cluster.store.ground.runtime import Arg, Runtime

log = logging.getLogger("ojs.store")

TIMES: Final = (
    *(f"w{number}" for number in range(1, len(WAIT_BOUNDS_MS) + 2)),
    *(f"r{number}" for number in range(1, len(RUN_BOUNDS_MS) + 2)),
    *("first_wait_ms", "completed_run_ms"),
)
"""Fields of a queue's hash of times: the buckets of waits, those of runs, and the sums of both in
milliseconds. ``sample_queue.lua`` has the same names in the same order."""
WAIT_BUCKETS: Final = slice(0, len(WAIT_BOUNDS_MS) + 1)
"""Positions in ``TIMES`` of the buckets of waits."""
RUN_BUCKETS: Final = slice(len(WAIT_BOUNDS_MS) + 1, len(TIMES) - 2)
"""Positions in ``TIMES`` of the buckets of run times."""
FLUSH_S: Final = 15.0
"""Seconds between two writes of a process."""
KEPT_MS: Final = 7 * 86_400_000
"""Time in ms after the last addition at which Redis deletes the counts of a queue."""
CLUSTER_MINUTES: Final = 25 * 60
"""Number of minutes for which the cluster has records: a day and an hour. So a request for the last
day gets all of its minutes, although new records replace old ones."""
CLUSTER_HOURS: Final = 31 * 24
"""Number of hours for which the cluster has records."""
MAX_ROWS: Final = 10_000
"""Maximum number of pairs of queue and type that a process counts between two writes. Jobs of
further pairs are counted under the type ``OTHER``, in up to ``MAX_ROWS`` further queues."""
_ROWS_AT_ONCE: Final = 500
"""Number of rows from which on they are added up beside the event loop."""
_MAX_UNCOUNTED: Final = 256
"""Number of noted jobs, of one kind, that are added to the rows at once."""
_TYPES_AT_ONCE: Final = 200
"""Maximum number of types that one script adds."""
_FIRST_RUN: Final = RUN_BUCKETS.start
_WAIT_SUM: Final = len(TIMES) - 2
_RUN_SUM: Final = len(TIMES) - 1
_ENQUEUED: Final = len(TIMES)
_COMPLETED: Final = len(TIMES) + 1
_DISCARDED: Final = len(TIMES) + 2
_FAILED: Final = len(TIMES) + 3
WIDTH: Final = len(TIMES) + 4
"""Length of a row: the times and the four numbers of a type."""
_LAST_FLUSH_TIMEOUT_S: Final = 1.0
"""Time limit in seconds for the last write of a process that stops."""

_BUCKET_OF_WAIT: Final = [bisect_left(WAIT_BOUNDS_MS, each) for each in (*FINE_BOUNDS_MS, inf)]
"""The bucket of ``WAIT_BOUNDS_MS`` in which each fine bucket lies."""
_BUCKET_OF_RUN: Final = [bisect_left(RUN_BOUNDS_MS, each) for each in (*FINE_BOUNDS_MS, inf)]

_Key = tuple[bytes, bytes]
"""Queue and type."""


@dataclass(slots=True)
class CountedRow:
    """What was counted for one pair of queue and type.

    Attributes:
        numbers: the times and the four numbers of a type.
        times: the same times in fine buckets.
    """

    numbers: list[int] = field(default_factory=lambda: [0] * WIDTH)
    times: WaitsAndRuns = field(default_factory=WaitsAndRuns)

    def merge(self, other: CountedRow) -> None:
        """Add what another row has."""
        self.numbers = list(map(add, self.numbers, other.numbers))
        self.times.merge(other.times)


class JobCounts:
    """What this process has counted and not written yet."""

    def __init__(self) -> None:
        """Begin with no counts."""
        self._rows: dict[_Key, CountedRow] = {}
        self._unwritten = WaitsAndRuns()
        self._enqueued: list[tuple[str, bytes]] = []
        self._started: list[tuple[bytes, bytes, bytes, int]] = []
        self._completed: list[tuple[bytes, bytes, bytes, bytes]] = []

    def count_enqueued(self, queue: str, job_type: bytes) -> None:
        """Count a job that was stored."""
        self._enqueued.append((queue, job_type))
        if len(self._enqueued) >= _MAX_UNCOUNTED:
            self._count_all()

    def count_start(self, fields: Mapping[bytes, bytes], now_ms: int) -> None:
        """Count the wait of a job whose first attempt starts.

        Args:
            fields: the fields of the job. Nothing is counted if a time is damaged.
            now_ms: when the attempt starts.
        """
        since = fields.get(f.ENQUEUED) or fields[f.CREATED]
        self.note_start(fields[f.QUEUE], fields[f.TYPE], since, now_ms)

    def note_start(self, queue: bytes, job_type: bytes, since: bytes, now_ms: int) -> None:
        """Count a start as ``count_start``; ``since`` is when the job began to wait."""
        self._started.append((queue, job_type, since, now_ms))
        if len(self._started) >= _MAX_UNCOUNTED:
            self._count_all()

    def count_completed_job(self, fields: Mapping[bytes, bytes]) -> None:
        """Count a completed job with these fields; see ``count_start``."""
        times = fields[f.STARTED], fields[f.FINISHED]
        self.note_completed(fields[f.QUEUE], fields[f.TYPE], *times)

    def note_completed(
        self, queue: bytes, job_type: bytes, started: bytes, finished: bytes
    ) -> None:
        """Count a completed job with these values of its fields."""
        self._completed.append((queue, job_type, started, finished))
        if len(self._completed) >= _MAX_UNCOUNTED:
            self._count_all()

    def _count_all(self) -> None:
        """Add what was noted to the rows.

        The methods above only note a job, because in the middle of a request their code is in no
        cache of the processor, and would take three times as long as for many jobs in a row.
        """
        enqueued, self._enqueued = self._enqueued, []
        started, self._started = self._started, []
        completed, self._completed = self._completed, []
        for queue_name, job_type in enqueued:
            self._row((queue_name.encode(), job_type)).numbers[_ENQUEUED] += 1
        for queue, job_type, since, now_ms in started:
            with suppress(ValueError):
                wait_ms = max(0, now_ms - int(since))  # a clock may have been set back
                row = self._row((queue, job_type))
                row.numbers[_BUCKET_OF_WAIT[row.times.waits.add(wait_ms)]] += 1
                row.numbers[_WAIT_SUM] += wait_ms
        for queue, job_type, start, finish in completed:
            with suppress(ValueError):
                self.count_completed(queue, job_type, int(finish) - int(start))

    def count_completed(self, queue: bytes, job_type: bytes, run_ms: int) -> None:
        """Count a completed job and its run."""
        row, run_ms = self._row((queue, job_type)), max(0, run_ms)
        row.numbers[_FIRST_RUN + _BUCKET_OF_RUN[row.times.runs.add(run_ms)]] += 1
        row.numbers[_RUN_SUM] += run_ms
        row.numbers[_COMPLETED] += 1

    def count_failed(self, queue: bytes, job_type: bytes, *, discarded: bool) -> None:
        """Count an attempt that a nack has ended, and whether the job was discarded by it."""
        row = self._row((queue, job_type))
        row.numbers[_FAILED] += 1
        row.numbers[_DISCARDED] += discarded

    async def run(self, runtime: Runtime) -> None:
        """Write the counts every ``FLUSH_S`` seconds, until cancelled."""
        while True:
            await trio.sleep(FLUSH_S)
            try:
                await self.flush(runtime)
            except Exception:  # an exception in the nursery would end the process
                log.exception("cannot write the counts of this process")

    async def finish(self, runtime: Runtime) -> None:
        """Write the last counts of a process that stops, within a second."""
        with trio.move_on_after(_LAST_FLUSH_TIMEOUT_S, shield=True):
            await self.flush(runtime)

    async def flush(self, runtime: Runtime) -> None:
        """Write the counts. Counts that were certainly not written are kept."""
        self._count_all()
        rows, self._rows = self._rows, {}
        keys_of: dict[bytes, list[_Key]] = {}
        for key in rows:
            keys_of.setdefault(key[0], []).append(key)

        kept: set[_Key] = set()

        def keep(chunk: Mapping[_Key, CountedRow]) -> None:
            self._keep(chunk)
            kept.update(chunk)

        async def write(queue: bytes) -> None:
            keys = keys_of[queue]
            for start in range(0, len(keys), _TYPES_AT_ONCE):
                chunk = {key: rows[key] for key in keys[start : start + _TYPES_AT_ONCE]}
                try:
                    shard = runtime.keys.shard_of_queue(queue.decode())
                    if runtime.redis.is_responsive(shard.slot):
                        await _add(runtime, shard, queue.decode(), chunk)
                    else:
                        # Calls to this master would delay the counts of the others.
                        keep(chunk)
                except BackendUnavailable as error:
                    if error.outcome == "not_applied":
                        keep(chunk)
                except (RedisReplyError, UnicodeDecodeError) as error:
                    log.warning("cannot write the counts of queue %r: %s", queue, error)

        await run_concurrently(keys_of, write)
        # The kept rows are part of the next flush.
        written = {key: row for key, row in rows.items() if key not in kept}
        if runtime.settings.metrics_types:
            of_types = await off_loop(
                partial(_of_types, written), len(written), large=_ROWS_AT_ONCE
            )
            await add_type_minutes(runtime, *of_types)
        for row in written.values():
            self._unwritten.merge(row.times)
        await self._write_cluster_times(runtime)

    async def _write_cluster_times(self, runtime: Runtime) -> None:
        """Add the times of all queues to the history of the cluster, or keep them for later."""
        meta = runtime.keys.meta
        if not self._unwritten or not runtime.redis.is_responsive(meta.slot):
            return
        times, self._unwritten = self._unwritten, WaitsAndRuns()
        args: list[Arg] = [CLUSTER_MINUTES, CLUSTER_HOURS, times.encode()]
        try:
            keys = [meta.history_minutes, meta.history_hours]
            await runtime.run_meta("add_cluster_times", keys, args, idempotent=False)
        except BackendUnavailable as error:
            if error.outcome == "not_applied":
                self._unwritten.merge(times)
        except RedisReplyError as error:
            log.warning("cannot write the times of the cluster: %s", error)

    def _keep(self, rows: Mapping[_Key, CountedRow]) -> None:
        for key, old in rows.items():
            self._row(key).merge(old)

    def _row(self, key: _Key) -> CountedRow:
        return self._rows.get(key) or self._new_row(key)

    def _new_row(self, key: _Key) -> CountedRow:
        """Return the row of a pair that has none yet."""
        limit = MAX_ROWS
        if len(self._rows) >= MAX_ROWS:
            # A client that invents types must not end the counts of other queues.
            key, limit = (key[0], OTHER), 2 * MAX_ROWS
        row = self._rows.get(key) or CountedRow()
        if len(self._rows) < limit:
            self._rows[key] = row
        return row


def _of_types(
    rows: Mapping[_Key, CountedRow],
) -> tuple[Mapping[bytes, Numbers], Mapping[bytes, WaitsAndRuns]]:
    """Return the numbers and times of the types with most jobs over all queues."""
    found: dict[bytes, CountedRow] = {}
    for (_, job_type), row in rows.items():
        found.setdefault(job_type, CountedRow()).merge(row)
    numbers = {name: row.numbers for name, row in found.items()}
    return with_fewer_types(numbers, {name: row.times for name, row in found.items()})


async def _add(runtime: Runtime, shard: Shard, queue: str, rows: Mapping[_Key, CountedRow]) -> None:
    """Add the rows of one queue."""
    total = CountedRow()
    for row in rows.values():
        total.merge(row)
    counted = [(name, n) for name, n in zip(TIMES, total.numbers, strict=False) if n]
    args: list[Arg] = [KEPT_MS, runtime.settings.metrics_types, OTHER, KEPT_MINUTES]
    args += (total.times.encode(), len(counted))
    for name, count in counted:
        args += (name, count)
    if runtime.settings.metrics_types:
        for (_, job_type), row in rows.items():
            args += (job_type, *row.numbers[len(TIMES) : _FAILED])
    await runtime.run(
        shard, "add_counts", [shard.queue_times(queue), shard.queue_types(queue)], args
    )


def read_types(flat: Iterable[bytes]) -> dict[str, list[int]]:
    """Return jobs enqueued, completed and discarded by type, from the reply of HGETALL.

    Damaged entries are left out.
    """
    items = iter(flat)
    found: dict[str, list[int]] = {}
    for job_type, text in zip(items, items, strict=True):
        try:
            numbers = [int(number) for number in text.split(b",")]
            name = job_type.decode()
        except ValueError:  # UnicodeDecodeError is one, too
            continue
        if len(numbers) == _FAILED - len(TIMES) and min(numbers) >= 0:
            found[name] = numbers
    return found
