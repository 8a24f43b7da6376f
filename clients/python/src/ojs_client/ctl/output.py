"""Print what a command found: as a table, as JSON, or as names.

Data goes to stdout. A table on a terminal fits its width: long cells are shortened, then the
least important columns are left out. In a pipe and with ``wide`` nothing is shortened.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from ojs_client.ctl.text import MISLEADING, safe

Format: TypeAlias = Literal["table", "wide", "json", "jsonl", "name"]
FORMATS: Final[tuple[Format, ...]] = ("table", "wide", "json", "jsonl", "name")
Row: TypeAlias = Mapping[str, Any]

_GAP: Final = "  "
_UNLIMITED: Final = 1_000_000
"""The width of a table that is not shortened."""
_NOT_PRINTED: Final = re.compile(f"[{MISLEADING}]")
"""Characters that JSON allows and terminals obey or do not show."""
STATE_STYLES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("active", "running"), "cyan"),
    **dict.fromkeys(("completed", "delivered", "ok", "yes"), "green"),
    **dict.fromkeys(("retryable", "paused", "quiet", "stopping", "warning"), "yellow"),
    **dict.fromkeys(("discarded", "failed", "dead", "stale", "terminate", "error"), "red"),
    **dict.fromkeys(("cancelled", "stopped", "skipped"), "dim"),
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Args:
        title: its head.
        value: returns the text of a row; None is an empty cell.
        shrink: the width to which it may be shortened; 0 if it is never shortened.
        rank: columns of the highest rank are left out first; 0 if it is never left out.
        right: whether it is aligned to the right.
        wide: whether only ``-o wide`` has it.
        least: the least width.
        is_state: whether its text is a state, which has a colour.
    """

    title: str
    value: Callable[[Row], Any]
    shrink: int = 0
    rank: int = 0
    right: bool = False
    wide: bool = False
    least: int = 0
    is_state: bool = False


def member(name: str) -> Callable[[Row], Any]:
    """Return a function that returns the member ``name`` of a row; None without it."""
    return lambda row: row.get(name)


class Output:
    """Prints in one format.

    Args:
        chosen: the format.
    """

    def __init__(self, chosen: Format = "table") -> None:
        self.format = chosen
        self.console: Console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def is_table(self) -> bool:
        """Whether people read the output, not programs."""
        return self.format in ("table", "wide")

    def rows(
        self, rows: Iterable[Row], columns: Sequence[Column], *, name: str, empty: str = ""
    ) -> int:
        """Print a list.

        Args:
            rows: the entries.
            columns: the columns of a table.
            name: the member that is the name of an entry.
            empty: the message for people if there is no entry.

        Returns:
            The number of entries.
        """
        count = 0
        if self.format in ("jsonl", "name"):
            for row in rows:
                count += 1
                self.line(safe(str(row[name])) if self.format == "name" else compact(row))
            return count
        found = list(rows)
        if self.format == "json":
            self.line(pretty(found))
        elif found:
            self._table(found, columns)
        elif empty:
            note(empty)
        return len(found)

    def record(
        self,
        record: Row,
        fields: Iterable[tuple[str, Any]],
        *,
        name: str,
        parts: Sequence[Row] = (),
        columns: Sequence[Column] = (),
    ) -> None:
        """Print one object.

        Args:
            record: the object.
            fields: titles and texts for people; those with an empty text are left out.
            name: the member that is its name.
            parts: its parts, which people see as a table.
            columns: the columns of this table.
        """
        if self.format == "name":
            self.line(safe(str(record[name])))
        elif self.format == "jsonl":
            self.line(compact(record))
        elif self.format == "json":
            self.line(pretty(record))
        else:
            self.fields(fields)
            if parts:
                self.line("")
                self._table(parts, columns)

    def changed(self, record: Row, sentence: str, *, name: str) -> None:
        """Print what a command has changed.

        Args:
            record: the response of the server.
            sentence: what people read instead.
            name: the name of the changed object.
        """
        if self.format == "name":
            self.line(safe(name))
        elif self.is_table:
            self.line(safe(sentence))
        else:
            self.line(pretty(record) if self.format == "json" else compact(record))

    def fields(self, fields: Iterable[tuple[str, Any]]) -> None:
        """Print titles and texts below each other. A text may have several lines."""
        shown = [(title, str(text)) for title, text in fields if text not in (None, "")]
        width = max((len(title) for title, _ in shown), default=0) + len(_GAP)
        for title, text in shown:
            first, *others = [safe(line) for line in text.splitlines()] or [""]
            style = STATE_STYLES.get(first, "") if title in ("State", "Status") else ""
            self.print(Text.assemble((title.ljust(width), "bold"), (first, style)))
            for line in others:
                self.line(" " * width + line)

    def line(self, text: str) -> None:
        """Print a line as it is. The caller has made it safe."""
        click.echo(text)

    def print(self, text: Text) -> None:
        """Print a line with its colours, if the terminal has them."""
        self.console.print(text, no_wrap=True, overflow="ignore", crop=False)

    def _table(self, rows: Sequence[Row], columns: Sequence[Column]) -> None:
        wide = self.format == "wide"
        chosen = [column for column in columns if wide or not column.wide]
        cells = [[_cell(column, row) for column in chosen] for row in rows]
        natural = [
            max(len(column.title), column.least, *(cell_len(line[index]) for line in cells))
            for index, column in enumerate(chosen)
        ]
        widths = fit(chosen, natural, _UNLIMITED if wide else terminal_width())
        kept = [index for index, width in enumerate(widths) if width]
        head = [chosen[index].title for index in kept]
        self._table_line(head, kept, chosen, widths, head=True)
        for line in cells:
            self._table_line([line[index] for index in kept], kept, chosen, widths)

    def _table_line(
        self,
        texts: Sequence[str],
        kept: Sequence[int],
        columns: Sequence[Column],
        widths: Sequence[int],
        *,
        head: bool = False,
    ) -> None:
        line = Text()
        for position, (index, text) in enumerate(zip(kept, texts, strict=True)):
            column, width = columns[index], widths[index]
            shown = _aligned(text, width, column.right, last=position == len(kept) - 1)
            style = "bold" if head else ""
            if column.is_state and not head:
                style = STATE_STYLES.get(text, "")
            line.append(_GAP if position else "")
            line.append(shown, style)
        line.rstrip()
        self.print(line)


