"""Rules about limits and bounds: they are never exceeded, through any process.

Events have the times of Redis. Leases have the times of clients, so they hold for sure only between
the response to the fetch and the first request that may have ended them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tests.chaos.history import Event, Finding, History
from tests.chaos.replay import STATE_AFTER, Interval, by_job

SETTLED_S: Final = 30.0
"""Time in seconds after a change of the default number of partitions, after which every process has
read it, and bounds have been divided among the partitions."""
WAITING: Final = frozenset({"available", "scheduled", "retryable"})
_LONGEST_LEASE_S: Final = 10.0
_REPARTITIONED: Final = "the default number of partitions was changed"
_LOST: Final = "a master lost what counted"


def settled(history: History) -> list[Interval]:
    """Return the times in seconds in which all processes have the same number of partitions."""
    found: list[Interval] = []
    begin = -math.inf
    for start, end in sorted(history.repartitioned):
        if begin < start:
            found.append((begin, start))
        begin = max(begin, end + SETTLED_S)
    return [*found, (begin, math.inf)]


def within(spans: Sequence[Interval], period: Interval) -> list[Interval]:
    """Return the spans that begin in a period, cut at its end."""
    return [(begin, min(end, period[1])) for begin, end in spans if period[0] <= begin < period[1]]


def peak(spans: Sequence[Interval]) -> tuple[int, float]:
    """Return the largest number of overlapping intervals, and when that is."""
    changes = sorted((at, change) for begin, end in spans for at, change in ((begin, 1), (end, -1)))
    most, now, when = 0, 0, 0.0
    for at, change in changes:
        now += change
        if now > most:
            most, when = now, at
    return most, when


def concurrency(history: History) -> Iterator[Finding]:
    """No more jobs are active than the limits of their key or queue allow, by the events."""
    keys = {job.id: job.key for enqueue in history.enqueues for job in enqueue.jobs}
    spans: dict[tuple[str, str], list[Interval]] = defaultdict(list)
    for id_, events in by_job(history.events).items():
        for queue, begin, end in _active(events):
            for limit in (("queue", queue), ("key", keys.get(id_, ""))):
                spans[limit].append((history.at(begin), history.at(end)))
    for limit, most in history.bounds.active.items():
        # The tokens of a key are in another shard than the jobs that have them.
        lost = "a master lost tokens" if limit[0] == "key" and history.losses else ""
        yield _of_spans("limit", limit, most, spans[limit], lost)


def leases(history: History) -> Iterator[Finding]:
    """No more leases are held than the limits of their key or queue allow, as clients saw them."""
    ends: dict[str, float] = {}
    for settle in history.settles:
        ends[settle.lease] = min(settle.answer.sent, ends.get(settle.lease, math.inf))
    for command in history.commands:
        ends[command.subject] = min(command.answer.sent, ends.get(command.subject, math.inf))
    spans: dict[tuple[str, str], list[Interval]] = defaultdict(list)
    for lease in history.leases:
        begin = lease.answer.answered
        end = min(lease.until, *(ends.get(name, math.inf) for name in (lease.lease, lease.job)))
        if begin < end:
            spans["queue", lease.queue].append((begin, end))
            spans["key", lease.key].append((begin, end))
    for limit, most in history.bounds.active.items():
        _, at = peak(spans[limit])
        # A fetch does not wait for a replica: a failover may forget the lease.
        lost = _LOST if history.lossy(at - _LONGEST_LEASE_S, at) else ""
        if limit[0] == "key" and history.losses:
            lost = "a master lost tokens"
        yield _of_spans("leases", limit, most, spans[limit], lost)


def _of_spans(
    rule: str, limit: tuple[str, str], allowed: int, spans: Sequence[Interval], lost: str
) -> Finding:
    """Check how many intervals overlap."""
    most, at = peak(spans)
    text = f"{most} jobs were active at {at:.3f} s, {allowed} may be" if most > allowed else ""
    return Finding(rule, " ".join(limit), text, lost, checks=len(spans))


def _active(events: Sequence[Event]) -> Iterator[tuple[str, float, float]]:
    """Yield queue, begin and end in milliseconds of each attempt. A returned one does not count."""
    began: Event | None = None
    for event in events:
        if event.kind == "job.started":
            began = event
        elif event.kind != "job.heartbeat" and began is not None:
            # A job whose fetch got no answer is returned without an event, and may be rescheduled
            # at its limit later.
            if event.kind != "job.scheduled":
                yield began.queue, began.at_ms, event.at_ms
            began = None
    if began is not None:
        yield began.queue, began.at_ms, math.inf


def starts(history: History) -> Iterator[Finding]:
    """No window of a queue's rate has more starts than it allows.

    Only starts that a client got count: others may have been taken back.
    """
    delivered = {(lease.job, lease.attempt) for lease in history.leases}
    started: dict[str, dict[tuple[str, int], int]] = defaultdict(dict)
    for event in history.events:
        attempt = (event.job, event.attempt)
        if event.kind == "job.started" and attempt in delivered:
            started[event.queue][attempt] = max(event.at_ms, started[event.queue].get(attempt, 0))
    for queue, window in history.bounds.starts.items():
        times = sorted(started[queue].values())
        for first, last in zip(times, times[window.limit :], strict=False):
            text = excused = ""
            if last - first < window.seconds * 1000:
                text = f"{window.limit + 1} starts from {first} to {last}"
                excused = _LOST if history.lossy(history.at(first), history.at(last)) else ""
            yield Finding("rate", queue, text, excused)


def waiting(history: History) -> Iterator[Finding]:
    """A job is accepted only while fewer wait in its queue than its bound.

    Jobs that wait again after an attempt count, but are never refused. A queue of P partitions may
    have P - 1 jobs more. After a change of partitions, jobs that were accepted before it do not
    count.
    """
    spans, accepted = waits(history)
    for queue, bound in history.bounds.waiting.items():
        allowed = bound + history.bounds.partitions - 1
        for at in accepted[queue]:
            exact = max(
                (
                    count_at(within(spans[queue], period), at)
                    for period in settled(history)
                    if period[0] <= at < period[1]
                ),
                default=0,
            )
            most = exact if exact >= allowed else count_at(spans[queue], at)
            text = f"{most} jobs waited at {at:.3f} s before one more, {allowed} may wait"
            excused = "" if exact >= allowed else _REPARTITIONED
            yield Finding("bound", queue, text if most >= allowed else "", excused)


def waits(history: History) -> tuple[Mapping[str, list[Interval]], Mapping[str, list[float]]]:
    """Return per queue when its jobs waited, and when it accepted a job, in seconds."""
    spans: dict[str, list[Interval]] = defaultdict(list)
    accepted: dict[str, list[float]] = defaultdict(list)
    for events in by_job(history.events).values():
        if events[0].kind in ("job.enqueued", "job.scheduled"):
            accepted[events[0].queue].append(history.at(events[0].at_ms))
        ends = [*(history.at(event.at_ms) for event in events[1:]), math.inf]
        for event, end in zip(events, ends, strict=True):
            if STATE_AFTER.get(event.kind) in WAITING:
                spans[event.queue].append((history.at(event.at_ms), end))
    return spans, accepted


def count_at(spans: Sequence[Interval], at: float) -> int:
    """Return the number of intervals that begin before a time and end after it."""
    begun = bisect_left(sorted(begin for begin, _ in spans), at)
    ended = bisect_right(sorted(end for _, end in spans), at)
    return begun - ended
