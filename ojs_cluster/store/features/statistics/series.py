"""Read statistics over time: a series of periods, of the whole cluster or of one queue."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from typing import Any, Final

from ojs_cluster.core.histograms import RUN_BOUNDS_MS, WAIT_BOUNDS_MS, WaitsAndRuns
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.statistics.records import (
    GROWING,
    HOURS,
    MINUTES,
    QUEUE_MINUTES,
    STATES,
    TOTALS,
    Record,
    parse_numbers,
    parse_record,
)
from ojs_cluster.store.features.statistics.type_hours import KEPT_HOURS, read_type_hours
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.store.ground.process_state.job_counts import (
    FLUSH_S,
    RUN_BUCKETS,
    WAIT_BUCKETS,
    WIDTH,
)
from ojs_cluster.store.ground.process_state.type_minutes import (
    FINE,
    KEPT_MINUTES,
    FineRecords,
    add_fine_record,
    best_quantile,
    read_type_records,
)

MAX_POINTS: Final = 1500
"""Maximum number of periods of a series."""
_HOUR: Final = 60
_NEWEST_MINUTES: Final = 2 * _HOUR
"""Number of minutes whose records a series of hours or days also uses. The record of an hour shows
only the start of the hour, so the records by minute complete the last hours."""


_LARGE: Final = 120
"""Number of minutes above which a thread adds their waits and runs: it takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Point:
    """The statistics of one period.

    Attributes:
        start_ms: when the period starts, in Unix milliseconds.
        complete: whether the period has ended.
        minutes: how many minutes of the period the statistics cover. A period that began before
            the first record, or has not ended, is covered in part.
        totals: by how much each of ``TOTALS`` has grown in the period.
        depths: number of jobs by state at the end of the period.
        times: by how much each of ``TIMES`` has grown.
        fine: waits and runs in fine buckets.
        recorded: whether the scheduler has taken a sample in the period. The numbers of a period
            without a sample are a guess, from the samples before and after it.
    """

    start_ms: int
    complete: bool
    minutes: int
    totals: Mapping[str, int]
    depths: Mapping[State, int]
    times: Sequence[int]
    fine: WaitsAndRuns = field(default_factory=WaitsAndRuns)
    recorded: bool = True

    @property
    def avg_wait_ms(self) -> float:
        """Average wait of the jobs completed in the period, in milliseconds; 0 without any."""
        return self._average("wait_ms")

    @property
    def avg_run_ms(self) -> float:
        """Average run time of the jobs completed in the period, in milliseconds; 0 without any."""
        return self._average("run_ms")

    def wait_ms(self, probability: float) -> float:
        """Return a quantile of the waits of the jobs that started, in milliseconds."""
        return best_quantile(self.fine.waits, self.times[WAIT_BUCKETS], WAIT_BOUNDS_MS, probability)

    def run_ms(self, probability: float) -> float:
        """Return a quantile of the run times of the completed jobs, in milliseconds."""
        return best_quantile(self.fine.runs, self.times[RUN_BUCKETS], RUN_BOUNDS_MS, probability)

    def _average(self, name: str) -> float:
        completed = self.totals["acked"]  # the counter of completed jobs
        return round(self.totals[name] / completed, 2) if completed else 0.0


