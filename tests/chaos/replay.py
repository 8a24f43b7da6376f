"""Rules about the event stream: the path of each job, order, and lives of unique jobs.

The table follows the core specification ("Job Lifecycle"), not the code of the product. It has one
more transition, which the rate limiting specification allows: a job whose key is at its limit may
be scheduled again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final

from tests.chaos.history import Event, Finding, History, NewJob

_NEW: Final = ""
"""Before its first event. A pending job stays in this state, because its creation writes no event.
"""

_NEXT: Final[Mapping[str, frozenset[str]]] = {
    # A job that is replaced before it is published ends without having been available.
    _NEW: frozenset({"available", "scheduled", "cancelled", "discarded"}),
    "scheduled": frozenset({"available", "cancelled", "discarded"}),
    "available": frozenset({"active", "cancelled", "discarded", "scheduled"}),
    "active": frozenset({"completed", "retryable", "available", "cancelled", "discarded"}),
    "retryable": frozenset({"available", "cancelled", "discarded"}),
    "completed": frozenset(),
    "cancelled": frozenset(),
    "discarded": frozenset({"available"}),
}

STATE_AFTER: Final[Mapping[str, str]] = {
    "job.enqueued": "available",
    "job.scheduled": "scheduled",
    "job.started": "active",
    "job.completed": "completed",
    "job.retrying": "retryable",
    "job.discarded": "discarded",
    "job.expired": "discarded",
    "job.cancelled": "cancelled",
    "job.held": "pending",
}
_WHILE_ACTIVE: Final = frozenset({"job.failed", "job.heartbeat"})

TERMINAL: Final = frozenset({"completed", "cancelled", "discarded"})

_MARGIN_S: Final = 0.005
"""How much the client's clock may differ from the clock of the servers, in seconds."""

Interval = tuple[float, float]


def by_job(events: Sequence[Event]) -> dict[str, list[Event]]:
    """Return the events of each job in their order."""
    found: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event.shard, event.place)):
        if event.kind in STATE_AFTER or event.kind in _WHILE_ACTIVE:
            found[event.job].append(event)
    return found


@dataclass(slots=True)
class _Job:
    """A job while its events are replayed. ``begun``: number of started attempts."""

    state: str = _NEW
    begun: int = 0

    def complaint_about(self, event: Event) -> str:
        """Take the next event; return what is wrong with it, or an empty text."""
        kind, before, begun = event.kind, self.state, self.begun
        if kind in _WHILE_ACTIVE:
            wrong = before != "active" or event.attempt != begun
            return f"{kind} of attempt {event.attempt} while {self}" if wrong else ""
        if kind == "job.scheduled" and before == "active":
            # Its fetch returned it to the queue, because its key was at its limit by then. No event
            # reports that.
            before, self.begun = "available", begun - 1
        self.state = STATE_AFTER[kind]
        if kind == "job.started":
            self.begun = event.attempt
            # A fetch whose client has disconnected returns its jobs, and no event reports that.
            if before == "active" and event.attempt == begun:
                return ""
            if event.attempt != begun + 1:
                return f"attempt {event.attempt} was started after attempt {begun}"
        if before == "discarded":
            self.begun = 0
        if self.state not in _NEXT[before]:
            return f"{kind} after {before or 'nothing'}"
        if kind == "job.completed" and event.attempt != begun:
            return f"attempt {event.attempt} was completed during attempt {begun}"
        return ""

    def __str__(self) -> str:
        return f"{self.state or 'new'} in attempt {self.begun}"


def born_again(history: History) -> dict[str, int]:
    """Report ids that live more often than requests explain.

    A purge deletes a job, and its client may repeat the request. So an id has at most as many lives
    as requests that may have stored it, and at most one more than the purges of its queue.
    """
    purges: dict[str, int] = defaultdict(int)
    for command in history.commands:
        if command.kind == "purge" and command.answer.possible:
            purges[command.subject] += 1
    requests: dict[str, int] = defaultdict(int)
    for enqueue in history.enqueues:
        for job in enqueue.jobs if enqueue.answer.possible else ():
            if job.id and purges[job.queue]:
                requests[job.id] += 1
    events = by_job(history.events)
    lives: dict[str, int] = {}
    for id_, asked in requests.items():
        kinds = [event.kind for event in events.get(id_, ()) if event.kind in STATE_AFTER]
        again = sum(
            before == "job.cancelled" and STATE_AFTER[kind] in _NEXT[_NEW]
            for before, kind in pairwise(kinds)
        )
        if 0 < again <= min(asked - 1, purges[events[id_][0].queue]):
            lives[id_] = again
    return lives


def paths(history: History) -> Iterator[Finding]:
    """Each job takes only transitions of the specification, and ends where its events lead."""
    again = born_again(history)
    for job, events in by_job(history.events).items():
        yield Finding("path", job, _complaint(history, job, events, lives_again=job in again))


def _complaint(history: History, job: str, events: Sequence[Event], *, lives_again: bool) -> str:
    replayed = _Job(history.imported.get(job, _NEW))
    for event in events:
        if lives_again and replayed.state == "cancelled":
            replayed = _Job()
        if complaint := replayed.complaint_about(event):
            return complaint
    final = history.final.states.get(job)
    begun = history.final.attempts.get(job, replayed.begun)
    # A job that has not ended may have changed between the two readings.
    if final in TERMINAL and final != replayed.state:
        return f"it is {final}, its events end with {replayed.state}"
    if final == "completed" and begun != replayed.begun:
        return f"it shows attempt {begun}, its events end with attempt {replayed.begun}"
    return ""