def fit(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """Return the widths of columns, so that a table fits; 0 for a column that is left out.

    Args:
        columns: the columns.
        natural: the width that each needs for all of its text.
        width: the width of the terminal.
    """
    widths = list(natural)
    while True:
        kept = [index for index in range(len(columns)) if widths[index]]
        excess = sum(widths[index] for index in kept) + len(_GAP) * (len(kept) - 1) - width
        if excess <= 0:
            return widths
        # Shorten the widest column, but not below the next one and not below its ``shrink``.
        able = [i for i in kept if columns[i].shrink and widths[i] > columns[i].shrink]
        if able:
            index = max(able, key=lambda i: widths[i])
            others = max((widths[i] for i in able if i != index), default=0)
            floor = max(columns[index].shrink, min(others, widths[index] - 1))
            widths[index] = max(floor, widths[index] - excess)
            continue
        left_out = max(kept, key=lambda i: columns[i].rank)
        if columns[left_out].rank == 0:
            return widths
        widths[left_out] = 0
        # The remaining columns get the freed width.
        widths = [natural[i] if widths[i] else 0 for i in range(len(columns))]


def _cell(column: Column, row: Row) -> str:
    value = column.value(row)
    return "" if value is None else safe(str(value))


def _aligned(text: str, width: int, right: bool, *, last: bool) -> str:
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1).rstrip() + "…"
    if right:
        return " " * (width - length) + text
    return text if last else text + " " * (width - length)


def terminal_width() -> int:
    """Return the width of the terminal in cells; in a pipe it is not limited.

    ``COLUMNS`` sets it.
    """
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return _UNLIMITED


def compact(value: Any) -> str:
    """Return a value as JSON in one line."""
    return _json(value, None)


def pretty(value: Any) -> str:
    """Return a value as JSON for people."""
    return _json(value, 2)


def _json(value: Any, indent: int | None) -> str:
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    # UTF-8 cannot encode a lone surrogate.
    text = _NOT_PRINTED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return text.encode("utf-8", "backslashreplace").decode()


def short_json(value: Any, length: int = 200) -> str:
    """Return the first characters of a value as JSON in one line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= length else text[: length - 1] + "…"


def note(text: str) -> None:
    """Print a message to stderr, if it is a terminal."""
    if sys.stderr.isatty():
        click.echo(safe(text, keep_lines=True), err=True)
