"""The independent checker: rules that every history must satisfy, whatever faults occurred.

Each rule is a function from a history to its violations. A rule does not know how the product
works. It compares the responses to clients with each other and with the final state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Final

from tests.chaos import bounds, notices, outcomes, replay, switches, tenants
from tests.chaos.history import Answer, Enqueue, Finding, History, Lease, NewJob, Settle
from tests.chaos.replay import TERMINAL

Rule = Callable[[History], Iterator[Finding]]

_FORGOTTEN: Final = "a master lost what no replica had"


class _Index:
    """A history by job."""

    def __init__(self, history: History) -> None:
        self.history = history

    @cached_property
    def leases(self) -> Mapping[str, Sequence[Lease]]:
        found: dict[str, list[Lease]] = defaultdict(list)
        for lease in sorted(self.history.leases, key=lambda lease: lease.answer.sent):
            found[lease.job].append(lease)
        return found

    @cached_property
    def settles(self) -> Mapping[str, Sequence[Settle]]:
        found: dict[str, list[Settle]] = defaultdict(list)
        for settle in self.history.settles:
            found[settle.job].append(settle)
        return found

    @cached_property
    def commands(self) -> Mapping[tuple[str, str], Sequence[Answer]]:
        """Per (kind, subject), the requests that may have had an effect."""
        found: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        for command in self.history.commands:
            if command.answer.possible:
                found[command.kind, command.subject].append(command.answer)
        return found

    @cached_property
    def requests(self) -> Mapping[str, Sequence[tuple[NewJob, Enqueue]]]:
        found: dict[str, list[tuple[NewJob, Enqueue]]] = defaultdict(list)
        for enqueue in self.history.enqueues:
            for job in enqueue.jobs:
                if job.id:
                    found[job.id].append((job, enqueue))
        return found

    @cached_property
    def traces(self) -> set[str]:
        """Jobs that at least one observation shows to have existed."""
        events = {event.job for event in self.history.events}
        return events | self.leases.keys() | self.history.final.states.keys()

    @cached_property
    def born_again(self) -> Mapping[str, int]:
        """Ids whose job was purged and stored again."""
        return replay.born_again(self.history)

    def purged(self, queue: str) -> bool:
        """Return whether jobs of a queue may have been deleted."""
        return ("purge", queue) in self.commands


def lost(history: History) -> Iterator[Finding]:
    """An acknowledged job exists at the end."""
    index = _Index(history)
    for id_, requests in index.requests.items():
        told = [it for _, it in requests if it.answer.outcome == "done" and not it.existing]
        if told and not index.purged(requests[0][0].queue):
            text = "" if id_ in history.final.states else "it was acknowledged and is gone"
            yield Finding("lost", id_, text, _forgotten(history))
    for workflow in history.workflows:
        if workflow.answer.outcome == "done":
            there = workflow.id in history.final.workflows
            text = "" if there else "the workflow was acknowledged and is gone"
            yield Finding("lost", workflow.id, text, _forgotten(history))


def refused(history: History) -> Iterator[Finding]:
    """A refused request has had no effect."""
    index = _Index(history)
    for id_, requests in index.requests.items():
        if not any(it.answer.possible for _, it in requests):
            text = "every request for it was refused, and it is there"
            yield Finding("refused", id_, text if id_ in index.traces else "")
    for workflow in history.workflows:
        if not workflow.answer.possible:
            runs = any(it.step and it.step[0] == workflow.tag for it in history.leases)
            text = "the workflow was refused, and a step runs"
            yield Finding("refused", workflow.tag, text if runs else "")


def batches(history: History) -> Iterator[Finding]:
    """A batch is stored atomically."""
    index = _Index(history)
    for enqueue in history.enqueues:
        ids = [job.id for job in enqueue.jobs]
        if len(ids) < 2 or any(index.purged(job.queue) for job in enqueue.jobs):
            continue
        there = index.traces.intersection(ids)
        text = f"of {len(ids)} jobs of a batch {len(there)} are there"
        torn = 0 < len(there) < len(ids)
        subject = min(set(ids) - there, default=ids[0])
        yield Finding("batch", subject, text if torn else "", _forgotten(history))


def completed_by_holder(history: History) -> Iterator[Finding]:
    """A completed job was acknowledged by the worker that held its last lease."""
    index = _Index(history)
    for id_, events in replay.by_job(history.events).items():
        holder = (0, "")
        for event in events:
            if event.kind == "job.started":
                holder = (event.attempt, event.worker)
            elif event.kind == "job.completed":
                acks = [
                    it
                    for it in index.settles.get(id_, ())
                    if it.kind == "ack" and it.answer.possible and (it.attempt, it.worker) == holder
                ]
                text = f"completed, and {holder[1]} never acknowledged attempt {holder[0]}"
                yield Finding("holder", id_, "" if acks else text)


def one_completion(history: History) -> Iterator[Finding]:
    """The completion of a job is confirmed to one lease only."""
    for id_, settles in _Index(history).settles.items():
        told = {it.lease for it in settles if it.kind == "ack" and it.answer.outcome == "done"}
        text = f"acks of {len(told)} leases were accepted"
        yield Finding("one ack", id_, text if len(told) > 1 else "", _forgotten(history))


def one_holder(history: History) -> Iterator[Finding]:
    """A job is not fetched while it has a lease, and each attempt is fetched once."""
    index = _Index(history)
    for id_, leases in index.leases.items():
        for one, other in combinations(leases, 2):
            # A fetch may wait for long, so neither request nor response tells when a lease began.
            earlier, later = sorted((one, other), key=lambda it: (it.attempt, it.answer.answered))
            yield Finding("one holder", id_, _clash(index, earlier, later))


def _clash(index: _Index, earlier: Lease, later: Lease) -> str:
    begin, end = earlier.answer.sent, later.answer.answered
    if earlier.lease == later.lease:
        return f"lease {later.lease} was given out twice"
    if index.history.lossy(begin, end):
        return ""  # a fetch does not wait for a replica: a failover may forget the lease
    if ("retry", later.job) in index.commands or later.job in index.born_again:
        return ""  # its attempts were counted from zero again
    settles = [it for it in index.settles.get(later.job, ()) if it.lease == earlier.lease]
    released = any(it.kind == "release" and it.answer.possible for it in settles)
    if earlier.attempt == later.attempt and not released:
        return f"attempt {later.attempt} was given to {earlier.worker} and {later.worker}"
    over = any(it.answer.possible and it.answer.sent < end for it in settles)
    if earlier.beats or over or end >= earlier.until:
        return ""
    return f"given to {later.worker} while {earlier.worker} holds it"


def ends_stay(history: History) -> Iterator[Finding]:
    """A state that was final for one client is final for all later requests."""
    index = _Index(history)
    ends: dict[str, list[tuple[str, Answer]]] = defaultdict(list)
    for settle in history.settles:
        if settle.kind == "ack" and settle.answer.outcome == "done":
            ends[settle.job].append(("completed", settle.answer))
    for command in history.commands:
        if command.kind == "cancel" and command.answer.outcome == "done":
            ends[command.subject].append(("cancelled", command.answer))
    for seen in history.seen:
        if seen.state in ("completed", "cancelled"):
            ends[seen.job].append((seen.state, seen.answer))
    later = [(it.job, it.state, it.answer) for it in history.seen]
    later += [(it.job, "active", it.answer) for group in index.leases.values() for it in group]
    for job, state, answer in later:
        for end, told in ends.get(job, ()):
            lossy = history.lossy(told.sent, answer.answered) and (
                not history.confirmed or told.status == _READ
            )
            if end == "cancelled" and job in index.born_again:
                continue
            if told.answered < answer.sent and not lossy:
                text = f"it is {state} after it was {end}"
                yield Finding("end stays", job, "" if state == end else text)


_READ: Final = 0
"""Status of a response that only shows a state: reads wait for no replica."""


def cancelled_for_a_reason(history: History) -> Iterator[Finding]:
    """A job is cancelled only if a request asks for it."""
    index = _Index(history)
    replaced = {
        job.fingerprint
        for enqueue in history.enqueues
        for job in enqueue.jobs
        if enqueue.answer.possible and job.on_conflict.startswith("replace")
    }
    for id_, requests in index.requests.items():
        asked = ("cancel", id_) in index.commands
        fingerprint = requests[0][0].fingerprint
        # A purge first cancels a job that has dependents in other shards.
        purged = index.purged(requests[0][0].queue)
        wanted = asked or purged or (fingerprint and fingerprint in replaced)
        if history.final.states.get(id_) == "cancelled":
            yield Finding("cancelled", id_, "" if wanted else "no request asked for it")


def workflow_order(history: History) -> Iterator[Finding]:
    """A step starts after the steps that it waits for; a callback starts after all have ended."""
    plans = {workflow.tag: workflow for workflow in history.workflows}
    index = _Index(history)
    jobs: dict[tuple[str, str], set[str]] = defaultdict(set)
    for lease in history.leases:
        if lease.step:
            jobs[lease.step].add(lease.job)
    for lease in history.leases:
        if lease.step is None or lease.step[0] not in plans:
            continue
        tag, step = lease.step
        for before in plans[tag].waits_for.get(step, ()):
            acks = [
                it
                for job in jobs[tag, before]
                for it in index.settles.get(job, ())
                if it.kind == "ack"
                and it.answer.possible
                and it.answer.sent < lease.answer.answered
            ]
            states = {history.final.states.get(job) for job in jobs[tag, before]}
            failed = states & {"discarded", "cancelled"} and not history.forgetful
            text = f"{tag}: {step} ran before {before}"
            yield Finding("workflow order", lease.job, text if failed or not acks else "")
        for before in plans[tag].ends_of.get(step, ()):
            begun = [
                it
                for job in jobs[tag, before]
                for it in index.leases.get(job, ())
                if it.answer.sent < lease.answer.answered
            ]
            text = f"{tag}: {step} ran before {before}"
            yield Finding("workflow order", lease.job, "" if begun else text)


def once(history: History) -> Iterator[Finding]:
    """Each workflow step and each cron occurrence is one job."""
    jobs: dict[tuple[str, tuple[str, str]], set[str]] = defaultdict(set)
    for lease in history.leases:
        if lease.step:
            jobs["step", lease.step].add(lease.job)
        if lease.occurrence:
            jobs["occurrence", lease.occurrence].add(lease.job)
    for (kind, name), ids in jobs.items():
        text = f"it became {len(ids)} jobs" if len(ids) > 1 else ""
        yield Finding(f"{kind} once", " ".join(name), text)


def stuck(history: History) -> Iterator[Finding]:
    """After faults and load have ended, all work ends.

    Repairing what a lost master leaves incomplete takes up to ten minutes. Until then it is only
    counted.
    """
    final, lost_by = history.final, "" if history.patient else _forgotten(history)
    for id_, state in final.states.items():
        yield Finding("stuck", id_, "" if state in TERMINAL else f"it stays {state}", lost_by)
    for id_, state in final.workflows.items():
        text = "the workflow stays running" if state == "running" else ""
        yield Finding("stuck", id_, text, lost_by or _lost_steps(history, id_))
    left = final.effects_left
    text = f"{left} effects are still in the outbox" if left else ""
    yield Finding("stuck", "outbox", text, lost_by)
    for fingerprint in final.dead_locks:
        yield Finding("stuck", fingerprint, "no job of it can be enqueued any more", lost_by)
    for operation in final.operations:
        yield Finding("stuck", operation, "the bulk operation has not ended", lost_by)
    for problem in final.problems:
        yield Finding("invariants", problem.split()[0], problem, lost_by)


def _lost_steps(history: History, id_: str) -> str:
    """Excuse a workflow whose creation was not confirmed when a master was lost.

    Its record may have survived without some of its jobs. It reads them after five minutes.
    """
    for workflow in history.workflows:
        answer = workflow.answer
        confirmed = answer.outcome not in ("unconfirmed", "unknown")
        lossy = history.lossy(answer.sent, answer.answered)
        if workflow.id == id_ and not confirmed and lossy and not history.patient:
            return "a master lost steps that were not confirmed"
    return ""


def errors(history: History) -> Iterator[Finding]:
    """No client gets an internal error."""
    for error in history.errors:
        yield Finding("error", error.split()[0], error)


RULES: Final[Sequence[Rule]] = (
    replay.paths,
    replay.times,
    replay.order,
    replay.unique,
    bounds.concurrency,
    bounds.leases,
    bounds.starts,
    bounds.waiting,
    tenants.isolation,
    tenants.new_jobs,
    tenants.waiting,
    switches.pauses,
    switches.drains,
    outcomes.keys,
    outcomes.retried_keys,
    outcomes.moves,
    notices.hooks,
    notices.streams,
    lost,
    refused,
    batches,
    completed_by_holder,
    one_completion,
    one_holder,
    ends_stay,
    cancelled_for_a_reason,
    workflow_order,
    once,
    stuck,
    errors,
)


def examine(history: History) -> Iterator[Finding]:
    """Apply all rules; yield what each finds, also where it holds."""
    for rule in RULES:
        yield from rule(history)


def check(history: History) -> list[Finding]:
    """Return the violations of all rules, excused ones included."""
    return [finding for finding in examine(history) if finding.text]


def _forgotten(history: History) -> str:
    return _FORGOTTEN if history.forgetful else ""
