"""Draw what ``ojsctl top`` shows: meters of the states, and a table of the queues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from ojs_client.ctl.text import milliseconds, rate, safe, short_span

SORTS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "available": lambda queue: (-queue["counts"].get("available", 0), queue["name"]),
    "active": lambda queue: (-queue["counts"].get("active", 0), queue["name"]),
    "rate": lambda queue: (-queue.get("now_per_s", 0), queue["name"]),
    "dead": lambda queue: (-queue["dead_letters"], queue["name"]),
    "wait": lambda queue: (-queue["avg_wait_ms"], queue["name"]),
    "name": lambda queue: queue["name"],
}
"""How queues are sorted, by the names of the columns."""
KEYS: Final[Mapping[str, str]] = {
    "a": "available",
    "c": "active",
    "r": "rate",
    "d": "dead",
    "w": "wait",
    "n": "name",
}
"""The columns by the keys that choose them."""
_METERS: Final = (
    ("available", "green"),
    ("active", "cyan"),
    ("scheduled", "blue"),
    ("retryable", "yellow"),
    ("pending", "magenta"),
)
_BAR: Final = 24
"""Width of a meter at 80 columns; wider terminals have wider meters."""
_WIDEST_BAR: Final = 60
_COLUMNS: Final = (
    ("AVAILABLE", "available"),
    ("ACTIVE", "active"),
    ("SCHEDULED", "scheduled"),
    ("RETRYABLE", "retryable"),
)

_TIMES: Final = "      WAIT       RUN"


@dataclass(frozen=True, slots=True)
class Picture:
    """The state of a server at one time.

    Args:
        url: the address of the server.
        stats: the numbers of all queues.
        workers: the number of workers by state.
        queues: the queues, with ``now_per_s`` since the last update.
        error: why the server did not answer; empty if it did.
    """

    url: str
    stats: Mapping[str, Any]
    workers: Mapping[str, int]
    queues: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    error: str = ""


def frame(picture: Picture, *, width: int, height: int | None, sort: str, clock: str) -> list[Text]:
    """Return the lines of a screen.

    Args:
        picture: what it shows.
        width: the columns of the terminal.
        height: its lines; None for all queues.
        sort: the column that sorts the queues.
        clock: the time of the picture.
    """
    lines = [_title(picture, width, clock), *_meters(picture, width), Text()]
    queues = sorted(picture.queues, key=SORTS[sort])
    if height is not None:
        space = max(1, height - len(lines) - 2)  # the head of the table, and the keys
        if len(queues) > space:
            queues = queues[: space - 1]  # the last line names the number of the others
    lines.append(_head(width, sort))
    lines += [_queue(queue, width) for queue in queues]
    left_out = len(picture.queues) - len(queues)
    if left_out:
        lines.append(Text(f"and {left_out} more queues", "dim"))
    return lines


def keys_line(width: int, sort: str, paused: bool) -> Text:
    """Return the line that explains the keys."""
    line = Text()
    for key, name in (*KEYS.items(), (" ", "pause"), ("q", "quit")):
        shown = "space" if key == " " else key
        line.append(f" {shown} ", "reverse")
        chosen = name == sort or (name == "pause" and paused)
        line.append(f"{name} ", "bold" if chosen else "")
    line.truncate(width)
    return line


def _title(picture: Picture, width: int, clock: str) -> Text:
    uptime = picture.stats.get("uptime_seconds", 0)
    left, right = safe(f"ojsctl top  {picture.url}"), f"up {short_span(uptime)}  {clock}"
    space = width - len(right) - 1
    line = Text(set_cell_size(left, space) if space > 0 else left, "bold")
    return line.append(" " + right)


def _meters(picture: Picture, width: int) -> list[Text]:
    """Draw the meters of the states, and the totals beside them."""
    jobs = picture.stats.get("jobs", {})
    total = sum(jobs.get(state, 0) for state, _ in _METERS)
    bar = min(_WIDEST_BAR, _BAR + max(0, width - 80) // 2)
    beside = _totals(picture)
    lines = []
    for (state, style), text in zip(_METERS, beside, strict=True):
        count = jobs.get(state, 0)
        lines.append(_meter(state, count, total, bar, style).append("  ").append_text(text))
        lines[-1].truncate(width)
    return lines


def _meter(name: str, count: int, total: int, bar: int, style: str) -> Text:
    number = str(count)
    space = max(1, bar - len(number))
    filled = -(-count * space // total) if total else 0  # rounded up, so that one job is visible
    line = Text(f"  {name.capitalize():<9} [", "")
    line.append("|" * filled, style)
    line.append(" " * (space - filled))
    return line.append(number, "bold").append("]")


def _totals(picture: Picture) -> list[Text]:
    stats = picture.stats
    paused = sum(queue["paused"] for queue in picture.queues)
    workers = ", ".join(
        f"{count} {state}" for state, count in picture.workers.items() if count and state != "total"
    )
    now = sum(queue.get("now_per_s", 0) for queue in picture.queues)
    throughput = stats.get("throughput", {})
    per_minute = throughput.get("completed_per_minute", throughput.get("processed_per_minute", 0))
    maintenance = stats.get("maintenance") or {}
    last = Text("")
    if picture.error:
        last = Text(safe(picture.error), "bold red")
    elif maintenance.get("enabled"):
        last = Text(f"maintenance: refuses {', '.join(maintenance.get('refused', ()))}", "yellow")
    return [
        Text(f"Queues   {stats.get('queues', 0)}" + (f", {paused} paused" if paused else "")),
        Text(
            f"Workers  {picture.workers.get('total', 'unknown')}"
            + (f": {workers}" if workers else "")
        ),
        Text(f"Done     {now:.1f}/s now, {rate(per_minute)}/min on average"),
        Text(f"Dead     {stats.get('dead_letters', 0)}"),
        last,
    ]


def _widths(width: int) -> tuple[int, bool]:
    """Return the width of the names, and whether the columns WAIT and RUN fit."""
    fixed = sum(len(title) + 2 for title, _ in _COLUMNS) + len("    DEAD    NOW/S")
    wide = width >= 110
    return max(10, min(60, width - fixed - (len(_TIMES) if wide else 0))), wide


def _head(width: int, sort: str) -> Text:
    name, wide = _widths(width)
    titles = [("NAME".ljust(name), "name")]
    titles += [(f"  {title}", state) for title, state in _COLUMNS]
    titles += [("    DEAD", "dead"), ("    NOW/S", "rate")]
    titles += [(_TIMES[:10], "wait"), (_TIMES[10:], "")] if wide else []
    line = Text(style="reverse")
    for title, column in titles:
        line.append(title, "bold underline" if column == sort else "")
    line.truncate(width)
    return line


def _queue(queue: Mapping[str, Any], width: int) -> Text:
    name_width, wide = _widths(width)
    name = safe(queue["name"])
    if cell_len(name) > name_width:
        name = set_cell_size(name, name_width - 1) + "…"
    line = Text(set_cell_size(name, name_width), "yellow" if queue["paused"] else "")
    for title, state in _COLUMNS:
        count = queue["counts"].get(state, 0)
        line.append(f"  {count:>{len(title)}}", "" if count else "dim")
    dead = queue["dead_letters"]
    line.append(f"  {dead:>6}", "red" if dead else "dim")
    rate = queue.get("now_per_s", 0)
    line.append(f"  {rate:>7.1f}", "green" if rate else "dim")
    if wide:
        line.append(f"  {milliseconds(queue['avg_wait_ms']):>8}")
        line.append(f"  {milliseconds(queue['avg_duration_ms']):>8}")
    line.truncate(width)
    return line