@dataclass(frozen=True, slots=True)
class Periods:
    """The periods of a series, in Unix minutes.

    Attributes:
        first: start of the first period.
        length: length of a period in minutes.
        count: number of periods.
    """

    first: int
    length: int
    count: int

    @classmethod
    def between(cls, since_ms: int, until_ms: int, length: int) -> Periods:
        """Return the periods that overlap with a time span, but only the last ``MAX_POINTS``.

        Args:
            since_ms: start of the span, in Unix milliseconds.
            until_ms: end of the span, in Unix milliseconds.
            length: length of a period in minutes.
        """
        last = -(-until_ms // (length * 60_000))  # rounded up
        first = max(since_ms // (length * 60_000), last - MAX_POINTS)
        return cls(first * length, length, max(0, last - first))

    @property
    def end(self) -> int:
        """The end of the last period."""
        return self.first + self.count * self.length


async def cluster_series(store: Store, periods: Periods) -> list[Point]:
    """Return the statistics of the whole cluster.

    Periods before the first record and after the last record are left out. If records of some
    minutes are missing, the growth is spread evenly over these minutes, and their points say so.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    records = await _cluster_records(store, periods)
    if not records:
        return []
    minutes = [record.minute for record in records]

    def totals_at(minute: int) -> Sequence[int]:
        index = bisect_left(minutes, minute)
        if index == len(records) or index == 0 or minutes[index] == minute:
            return records[min(index, len(records) - 1)].totals
        before, after = records[index - 1], records[index]
        return [
            old + (new - old) * (minute - before.minute) // (after.minute - before.minute)
            for old, new in zip(before.totals, after.totals, strict=True)
        ]

    def growth(begin: int, end: int) -> list[int]:
        # Totals shrink only if data was lost.
        pairs = zip(totals_at(begin), totals_at(end), strict=True)
        return [max(0, after - before) for before, after in pairs]

    def depths_at(minute: int) -> Sequence[int]:
        return records[max(0, bisect_right(minutes, minute) - 1)].depths

    fine = await _cluster_fine(store, periods)
    points = await _points(periods, minutes[0], minutes[-1], growth, depths_at, fine)
    return _with_gaps(points, periods.length, minutes)


async def queue_series(store: Store, queue: str, periods: Periods) -> list[Point]:
    """Return the statistics of one queue, for at most the last two hours, and since it exists.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    newest = await newest_minute(store)
    if newest is None:
        return []
    records_of_partitions: list[list[Record]] = []
    born: list[int] = []

    async def read(shard: Shard) -> None:
        flat: Any = await store.redis.call(
            shard.slot, "HGETALL", shard.queue_history(queue), idempotent=True
        )
        created: Any = await store.redis.call(
            shard.slot, "HGET", shard.queue_counters(queue), "created", idempotent=True
        )
        if created is not None and created.isdigit():
            born.append(int(created) // 60_000)
        items = iter(flat)
        texts = dict(zip(items, items, strict=True))
        last = parse_numbers(texts.pop(b"last", b""))
        records = [record for text in texts.values() if (record := parse_record(text)) is not None]
        if not records and len(last) == GROWING + len(STATES):
            # A queue that has not changed for two hours has no records, but the depths of ``last``.
            records.append(Record(0, (0,) * GROWING, tuple(last[GROWING:])))
        records_of_partitions.append(sorted(records, key=lambda record: record.minute))

    await run_concurrently(await store.partitions.occupied_shards(store, queue), read)

    def growth(begin: int, end: int) -> list[int]:
        sums = [0] * GROWING
        for records in records_of_partitions:
            for record in records:
                if begin < record.minute <= end:
                    sums = [a + b for a, b in zip(sums, record.totals, strict=True)]
        return sums

    def depths_at(minute: int) -> list[int]:
        sums = [0] * len(STATES)
        for records in records_of_partitions:
            count = bisect_right(records, minute, key=lambda record: record.minute)
            if count:
                sums = [a + b for a, b in zip(sums, records[count - 1].depths, strict=True)]
        return sums

    oldest = newest - QUEUE_MINUTES + 1
    begin, end = max(periods.first, oldest), min(periods.end, newest)
    if born:
        first = [records[0].minute - 1 for records in records_of_partitions if records]
        oldest = max(oldest, min([*born, *first]))
    shard = store.keys.shard_of_queue(queue)
    names = _fine_fields(range(begin + 1, end + 1), QUEUE_MINUTES)
    fine = await _read_fine(store, shard.slot, shard.queue_times(queue), names)
    points = await _points(periods, oldest, newest, growth, depths_at, _between(fine))
    return _with_gaps(points, periods.length, await _recorded_minutes(store, begin, end))


async def type_series(store: Store, job_type: str, periods: Periods) -> list[Point]:
    """Return the statistics of one job type in all queues.

    Periods of an hour or a day reach back three days, shorter ones two hours. Processes write their
    counts every 15 seconds, so the last period has ended that long ago. The points have no depths,
    and of the totals only jobs enqueued, completed and discarded, and failed attempts.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    slot = store.keys.shard_of_queue(job_type).slot
    time: Any = await store.redis.call(slot, "TIME", idempotent=True)
    newest = (int(time[0]) - ceil(FLUSH_S)) // 60
    fine: FineRecords = {}
    fine_hours: FineRecords = {}
    records = await read_type_records(store, job_type, WIDTH, fine)
    hours: dict[int, list[int]] = {}
    if periods.length >= _HOUR:
        hours = await read_type_hours(store, job_type, WIDTH, fine_hours)
        hours = {n: sums for n, sums in hours.items() if n > newest // _HOUR - KEPT_HOURS}
    if not records and not hours:
        return []

    def growth(begin: int, end: int) -> list[int]:
        sums = [0] * WIDTH
        minute = begin
        while minute < end:
            hour, is_full = minute // _HOUR, minute % _HOUR == 0 and minute + _HOUR <= end
            found = hours.get(hour) if is_full else None
            minute += 1 if found is None else _HOUR
            found = found or records.get(minute)
            if found is not None:
                sums = [a + b for a, b in zip(sums, found, strict=True)]
        totals = dict.fromkeys(TOTALS, 0)
        names = ("enqueued", "acked", "discarded_total", "failed")
        totals.update(zip(names, sums[-len(names) :], strict=True))
        return [*totals.values(), *sums[: -len(names)]]

    def fine_growth(begin: int, end: int) -> WaitsAndRuns:
        found, minute = WaitsAndRuns(), begin
        while minute < end:
            hour, is_full = minute // _HOUR, minute % _HOUR == 0 and minute + _HOUR <= end
            part = fine_hours.get(hour) if is_full and hour in hours else None
            minute += 1 if part is None else _HOUR
            part = part or fine.get(minute)
            if part is not None:
                found.merge(part)
        return found

    starts = [hour * _HOUR for hour in hours]
    if records:
        starts.append(max(newest - KEPT_MINUTES + 1, min(records) - 1))
    oldest = min(starts)
    none = [0] * len(STATES)
    points = await _points(periods, oldest, newest, growth, lambda _: none, fine_growth)
    return [replace(point, depths={}) for point in points]


async def _points(
    periods: Periods,
    oldest: int,
    newest: int,
    growth: Callable[[int, int], Sequence[int]],
    depths_at: Callable[[int], Sequence[int]],
    fine: Callable[[int, int], WaitsAndRuns],
) -> list[Point]:
    """Return the points of the periods that overlap with the minutes ``oldest`` to ``newest``.

    If periods are shorter than an hour, an incomplete last period is left out. Its small numbers
    would look like a drop at the end of a chart.
    """
    read = partial(_read_points, periods, oldest, newest, growth, depths_at, fine)
    return await off_loop(read, periods.count * periods.length, large=_LARGE)


def _read_points(
    periods: Periods,
    oldest: int,
    newest: int,
    growth: Callable[[int, int], Sequence[int]],
    depths_at: Callable[[int], Sequence[int]],
    fine: Callable[[int, int], WaitsAndRuns],
) -> list[Point]:
    points: list[Point] = []
    for number in range(periods.count):
        begin = periods.first + number * periods.length
        end = begin + periods.length
        complete = end <= newest
        if end <= oldest or begin >= newest or not (complete or periods.length >= _HOUR):
            continue
        first, last = max(begin, oldest), min(end, newest)
        totals, times = growth(first, last), fine(first, last)
        points.append(
            Point(
                begin * 60_000,
                complete,
                last - first,
                dict(zip(TOTALS, totals[: len(TOTALS)], strict=True)),
                dict(zip(STATES, depths_at(last), strict=True)),
                totals[len(TOTALS) :],
                times,
            )
        )
    return points


def _with_gaps(points: Sequence[Point], length: int, recorded: Sequence[int]) -> list[Point]:
    """Return the points; those of periods in which no record was stored say so.

    Args:
        points: the points.
        length: length of a period in minutes.
        recorded: the minutes of the records, in Unix minutes and in order. The record of an hour is
            the first one that was stored in it.
    """
    late = _HOUR - 1 if length >= _HOUR else 0
    found = []
    for point in points:
        begin = point.start_ms // 60_000
        has_any = bisect_right(recorded, begin) < bisect_right(recorded, begin + length + late)
        found.append(point if has_any or not point.complete else replace(point, recorded=False))
    return found


async def _recorded_minutes(store: Store, begin: int, end: int) -> list[int]:
    """Return the minutes after ``begin`` up to ``end`` of which the cluster has records."""
    slots = [minute % MINUTES for minute in range(begin + 1, end + 1)]
    records = await _read(store, store.keys.meta.history_minutes, slots)
    return sorted(record.minute for record in records)


async def _cluster_fine(store: Store, periods: Periods) -> Callable[[int, int], WaitsAndRuns]:
    """Return a function for the waits and runs between two minutes."""
    meta = store.keys.meta
    if periods.length < _HOUR:
        names = _fine_fields(range(periods.first + 1, periods.end + 1), MINUTES)
        key = meta.history_minutes
        return _between(await _read_fine(store, meta.slot, key, names))
    wanted = range(periods.first // _HOUR, periods.end // _HOUR)
    names = _fine_fields(wanted, HOURS)
    hours = await _read_fine(store, meta.slot, meta.history_hours, names)
    by_hour = _between(hours)
    # The record of an hour has the number of this hour, and one of a minute that of the next.
    return lambda begin, end: by_hour(begin // _HOUR - 1, -(-end // _HOUR) - 1)


def _fine_fields(numbers: range, kept: int) -> list[bytes]:
    return [FINE + b"%d" % (number % kept) for number in numbers[-kept:]]


async def _read_fine(store: Store, slot: int, key: bytes, names: Sequence[bytes]) -> FineRecords:
    """Return the records of waits and runs in these fields of a hash."""
    if not names:
        return {}
    texts: Any = await store.redis.call(slot, "HMGET", key, *names, idempotent=True)

    def decode() -> FineRecords:
        records: FineRecords = {}
        for text in texts:
            add_fine_record(records, text or b"")
        return records

    return await off_loop(decode, sum(len(text or b"") for text in texts))


def _between(records: FineRecords) -> Callable[[int, int], WaitsAndRuns]:
    """Return a function that sums the records after one number, up to another one."""

    def between(begin: int, end: int) -> WaitsAndRuns:
        found = WaitsAndRuns()
        for number in range(begin + 1, end + 1):
            if number in records:
                found.merge(records[number])
        return found

    return between


async def _cluster_records(store: Store, periods: Periods) -> list[Record]:
    """Return the records that a series needs, the oldest first.

    Periods shorter than an hour use the records by minute. Longer periods use the records by hour,
    and for the last ``_NEWEST_MINUTES`` the records by minute.
    """
    meta = store.keys.meta
    newest = await newest_minute(store)
    if newest is None:
        return []
    oldest_minute = newest - MINUTES + 1
    if periods.length >= _HOUR:
        oldest_minute = newest - _NEWEST_MINUTES
    # One record before the first period, from which its growth is counted.
    begin, end = max(periods.first - 1, oldest_minute), min(periods.end, newest)
    wanted = range(begin, end + 1)
    by_minute = await _read(store, meta.history_minutes, [minute % MINUTES for minute in wanted])
    records = {record.minute: record for record in by_minute if record.minute in wanted}
    if periods.length >= _HOUR:
        hours = range(
            max(periods.first // _HOUR - 1, newest // _HOUR - HOURS + 1), end // _HOUR + 1
        )
        for record in await _read(store, meta.history_hours, [hour % HOURS for hour in hours]):
            if record.minute // _HOUR in hours:
                records[record.minute] = record
    return [records[minute] for minute in sorted(records)]


async def _read(store: Store, key: bytes, slots: Sequence[int]) -> list[Record]:
    if not slots:
        return []
    texts: Any = await store.redis.call(store.keys.meta.slot, "HMGET", key, *slots, idempotent=True)
    return [record for text in texts if (record := parse_record(text)) is not None]


async def newest_minute(store: Store) -> int | None:
    """Return the minute of the newest record of the cluster; None if there is no record."""
    meta = store.keys.meta
    time: Any = await store.redis.call(meta.slot, "TIME", idempotent=True)
    minute = int(time[0]) // 60
    # The newest record is nearly always one of the last minutes. If no scheduler has run for long,
    # all other minutes are read as well.
    last_minutes = range(minute - 9, minute + 1)
    for span in (last_minutes, range(minute - MINUTES + 1, last_minutes.start)):
        records = await _read(store, meta.history_minutes, [n % MINUTES for n in span])
        newest = max((record.minute for record in records if record.minute in span), default=None)
        if newest is not None:
            return newest
    return None