def times(history: History) -> Iterator[Finding]:
    """No job starts or expires before its time, whatever clock a process has."""
    sent: dict[str, float] = defaultdict(lambda: math.inf)
    asked: dict[str, NewJob] = {}
    for enqueue in history.enqueues:
        for job in enqueue.jobs:
            # Otherwise it may have the time of the job that it replaces.
            if job.id and job.on_conflict != "replace_except_schedule":
                sent[job.id] = min(sent[job.id], enqueue.answer.sent)
                asked[job.id] = job
    for event in history.events:
        known = asked.get(event.job)
        seconds = 0.0
        if known is not None and event.kind == "job.started":
            seconds = known.due_s
        elif known is not None and event.kind == "job.expired":
            seconds = known.expires_s
        if seconds:
            after = history.at(event.at_ms) - sent[event.job]
            text = f"{event.kind} {after:.3f} s after it was enqueued, not {seconds:.3f} s"
            yield Finding("early", event.job, text if after < seconds - _MARGIN_S else "")


def order(history: History) -> Iterator[Finding]:
    """A queue of one partition returns the highest priority first, then the oldest job.

    Such a queue has its events in one shard, in the order of its scripts. So the replay knows which
    jobs were available at each fetch. Jobs of one fetch have no known order, because equal events
    share an entry.
    """
    priority = {job.id: job.priority for enqueue in history.enqueues for job in enqueue.jobs}
    one_partition_until = min((begin for begin, _ in history.repartitioned), default=math.inf)
    for queue in history.ordered:
        listed = [
            it
            for it in history.events
            if it.queue == queue
            and it.kind in STATE_AFTER
            and history.at(it.at_ms) < one_partition_until
        ]
        listed.sort(key=lambda event: (event.shard, event.place))
        waiting: dict[str, tuple[int, int]] = {}
        number = 0
        for (kind, at_ms, worker), group in groupby(listed, key=_one_script):
            places: list[tuple[tuple[int, int], str]] = []
            for event in group:
                number += 1
                place = waiting.pop(event.job, None)
                if kind == "job.enqueued" and event.job in priority:
                    waiting[event.job] = (-priority[event.job], number)
                elif kind == "job.started" and place is not None:
                    places.append((place, event.job))
            if not places:
                continue
            first = min(waiting, key=lambda job: waiting[job], default="")
            text = ""
            if first and waiting[first] < max(places)[0]:
                text = f"{max(places)[1]} of {queue} was given to {worker} before it, at {at_ms}"
            yield Finding("order", first or queue, text)


def _one_script(event: Event) -> tuple[str, int, str]:
    return event.kind, event.at_ms, event.worker


def lives(events: Sequence[Event]) -> list[Interval]:
    """Return when a job was live, in milliseconds: from its first event, or a manual retry, to its
    end.
    """
    found: list[Interval] = []
    since: float | None = None
    for event in events:
        ended = STATE_AFTER.get(event.kind) in TERMINAL
        if since is None and not ended:
            since = event.at_ms
        elif since is not None and ended:
            found.append((since, event.at_ms))
            since = None
    if since is not None:
        found.append((since, math.inf))
    return found


def unique(history: History) -> Iterator[Finding]:
    """At most one job of a fingerprint is live at any time."""
    events = by_job(history.events)
    jobs: dict[str, set[str]] = defaultdict(set)
    for enqueue in history.enqueues:
        for job in enqueue.jobs:
            if job.fingerprint and job.id in events:
                jobs[job.fingerprint].add(job.id)
    for fingerprint, ids in jobs.items():
        spans = sorted((span, id_) for id_ in ids for span in lives(events[id_]))
        latest: tuple[float, str] = (-math.inf, "")
        for (begin, end), id_ in spans:
            text = excused = ""
            if begin < latest[0] and id_ != latest[1]:
                text = f"{id_} began at {begin:.0f}, {latest[1]} ended at {latest[0]:.0f}"
                excused = _forgotten(history) or _lost_lock(history, latest[1], id_)
            yield Finding("unique", fingerprint, text, excused)
            latest = max(latest, (end, id_))


def _lost_lock(history: History, holder: str, second: str) -> str:
    """Excuse a second job if an unconfirmed enqueue of one of the jobs met the loss of a master.

    The lock is in another shard than its holder, so the holder may survive it. The cancellation of
    a replaced job is in another shard than the new job, so it may be lost alone until the outbox
    repeats it (docs/guarantees.md). Confirmed jobs are not excused, nor is a loss at another time.
    """
    for enqueue in history.enqueues:
        answer = enqueue.answer
        confirmed = answer.outcome not in ("unconfirmed", "unknown")
        if confirmed or not history.lossy(answer.sent, answer.answered):
            continue
        for job in enqueue.jobs:
            if job.id == holder:
                return "a master lost a lock that was not confirmed"
            if job.id == second and job.on_conflict == "replace":
                return "a master lost a cancellation that was not confirmed"
    return ""


def _forgotten(history: History) -> str:
    return "a master lost what no replica had" if history.forgetful else ""
