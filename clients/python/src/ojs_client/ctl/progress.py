"""A progress bar on stderr, if it is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bar:
    """Shows how far a command is. Without a terminal it shows nothing.

    Args:
        what: names the work.
        total: how much there is to do; None if it is not known.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self._progress: Progress | None = None
        self._task: TaskID
        if not sys.stderr.isatty():
            return
        from rich.console import Console  # most commands show no bar
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(what, total=total)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, count: int = 1) -> None:
        """Add to what is done."""
        if self._progress is not None:
            self._progress.advance(self._task, count)

    def set(self, done: int) -> None:
        """Set what is done."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done)
