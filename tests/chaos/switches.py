"""Rules about pauses and drains: they hold in every process as soon as one has confirmed them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from tests.chaos.history import Answer, Command, Finding, History
from tests.chaos.replay import Interval

_LATE_S: Final = 30.0
"""How long after its response a request of unknown outcome may still take effect, in seconds."""
_MARGIN_S: Final = 0.005
"""How much the client's clock may differ from the clock of the servers, in seconds."""
_LOST: Final = "a replaced master still answered"


def pauses(history: History) -> Iterator[Finding]:
    """A paused queue hands out nothing between the response to the pause and the next resume."""
    for queue, (begin, end) in _switched(history, "pause"):
        told = [
            (lease.job, lease.answer.sent, lease.answer.answered, f"was given to {lease.worker}")
            for lease in history.leases
            if lease.queue == queue
        ]
        for event in history.events:
            if event.queue == queue and event.kind == "job.started":
                at = history.at(event.at_ms)
                told.append((event.job, at - _MARGIN_S, at + _MARGIN_S, f"started at {at:.3f} s"))
        yield _during(history, "pause", queue, (begin, end), told)


def drains(history: History) -> Iterator[Finding]:
    """A draining queue accepts no job between the response to the drain and the next resume."""
    for queue, (begin, end) in _switched(history, "drain"):
        told = [
            (job.id, enqueue.answer.sent, enqueue.answer.answered, "was accepted")
            for enqueue in history.enqueues
            for job in enqueue.jobs
            if job.queue == queue
            and enqueue.answer.outcome == "done"
            and not enqueue.existing
            # Otherwise an earlier request of the client may have stored the job.
            and enqueue.answer.code != "duplicate"
        ]
        yield _during(history, "drain", queue, (begin, end), told)


def _during(
    history: History,
    rule: str,
    queue: str,
    span: Interval,
    told: list[tuple[str, float, float, str]],
) -> Finding:
    begin, end = span
    for job, since, until, what in sorted(told, key=lambda it: it[1]):
        if begin < since and until < end:
            lost = history.lossy(since, until) or (
                history.forgetful and history.lossy(begin - _LATE_S, until)
            )
            text = f"{job} {what}, after the {rule} at {begin:.3f} s and before {end:.3f} s"
            return Finding(rule, queue, text, _LOST if lost else "")
    return Finding(rule, queue)


def _switched(history: History, kind: str) -> Iterator[tuple[str, Interval]]:
    """Yield the queue and the time in seconds for which a switch was on for sure."""
    for command in history.commands:
        if command.kind != kind or command.answer.outcome != "done":
            continue
        resumes = [
            it.answer
            for it in history.commands
            if it.subject == command.subject and it.kind == "resume" and it.answer.possible
        ]
        if not any(_may_follow(resume, command) for resume in resumes):
            begin = command.answer.answered
            later = [resume.sent for resume in resumes if resume.sent >= begin]
            yield command.subject, (begin, min(later, default=math.inf))


def _may_follow(resume: Answer, command: Command) -> bool:
    """Return whether a resume that was sent before a switch was told may take effect after it."""
    late = 0.0 if resume.outcome == "done" else _LATE_S
    return resume.sent < command.answer.answered and resume.answered + late > command.answer.sent
