"""The records of statistics over time, as they are stored in Redis.

A record is a text of whole numbers, separated by commas: the minute at whose start it was taken,
the totals, the numbers of jobs by waiting time and by run time (``job_counts.TIMES``), and the
numbers of jobs by state. Zeros may be left out between the commas.
A record of the cluster holds the totals themselves. A record of a queue holds the growth of the
totals since the previous record of the queue. ``sample_queue.lua`` has the same names in the same
order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.ground.process_state.job_counts import (
    CLUSTER_HOURS,
    CLUSTER_MINUTES,
    TIMES,
)

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
"""Counters of a queue that only grow. ``acked`` counts completed jobs, and ``failed`` counts failed
attempts. ``run_ms`` and ``wait_ms`` are the sums, over completed jobs, of the time in milliseconds
that the job ran, and that it waited."""
STATES: Final = (
    State.SCHEDULED,
    State.PENDING,
    State.ACTIVE,
    State.RETRYABLE,
    State.AVAILABLE,
)
"""The states whose jobs are counted."""
GROWING: Final = len(TOTALS) + len(TIMES)
"""Number of the numbers of a record that only grow."""
MINUTES: Final = CLUSTER_MINUTES
HOURS: Final = CLUSTER_HOURS
QUEUE_MINUTES: Final = 120
"""Number of minutes for which a queue has records."""
_EXACT: Final = 2**53  # Lua's doubles are exact below this number


@dataclass(frozen=True, slots=True)
class Record:
    """The numbers of the cluster or of a queue at the start of one minute.

    Attributes:
        minute: when the numbers were read, in Unix minutes.
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
    """Return the numbers of a text; none if there is no text, or if one of them is damaged."""
    if not text:
        return []
    try:
        numbers = [int(number or 0) for number in text.split(b",")]
    except ValueError:
        return []
    return numbers if all(0 <= number < _EXACT for number in numbers) else []
