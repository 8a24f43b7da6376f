"""Rules about requests with one outcome: idempotency keys, and deletions that move jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

from tests.chaos.history import Command, Enqueue, Finding, History, Item, Keyed

_FORGOTTEN = "a master lost what no replica had"


def keys(history: History) -> Iterator[Finding]:
    """An idempotency key gives one outcome: each item of its request becomes one job at most.

    What a response says of an item stays true, unless it says that a repetition may succeed.
    """
    tries: dict[str, list[Keyed]] = defaultdict(list)
    for keyed in history.keyed:
        if keyed.items:
            tries[keyed.key].append(keyed)
    ran: dict[tuple[str, int], set[str]] = defaultdict(set)
    for lease in history.leases:
        if lease.item:
            ran[lease.item].add(lease.job)
    counts = {key: len(found[0].items) for key, found in tries.items()}
    for key, index in ran:
        counts[key] = max(counts.get(key, 0), index + 1)
    excused = _FORGOTTEN if history.forgetful else ""
    for key, count in counts.items():
        for index in range(count):
            told = [(it, it.items[index]) for it in tries[key]]
            jobs = ran[key, index] | {item.job for _, item in told if item.job}
            text = f"item {index} became {len(jobs)} jobs" if len(jobs) > 1 else _changed(told)
            yield Finding("key", key, text, excused)


def _changed(told: list[tuple[Keyed, Item]]) -> str:
    for (one, first), (other, second) in combinations(told, 2):
        if one.answer.answered < other.answer.sent and not first.retryable and first != second:
            return f"a response says {first}, a later one {second}"
    return ""


def retried_keys(history: History) -> Iterator[Finding]:
    """A refusal that may be retried is not kept: the request succeeds when its reason is over."""
    for key in {it.key for it in history.keyed if any(item.retryable for item in it.items)}:
        code = dict(history.final.pinned).get(key, "")
        text = f"its repetition still gets {code}, although its reason is over" if code else ""
        yield Finding("retried key", key, text)


def moves(history: History) -> Iterator[Finding]:
    """A deletion that moves jobs loses none, and leaves none in the deleted queue."""
    requests: dict[str, list[Enqueue]] = defaultdict(list)
    queues: dict[str, set[str]] = defaultdict(set)
    for enqueue in history.enqueues:
        for job in enqueue.jobs:
            requests[job.id].append(enqueue)
            queues[job.id].add(job.queue)
    for command in history.commands:
        if command.kind != "move" or command.answer.outcome != "done":
            continue
        for id_, asked in requests.items():
            # Each request for the job was over when the queue was deleted, and one has stored it.
            over = all(
                it.answer.answered < command.answer.sent and it.answer.outcome != "unknown"
                for it in asked
            )
            stored = any(it.answer.outcome == "done" for it in asked)
            if id_ and over and stored and queues[id_] == {command.subject}:
                yield Finding("move", id_, _left(history, id_, command))


def _left(history: History, job: str, deletion: Command) -> str:
    queue = deletion.subject
    if job not in history.final.states and not history.forgetful:
        return f"it was in {queue}, which was deleted, and is gone"
    later = (it for it in history.leases if it.answer.sent > deletion.answer.answered)
    for lease in later:
        if (lease.job, lease.queue) == (job, queue):
            return f"{lease.worker} got it from {queue} after its deletion"
    return ""
