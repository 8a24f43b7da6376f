"""The records of the history of statistics, as they are stored in Redis.

A record is a text of whole numbers, separated by commas: the minute at whose start it was taken,
the totals, the times, and the numbers of jobs by state. Zeros may be left out between the commas.
The records of the cluster hold the totals themselves, those of a queue their growth since the
queue's record before. ``sample_queue.lua`` has the same names in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.history.job_times import TIMES

TOTALS: Final = (
    "enqueued",
    "acked",
    "failed",
    "retried_total",
    "discarded_total",
    "cancelled_total",
    "expired_total",
    "run_ms",
    "wait_ms",
)
"""Counters of a queue that only grow. ``acked`` counts completed jobs, ``failed`` failed attempts,
and the last two are the sums over completed jobs of their run and their wait, in milliseconds."""
STATES: Final = (
    State.SCHEDULED,
    State.PENDING,
    State.ACTIVE,
    State.RETRYABLE,
    State.AVAILABLE,
)
"""The states whose jobs are counted."""
GROWING: Final = len(TOTALS) + len(TIMES)
"""How many numbers of a record only grow."""
MINUTES: Final = 25 * 60
"""Number of minutes for which the cluster has records. An hour more than a day, so that a day is
complete also while its first minute is replaced."""
HOURS: Final = 31 * 24
"""Number of hours for which the cluster has records."""
QUEUE_MINUTES: Final = 120
"""Number of minutes for which a queue has records."""
_EXACT: Final = 2**53


@dataclass(frozen=True, slots=True)
class Record:
    """One record.

    Attributes:
        minute: when it was taken, in Unix minutes.
        totals: the totals and times, or their growth, in the order of ``TOTALS`` and ``TIMES``.
        depths: numbers of jobs in the order of ``STATES``.
    """

    minute: int
    totals: tuple[int, ...]
    depths: tuple[int, ...]


def parse_record(text: bytes | None) -> Record | None:
    """Return the record in ``text``; None if it is absent or damaged."""
    numbers = parse_numbers(text)
    if len(numbers) != 1 + GROWING + len(STATES):
        return None
    return Record(numbers[0], tuple(numbers[1 : 1 + GROWING]), tuple(numbers[1 + GROWING :]))


def parse_numbers(text: bytes | None) -> list[int]:
    """Return the numbers of a text; none if one of them is damaged."""
    try:
        numbers = [int(number or 0) for number in (text or b"x").split(b",")]
    except ValueError:
        return []
    return numbers if all(0 <= number < _EXACT for number in numbers) else []
