"""Print tables that are readable in a terminal and valid in Markdown."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence

from ojs_cluster.server.embedded.servers import ServerBinary


def print_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    print(table_of(heads, rows), flush=True)


def table_of(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; the first column left-aligned, all others right-aligned."""
    lines = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    texts = []
    for line in (lines[0], rule, *lines[1:]):
        cells = [line[0].ljust(widths[0])]
        cells += (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        texts.append(f"| {' | '.join(cells)} |")
    return "\n".join(texts)


def print_setting(binary: ServerBinary, how: str) -> None:
    """Print the machine and the date of the table below."""
    print(
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {binary.kind} {binary.version}, "
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; {how}\n"
    )


def ratio(values: Sequence[float], base: Sequence[float]) -> str:
    """Return the ratio of the medians of two lists."""
    return f"{statistics.median(values) / statistics.median(base):.2f}"


def quantile(values: Sequence[float], q: float) -> float:
    """Return the smallest value that at least the share ``q`` of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
