"""How many jobs one script may change, by the number of webhooks that select their events.

A script writes a delivery per event and subscription. So the time of a script over many jobs also
grows with the number of subscriptions, and its caller must give it fewer jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.core.events import (
    BACKPRESSURE_DROPPED,
    CRON_SKIPPED,
    CRON_TRIGGERED,
    JOB_CANCELLED,
    JOB_COMPLETED,
    JOB_DISCARDED,
    JOB_ENQUEUED,
    JOB_EXPIRED,
    JOB_FAILED,
    JOB_HEARTBEAT,
    JOB_HELD,
    JOB_RETRYING,
    JOB_SCHEDULED,
    JOB_STARTED,
    RATE_LIMIT_ADJUSTED,
    RATE_LIMIT_DROPPED,
    RATE_LIMIT_EXCEEDED,
    RATE_LIMIT_RELEASED,
)

MOST_DELIVERIES: Final = 300
"""Number of deliveries that one script writes, or those of one job if they are more. One takes 4 to
12 us, so all of them take at most 4 ms."""

_ENDED: Final = ((JOB_FAILED,), (JOB_RETRYING, JOB_ENQUEUED, JOB_DISCARDED, JOB_CANCELLED))
_EVENTS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "ack_many": ((JOB_COMPLETED,),),
    "cron_claim_occurrence": ((CRON_SKIPPED,), (CRON_TRIGGERED, CRON_SKIPPED)),
    "drop_oldest": ((BACKPRESSURE_DROPPED,), (JOB_DISCARDED,)),
    "enqueue": ((JOB_ENQUEUED, JOB_SCHEDULED, JOB_CANCELLED),),
    "fetch_full": ((JOB_STARTED, JOB_EXPIRED, JOB_HELD),),
    "heartbeat": ((JOB_HEARTBEAT,),),
    "limit_free": ((RATE_LIMIT_RELEASED,),),
    "limit_grant": ((RATE_LIMIT_DROPPED,), (JOB_SCHEDULED, JOB_DISCARDED)),
    "limit_refresh": ((RATE_LIMIT_RELEASED,),),
    "limit_request": ((RATE_LIMIT_RELEASED,),),
    "limit_set": ((RATE_LIMIT_RELEASED,),),
    "limit_start": ((RATE_LIMIT_RELEASED,),),
    "nack_many": _ENDED,
    "promote": ((JOB_ENQUEUED, JOB_EXPIRED),),
    "reap": (*_ENDED, *_ENDED, (JOB_EXPIRED,)),  # its limit holds for each of three kinds
    "recover": _ENDED,
    "release_unanswered": ((JOB_ENQUEUED,),),
}
"""Per script the events of one job. Only one event of each inner tuple happens."""
_EVENTS_OF_KEY: Final = {
    "limit_free": RATE_LIMIT_ADJUSTED,
    "limit_request": RATE_LIMIT_EXCEEDED,
}
"""Per script the event that happens at most once, whatever the number of jobs."""


def jobs_per_script(script: str, most: int, selecting: Mapping[str, int]) -> int:
    """Return the number of jobs, at least one, that a call of a script may change.

    Args:
        script: the name of the script.
        most: the number without webhooks.
        selecting: number of subscriptions that select each type of event.
    """
    per_job = sum(max(selecting.get(kind, 0) for kind in kinds) for kinds in _EVENTS[script])
    for_jobs = MOST_DELIVERIES - selecting.get(_EVENTS_OF_KEY.get(script, ""), 0)
    return min(most, max(1, for_jobs // per_job)) if per_job else most
