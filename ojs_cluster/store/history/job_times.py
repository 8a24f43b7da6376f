"""Count how long jobs waited and ran, in the process that fetches and acknowledges them.

A queue has a histogram of waits and one of run times. A process counts in memory, and adds its
counts to Redis every five seconds with one script per queue. The transitions do not count, because
that would cost Redis 2 to 3 µs per job. An API process needs 0.3 µs (docs/adr/039). A process that
is killed loses the counts of the last seconds.

The wait of a job is counted when its first attempt starts, and its run when it is completed.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.histograms import RUN_BOUNDS_MS, WAIT_BOUNDS_MS
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.runtime import Runtime

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
FLUSH_S: Final = 5.0
"""Seconds between two writes of a process."""
KEPT_MS: Final = 7 * 86_400_000
"""Time in ms after which Redis deletes the times of a queue that has counted no further job."""
MAX_QUEUES: Final = 10_000
"""Maximum number of queues that a process counts between two writes. Jobs of further queues are not
counted."""
_FIRST_RUN: Final = RUN_BUCKETS.start
_WAIT_SUM: Final = len(TIMES) - 2
_RUN_SUM: Final = len(TIMES) - 1
_LAST_FLUSH_TIMEOUT_S: Final = 1.0
"""Time limit in seconds for the last write of a process that stops."""


class JobTimes:
    """The times that this process has counted and not written yet."""

    def __init__(self) -> None:
        """Begin with no counts."""
        self._rows: dict[bytes, list[int]] = {}

    def count_start(self, fields: Mapping[bytes, bytes], now_ms: int) -> None:
        """Count the wait of a job whose first attempt starts.

        Args:
            fields: the fields of the job. Nothing is counted if a time is damaged.
            now_ms: when the attempt starts.
        """
        try:
            wait_ms = max(0, now_ms - int(fields.get(f.ENQUEUED) or fields[f.CREATED]))
        except ValueError:
            return
        row = self._row(fields[f.QUEUE])
        row[bisect_left(WAIT_BOUNDS_MS, wait_ms)] += 1
        row[_WAIT_SUM] += wait_ms

    def count_completed(self, fields: Mapping[bytes, bytes]) -> None:
        """Count the run of a completed job with these fields; see ``count_start``."""
        with suppress(ValueError):
            self.count_run(fields[f.QUEUE], int(fields[f.FINISHED]) - int(fields[f.STARTED]))

    def count_run(self, queue: bytes, run_ms: int) -> None:
        """Count the run of a completed job of a queue."""
        row = self._row(queue)
        run_ms = max(0, run_ms)
        row[_FIRST_RUN + bisect_left(RUN_BOUNDS_MS, run_ms)] += 1
        row[_RUN_SUM] += run_ms

    async def run(self, runtime: Runtime) -> None:
        """Write the counts every ``FLUSH_S`` seconds, until cancelled."""
        while True:
            await trio.sleep(FLUSH_S)
            try:
                await self.flush(runtime)
            except Exception:  # an exception in the nursery would end the process
                log.exception("cannot write how long jobs waited and ran")

    async def finish(self, runtime: Runtime) -> None:
        """Write the last counts of a process that stops, within a second."""
        with trio.move_on_after(_LAST_FLUSH_TIMEOUT_S, shield=True):
            await self.flush(runtime)

    async def flush(self, runtime: Runtime) -> None:
        """Write the counts. Counts that were certainly not written are kept."""
        rows, self._rows = self._rows, {}

        async def write(queue: bytes) -> None:
            try:
                await _add(runtime, queue, rows[queue])
            except BackendUnavailable as error:
                if error.outcome == "not_applied":
                    row = self._row(queue)
                    for position, count in enumerate(rows[queue]):
                        row[position] += count
            except (RedisReplyError, UnicodeDecodeError) as error:
                log.warning("cannot write the times of queue %r: %s", queue, error)

        await run_concurrently(rows, write)

    def _row(self, queue: bytes) -> list[int]:
        row = self._rows.get(queue)
        if row is None:
            row = [0] * len(TIMES)
            if len(self._rows) < MAX_QUEUES:
                self._rows[queue] = row
        return row


async def _add(runtime: Runtime, queue: bytes, row: list[int]) -> None:
    shard = runtime.keys.shard_of_queue(queue.decode())
    counted = [(name, count) for name, count in zip(TIMES, row, strict=True) if count]
    args = [value for pair in counted for value in pair]
    await runtime.run(shard, "add_times", [shard.queue_times(queue.decode())], [KEPT_MS, *args])
