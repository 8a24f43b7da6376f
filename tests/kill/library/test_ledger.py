"""The ledger finds each broken promise of a worker in what it wrote down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import Rule, one_completion, one_holder
from tests.chaos.history import History
from tests.kill.library.ledger import REPEATED_FOR_S, Ledger


class Files:
    """Writes the files of workers."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger()
        self._folder = folder
        self._now = 0.0

    def write(self, worker: str, what: str, **members: Any) -> None:
        """Add a line; each line is a second after the one before."""
        self._now += 1
        path = self._folder / worker
        if not path.exists():
            self.ledger.follow(worker, path)
        with path.open("a") as file:
            file.write(json.dumps({"what": what, "at": self._now, **members}) + "\n")

    def fetched(self, worker: str, attempt: int, lease_s: float = 2) -> None:
        """Let a worker fetch the job and start its handler."""
        job = {"job": "j", "attempt": attempt, "args": [], "queue": "q", "priority": 0}
        run = {"job": "j", "lease": f"l{attempt}", "type": "kill.holds"}
        times = {"sent": self._now, "until": self._now + lease_s}
        self.write(worker, "fetched", **job, **times, lease=run["lease"], type=run["type"])
        self.write(worker, "start", **run)

    def ended(self, worker: str, attempt: int, how: str = "end") -> None:
        """Let a handler finish."""
        self.write(worker, how, job="j", lease=f"l{attempt}")

    def acked(self, worker: str, attempt: int, outcome: str = "done") -> None:
        """Let a worker send an ack, and receive its result."""
        item = ["ack", "j", f"l{attempt}"]
        self.write(worker, "sends", settles=[item])
        self.write(worker, "settled", settles=[[*item, outcome]])

    def history(self) -> History:
        self.ledger.read()
        history = History()
        self.ledger.history(history)
        return history


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def broken(rule: Rule, history: History) -> list[str]:
    """Return what breaks a rule."""
    return [finding.subject for finding in rule(history) if finding.text]


def test_a_job_that_moves_to_another_worker_after_its_lease_is_in_order(files: Files) -> None:
    files.fetched("a", 1)
    files.fetched("b", 2)
    files.ended("a", 1, "cancelled")
    files.ended("b", 2)
    files.acked("b", 2)
    history = files.history()
    assert [*broken(one_holder, history), *broken(one_completion, history)] == []
    assert [*files.ledger.uncancelled(), *files.ledger.unfinished_runs("ab")] == []
    assert [*files.ledger.half_settled("a", 9), *files.ledger.half_settled("b", 9)] == []


def test_two_holders_and_two_completions_are_found(files: Files) -> None:
    for attempt, worker in enumerate("ab", 1):
        files.fetched(worker, attempt, lease_s=60)
        files.ended(worker, attempt)
    for attempt, worker in enumerate("ab", 1):
        files.acked(worker, attempt)
    history = files.history()
    assert broken(one_holder, history) == ["j"]
    assert broken(one_completion, history) == ["j"]
    assert list(files.ledger.uncancelled()) == ["2 handlers of j ran to their end"]


def test_an_extended_lease_has_one_holder_for_longer(files: Files) -> None:
    files.fetched("a", 1)
    files.write("a", "extended", leases=["l1"], until=60)
    files.fetched("b", 2)
    assert broken(one_holder, files.history()) == ["j"]


@pytest.mark.parametrize(("outcome", "left"), [("done", 0), ("refused", 0), ("unknown", 1)])
def test_a_lease_whose_ack_has_no_outcome_is_left(files: Files, outcome: str, left: int) -> None:
    files.fetched("a", 1)
    files.ended("a", 1)
    files.acked("a", 1, outcome)
    files.ledger.read()
    assert len(list(files.ledger.half_settled("a", 9))) == left


def test_an_ack_that_was_repeated_for_long_may_be_given_up_before_the_drain(files: Files) -> None:
    files.fetched("a", 1)
    files.ended("a", 1)
    files.acked("a", 1, "unknown")
    files.ledger.read()
    first = files.ledger.sends[0].sent
    assert len(list(files.ledger.half_settled("a", first + REPEATED_FOR_S - 0.1))) == 1
    assert list(files.ledger.half_settled("a", first + REPEATED_FOR_S)) == []


def test_a_cancelled_handler_whose_job_nobody_got_leaves_its_lease(files: Files) -> None:
    files.fetched("a", 1)
    files.ended("a", 1, "cancelled")
    files.ledger.read()
    assert len(list(files.ledger.half_settled("a", 9))) == 1


def test_a_handler_that_never_finishes_is_found_and_half_a_line_is_not_read(
    files: Files, tmp_path: Path
) -> None:
    files.fetched("a", 1)
    with (tmp_path / "a").open("a") as file:
        file.write('{"what": "end", "at": 9, "job": "j", "le')
    files.ledger.read()
    assert len(list(files.ledger.unfinished_runs("a"))) == 1
    assert [run.job for run in files.ledger.held()] == ["j"]
    with (tmp_path / "a").open("a") as file:
        file.write('ase": "l1"}\n')
    files.ledger.read()
    assert list(files.ledger.unfinished_runs("a")) == []
