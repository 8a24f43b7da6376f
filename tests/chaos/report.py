"""What a run did and found: one line, all counts, and the message of a failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from tests.chaos.faults import Journal
from tests.chaos.history import Finding, History, NewJob
from tests.chaos.installation import Variant
from tests.chaos.replay import by_job
from tests.chaos.schedule import Fault

_HISTORIES_SHOWN: Final = 5
_SHOWN: Final = 20
_WIDTH: Final = 100


@dataclass(slots=True)
class Tally:
    """How often a run, or several, did what.

    Attributes:
        faults: by kind.
        requests: by route and outcome.
        jobs: by queue.
        states: jobs by final state.
        checks: comparisons by rule.
        excused: violations that the history excuses, by rule and reason.
        violations: all others, by rule.
    """

    faults: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add the counts of another run."""
        for each in fields(self):
            getattr(self, each.name).update(getattr(other, each.name))

    def lines(self) -> list[str]:
        """Return all counts, the largest first."""
        lines: list[str] = []
        for each in fields(self):
            counts: Counter[str] = getattr(self, each.name)
            lines.append(f"  {each.name} ({counts.total()}):")
            line = ""
            for name, count in counts.most_common():
                part = f"{name} {count}"
                if line and len(line) + len(part) > _WIDTH:
                    lines.append(f"    {line}")
                    line = ""
                line = f"{line}, {part}" if line else part
            if line:
                lines.append(f"    {line}")
        return lines


@dataclass(frozen=True, slots=True)
class Run:
    """The parameters and result of one run, for its report."""

    variant: Variant
    seed: int
    seconds: float
    faults: Sequence[Fault]
    journal: Journal
    history: History
    findings: Sequence[Finding]

    @property
    def unexcused(self) -> Sequence[Finding]:
        """Return the violations that nothing excuses."""
        return [finding for finding in self.findings if finding.text and not finding.excused]

    def tally(self) -> Tally:
        """Return how often the run did what."""
        events = by_job(self.history.events)
        found = Tally(
            faults=Counter(self.journal.kinds),
            requests=Counter(self.history.requests),
            jobs=Counter(found[0].queue for found in events.values()),
            states=Counter(self.history.final.states.values()),
            violations=Counter(finding.rule for finding in self.unexcused),
        )
        for finding in self.findings:
            found.checks[finding.rule] += finding.checks
            if finding.text and finding.excused:
                found.excused[f"{finding.rule}: {finding.excused}"] += 1
        return found

    def summary(self) -> str:
        """Return one line about the run."""
        history, final = self.history, self.history.final
        counts = Counter(final.states.values())
        excused = Counter(it.rule for it in self.findings if it.text and it.excused)
        return (
            f"chaos {self.variant.name}, seed {self.seed}: {self.journal.kinds.total()} faults in "
            f"{self.seconds:.0f} s; {len(history.enqueues)} enqueues, "
            f"{len(history.leases)} leases, {len(history.settles)} ends, "
            f"{len(history.workflows)} workflows, {len(history.events)} events, {self._told()}; "
            f"jobs in the end: {dict(counts)}; excused: {dict(excused)}; "
            f"violations: {len(self.unexcused)}"
        )

    def _told(self) -> str:
        hooked, streamed = self.history.hooked, self.history.streamed
        if hooked is None or streamed is None:
            return "no listeners"
        return (
            f"{len(hooked.received)} by webhook, {streamed.seen.total()} by stream with "
            f"{len(streamed.gaps)} gaps"
        )

    def failure(self, logs: str, history: Path, all_logs: Path) -> str:
        """Return the message of a failed test.

        CI output may be truncated at either end, so the violations are at both ends.

        Args:
            logs: the last lines of all logs.
            history: the file with the whole history.
            all_logs: the file with all logs.
        """
        return "\n".join(
            [
                self.wrong(),
                *(f"history: {history}", f"logs: {all_logs}, which end with:", logs),
                *("faults, as they really happened:", *sorted(self.journal.lines)),
                *self._histories(),
                *(f"history: {history}", f"logs: {all_logs}", self.wrong()),
            ]
        )

    def wrong(self) -> str:
        """Return the violations, and how to repeat the run."""
        lines = [
            self.summary(),
            f"again: python -m tests.chaos --seconds 0 --run-seconds {self.seconds:g} "
            f"--seed {self.seed} -k {self.variant.name}",
            *("violations:", *(f"  {violation}" for violation in self.unexcused[:_SHOWN])),
        ]
        return "\n".join(lines)

    def _histories(self) -> list[str]:
        lines: list[str] = []
        for subject in list(dict.fromkeys(it.subject for it in self.unexcused))[:_HISTORIES_SHOWN]:
            lines += [f"history of {subject}:", *history_of(self.history, subject)]
        return lines


def history_of(history: History, subject: str) -> list[str]:
    """Return what is known of a job, a workflow or a fingerprint, in its order."""
    about: list[tuple[float, object]] = []
    for records, names in (
        (history.enqueues, lambda it: {name for job in it.jobs for name in _names(job)}),
        (history.leases, lambda it: {it.job, *(it.step or ())[:1], *(it.occurrence or ())[:1]}),
        (history.settles, lambda it: {it.job}),
        (history.commands, lambda it: {it.subject}),
        (history.seen, lambda it: {it.job}),
        (history.workflows, lambda it: {it.id, it.tag}),
    ):
        listed: Sequence[Any] = records
        about += [(it.answer.sent, it) for it in listed if subject in names(it)]
    about.sort(key=lambda pair: pair[0])
    shown = [f"  {it}" for _, it in about]
    shown += [f"  {event}" for event in by_job(history.events).get(subject, ())]
    return [*shown[-80:], f"  in the end: {history.final.states.get(subject, 'not there')}"]


def _names(job: NewJob) -> tuple[str, ...]:
    return (job.id, job.fingerprint, job.key)
