"""The line that shows on a terminal how far an export or an import is."""

from __future__ import annotations

import os
import pty
import re
from collections.abc import Iterator

import pytest

from ojs_cluster.server.commands.progress import Progress


class Terminal:
    """A terminal of 80 columns that keeps what was written to it."""

    def __init__(self, fd: int, *, tty: bool = True) -> None:
        self.fd, self.tty = fd, tty
        self.text = ""

    def fileno(self) -> int:
        return self.fd

    def isatty(self) -> bool:
        return self.tty

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def lines(self) -> list[str]:
        """What each write to the line has shown."""
        return self.text.split("\r\x1b[K")[1:]


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    yield Terminal(slave)
    os.close(slave)
    os.close(master)


def test_the_line_has_a_bar_a_count_a_rate_and_the_time_left(terminal: Terminal) -> None:
    clock = Clock()
    with Progress("exporting", "jobs", terminal, clock=clock) as progress:
        clock.now += 10
        progress.update(2500, 0.25)
        clock.now += 3660
        progress.update(5000, 0.5)
    assert terminal.lines() == [
        "exporting  [#####---------------]  25 %  2500 jobs, 250/s, 0:00:30 left",
        "exporting  [##########----------]  50 %  5000 jobs, 1/s, 1:01:10 left",
        "",
    ]


@pytest.mark.parametrize("fraction", [None, 1.2])
def test_without_a_known_end_the_line_has_no_bar(
    terminal: Terminal, fraction: float | None
) -> None:
    clock = Clock()
    progress = Progress("importing", "lines", terminal, clock=clock)
    clock.now += 20
    progress.update(100, fraction)
    assert terminal.lines() == ["importing  100 lines, 5/s, 0:00:20 so far"]


def test_the_first_update_needs_no_time(terminal: Terminal) -> None:
    Progress("importing", "lines", terminal, clock=Clock()).update(0, 0.0)
    assert terminal.lines() == ["importing  [--------------------]   0 %  0 lines, 0/s"]


def test_the_line_is_replaced_ten_times_per_second_at_most(terminal: Terminal) -> None:
    clock = Clock()
    progress = Progress("exporting", "jobs", terminal, clock=clock)
    for number in range(1001):
        progress.update(number, None)
        clock.now += 0.001
    assert len(terminal.lines()) in (10, 11)


def test_the_line_fits_the_terminal(terminal: Terminal) -> None:
    clock = Clock()
    progress = Progress("exporting " * 9, "jobs", terminal, clock=clock)
    progress.update(10**9, 0.5)
    (line,) = terminal.lines()
    assert len(line) == 79
    assert re.fullmatch(r"(exporting )+exporting?", line)


@pytest.mark.parametrize(("term", "tty"), [("xterm", False), ("dumb", True)])
def test_nothing_is_written_to_what_cannot_replace_a_line(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, term: str, tty: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    terminal.tty = tty
    with Progress("exporting", "jobs", terminal) as progress:
        progress.update(1, 0.5)
    assert terminal.text == ""
