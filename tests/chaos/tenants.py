"""Rules about tenants: what they can see, and their limits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tests.chaos.bounds import WAITING, count_at, peak
from tests.chaos.history import Enqueue, Event, Finding, History
from tests.chaos.replay import STATE_AFTER, Interval, by_job

_SUM_S: Final = 15.0
"""Longest age in seconds of the sum that the server compares with a limit of stored jobs."""
_LATE_S: Final = 30.0
"""How long a request without a definite response may still be under way, in seconds."""


def isolation(history: History) -> Iterator[Finding]:
    """A request for one tenant gets only what belongs to this tenant."""
    for lease in history.leases:
        if lease.asked_for:
            foreign = lease.tenant != lease.asked_for
            text = f"a worker of {lease.asked_for} got a job of {lease.tenant or 'no tenant'}"
            yield Finding("tenant", lease.job, text if foreign else "")
    for foreign_look in history.foreign_looks:
        text = f"{foreign_look.tenant} has read it" if foreign_look.found else ""
        yield Finding("tenant", foreign_look.job, text)


def new_jobs(history: History) -> Iterator[Finding]:
    """No window of a tenant's rate has more new jobs than it allows.

    Requests count that were sent and answered within the window.
    """
    requests = _requests(history)
    for tenant, window in history.bounds.tenant_jobs.items():
        stored = sorted(
            (it.answer.sent, it.answer.answered, len(it.jobs))
            for it in requests[tenant]
            if _is_stored(it)
        )
        for first, _, _ in stored:
            end = first + window.seconds
            count = sum(jobs for sent, done, jobs in stored if first <= sent and done < end)
            text = f"{count} new jobs in {window.seconds} s from {first:.3f} s on"
            lost = "a master lost what counted" if history.lossy(first, end) else ""
            yield Finding("tenant rate", tenant, text if count > window.limit else "", lost)


def waiting(history: History) -> Iterator[Finding]:
    """A job is accepted only while fewer of its tenant wait than its limit.

    The server may miss jobs of requests that were under way at one moment, and jobs that wait again
    after an attempt. The latter are not counted here.
    """
    requests = _requests(history)
    events = by_job(history.events)
    for tenant, limit in history.bounds.tenant_waiting.items():
        spans: list[Interval] = []
        for id_ in {job.id for request in requests[tenant] for job in request.jobs}:
            spans += _first_wait(history, id_, events)
        under_way = [
            (it.answer.sent, it.answer.answered + (0 if _is_definite(it) else _LATE_S))
            for it in requests[tenant]
        ]
        for at, _ in spans:
            recent = [(b, e) for b, e in under_way if b <= at and e >= at - _SUM_S]
            allowed = limit + peak(recent)[0]
            count = count_at(spans, at)
            text = f"{count} jobs waited at {at:.3f} s before one more, {allowed} may wait"
            lost = "a master lost what counted" if history.lossy(at - _SUM_S, at) else ""
            yield Finding("tenant depth", tenant, text if count >= allowed else "", lost)


def _requests(history: History) -> dict[str, list[Enqueue]]:
    found: dict[str, list[Enqueue]] = defaultdict(list)
    for enqueue in history.enqueues:
        for tenant in {job.tenant for job in enqueue.jobs if job.tenant}:
            found[tenant].append(enqueue)
    return found


def _is_stored(enqueue: Enqueue) -> bool:
    """Return whether this request has stored its jobs, and not an earlier one with their ids."""
    answer = enqueue.answer
    return answer.outcome == "done" and answer.code != "duplicate" and not enqueue.existing


def _is_definite(enqueue: Enqueue) -> bool:
    return enqueue.answer.outcome in ("done", "refused")


def _first_wait(history: History, id_: str, events: dict[str, list[Event]]) -> list[Interval]:
    """Return when a job waited for its first attempt, in seconds; nothing if that is unknown."""
    found = events.get(id_, [])
    if not found or found[0].kind not in ("job.enqueued", "job.scheduled"):
        return []
    end = next((it for it in found if STATE_AFTER.get(it.kind) not in WAITING), None)
    return [(history.at(found[0].at_ms), math.inf if end is None else history.at(end.at_ms))]
