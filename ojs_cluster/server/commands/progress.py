"""Show on a terminal how far a long command is: a bar, a count, a rate and the time left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol, Self

_INTERVAL_S = 0.1
_BAR_CELLS = 20
_DEFAULT_COLUMNS = 80
_CLEAR_LINE = "\r\x1b[K"


class _Terminal(Protocol):
    """The part of a text file that ``Progress`` uses."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def isatty(self) -> bool:
        """Return whether the file is a terminal."""

    def write(self, text: str, /) -> object:
        """Write a text."""

    def flush(self) -> None:
        """Send what was written."""


class Progress:
    """One line of a terminal that is replaced while a command runs.

    The line is removed at the end of the ``with`` block. Nothing is written if ``file`` is no
    terminal, or one that cannot replace a line (``TERM=dumb``).

    Args:
        label: what the command does.
        unit: what ``update`` counts, in the plural.
        file: where the line goes, usually standard error.
        clock: returns the time in seconds.
    """

    def __init__(
        self, label: str, unit: str, file: _Terminal, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label, self._unit = label, unit
        self._file, self._clock = file, clock
        self.shown = file.isatty() and os.environ.get("TERM") != "dumb"
        self._started = clock()
        self._next = self._started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def update(self, count: int, fraction: float | None) -> None:
        """Show the progress, at most ten times per second.

        Args:
            count: how much was done so far.
            fraction: how much of all work that is, from 0 to 1; None if it is unknown.
        """
        if not self.shown or (now := self._clock()) < self._next:
            return
        self._next = now + _INTERVAL_S
        text = self._text(count, fraction, max(now - self._started, _INTERVAL_S))
        self._file.write(f"{_CLEAR_LINE}{text[: self._columns() - 1]}")
        self._file.flush()

    def clear(self) -> None:
        """Remove the line, so that another text can be written in its place."""
        if self.shown:
            self._file.write(_CLEAR_LINE)
            self._file.flush()

    def _text(self, count: int, fraction: float | None, elapsed_s: float) -> str:
        counted = f"{count} {self._unit}, {count / elapsed_s:.0f}/s"
        # An estimate of all work may be too small.
        if fraction is None or fraction > 1:
            return f"{self._label}  {counted}, {_duration(elapsed_s)} so far"
        done = round(fraction * _BAR_CELLS)
        bar = "#" * done + "-" * (_BAR_CELLS - done)
        left = f", {_duration(elapsed_s / fraction - elapsed_s)} left" if fraction else ""
        return f"{self._label}  [{bar}] {int(fraction * 100):3d} %  {counted}{left}"

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._file.fileno()).columns or _DEFAULT_COLUMNS
        except OSError:
            return _DEFAULT_COLUMNS


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
