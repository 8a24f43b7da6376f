"""What the workers of a round wrote down, as a history for the checker of ``tests.chaos``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tests.chaos.history import Answer, History, Lease, Outcome, Settle
from tests.kill.library.worker import LEASE_S

REPEATED_FOR_S: Final = 3 * LEASE_S
"""How long a worker repeats an ack or nack after its first failure, in seconds."""
_FINISHES: Final = ("end", "failed", "cancelled")
_OUTCOMES: Final[dict[str, Outcome]] = {
    "done": "done",
    "refused": "refused",
    "refused_for_now": "refused",
    "unconfirmed": "unconfirmed",
    "unknown": "unknown",
}


@dataclass(slots=True)
class Grant:
    """A lease that a fetch has returned. Times are seconds of the monotonic clock."""

    job: str
    lease: str
    worker: str
    attempt: int
    sent: float
    answered: float
    until: float
    queue: str
    priority: int
    step: tuple[str, str] | None


@dataclass(slots=True)
class Run:
    """One call of a handler. ``finish`` is empty while it runs, or if its worker was killed."""

    job: str
    lease: str
    worker: str
    type: str
    began: float
    finish: Literal["", "end", "failed", "cancelled"] = ""


@dataclass(slots=True)
class Sent:
    """An ack or nack in one request. ``outcome`` is empty without a response."""

    kind: Literal["ack", "nack", "requeue", "release"]
    job: str
    lease: str
    sent: float
    answered: float = math.inf
    outcome: str = ""


@dataclass(slots=True)
class Ledger:
    """The files of all workers of a round, read so far."""

    grants: dict[str, Grant] = field(default_factory=dict)
    """By lease."""
    fetched: set[str] = field(default_factory=set)
    """The jobs that were fetched at least once."""
    runs: list[Run] = field(default_factory=list)
    sends: list[Sent] = field(default_factory=list)
    _files: dict[str, tuple[Path, int]] = field(default_factory=dict)
    """Path and number of bytes read, by worker."""

    def follow(self, worker: str, path: Path) -> None:
        """Read the file of a worker from now on."""
        self._files[worker] = (path, 0)

    def read(self) -> None:
        """Read what was added to the files. A killed worker may leave half a line."""
        for worker, (path, offset) in self._files.items():
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(offset)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._files[worker] = (path, offset + len(whole) + len(newline))
            for line in whole.splitlines():
                self._take(worker, json.loads(line))

    def _take(self, worker: str, line: dict[str, Any]) -> None:
        what, at = line["what"], line["at"]
        if what == "fetched":
            self.grants[line["lease"]] = _grant(worker, line)
            self.fetched.add(line["job"])
        elif what == "extended":
            for lease in line["leases"]:
                grant = self.grants[lease]
                grant.until = max(grant.until, line["until"])
        elif what == "sends":
            self.sends += [Sent(kind, job, lease, at) for kind, job, lease in line["settles"]]
        elif what == "settled":
            for kind, job, lease, outcome in line["settles"]:
                # An item is in one request at a time, so the last one without a response is meant.
                it = next(it for it in reversed(self.sends) if it.lease == lease)
                assert (it.kind, it.job, it.outcome) == (kind, job, "")
                it.answered, it.outcome = at, outcome
        elif what == "start":
            self.runs.append(Run(line["job"], line["lease"], worker, line["type"], at))
        elif what in _FINISHES:
            run = next(it for it in reversed(self.runs) if it.lease == line["lease"])
            run.finish = what

    def held(self, worker: str = "") -> list[Run]:
        """Return the runs of ``kill.holds`` that have not finished, of all workers or of one."""
        return [
            run
            for run in self.runs
            if run.type == "kill.holds" and not run.finish and worker in ("", run.worker)
        ]

    def history(self, history: History) -> None:
        """Add all leases, acks and nacks to the history of a round."""
        for it in self.grants.values():
            answer = Answer(it.sent, it.answered, "done", 200)
            where = (it.queue, it.priority, "", it.step)
            length = it.until - it.sent
            history.leases.append(
                Lease(it.job, it.lease, it.worker, it.attempt, length, answer, *where)
            )
        for sent in self.sends:
            grant = self.grants[sent.lease]
            answer = Answer(sent.sent, sent.answered, _OUTCOMES.get(sent.outcome, "unknown"))
            history.settles.append(
                Settle(sent.kind, sent.job, sent.lease, grant.worker, grant.attempt, answer)
            )

    # -- rules about the library itself -------------------------------------------------------

    def unfinished_runs(self, ended: Iterable[str]) -> Iterator[str]:
        """A worker that was not killed finishes all of its handlers before it ends."""
        workers = set(ended)
        for run in self.runs:
            if run.worker in workers and not run.finish:
                yield f"{run.worker} ended during its handler of {run.job}"

    def half_settled(self, worker: str, drained_at: float) -> Iterator[str]:
        """A worker that has drained leaves no lease: the server has its ack or nack.

        The worker repeats an ack for some lease lengths, and then leaves it to the next holder. So
        an ack that was due that long before the drain may have been given up.
        """
        told = {it.lease for it in self.sends if it.outcome in ("done", "refused")}
        # The server said in a heartbeat that the lease was lost, so there is nothing to settle.
        told |= {run.lease for run in self.runs if run.finish == "cancelled" and self._taken(run)}
        told |= {it.lease for it in self.sends if it.sent + REPEATED_FOR_S <= drained_at}
        for grant in self.grants.values():
            if grant.worker == worker and grant.lease not in told:
                yield f"{worker} left the lease {grant.lease} of {grant.job}"

    def _taken(self, run: Run) -> bool:
        """Return whether a later attempt than that of a run was given out."""
        attempt = self.grants[run.lease].attempt
        return any(it.job == run.job and it.attempt > attempt for it in self.grants.values())

    def uncancelled(self) -> Iterator[str]:
        """A handler whose lease is lost is cancelled, and each attempt that it loses counts.

        The jobs of ``kill.holds`` end only after all faults, so exactly one run of each ends.
        """
        ends: dict[str, int] = {}
        for run in self.runs:
            if run.type == "kill.holds":
                ends[run.job] = ends.get(run.job, 0) + (run.finish == "end")
        for job, count in ends.items():
            if count != 1:
                yield f"{count} handlers of {job} ran to their end"

    def cancelled(self) -> Sequence[Run]:
        """Return the runs that were cancelled."""
        return [run for run in self.runs if run.finish == "cancelled"]


def _grant(worker: str, line: dict[str, Any]) -> Grant:
    step = None
    if line["type"] == "kill.step":
        tag, name, _ = line["args"]
        step = (tag, name)
    return Grant(
        job=line["job"],
        lease=line["lease"],
        worker=worker,
        attempt=line["attempt"],
        sent=line["sent"],
        answered=line["at"],
        until=line["until"],
        queue=line["queue"],
        priority=line["priority"] or 0,
        step=step,
    )
