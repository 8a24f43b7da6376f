"""The tables and charts of a comparison."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from loadtest.bench._chart import draw_bars
from loadtest.bench._table import table_of
from loadtest.peers.catalogue import FLOWS, OPTIONS, Peer
from loadtest.peers.measuring import CONCURRENCIES, SHARE, USUAL, Comparison, Row
from loadtest.peers.programs.base import BATCH, SIZE
from loadtest.peers.running import GROUPS
from ojs_cluster.server.embedded.servers import ServerBinary

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"


def sections(
    found: Comparison, absent: Mapping[str, str], binary: ServerBinary
) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of each section."""
    yield "", _setting(found, absent, binary)
    for tasks in CONCURRENCIES:
        if rows := found.rows.get(f"single, {tasks}"):
            yield f"Enqueued one by one, {tasks} at a time", _throughput(rows)
    if rows := found.rows.get("batch"):
        yield f"{BATCH} jobs with a request, {USUAL} handlers", _throughput(rows)
    if rows := found.rows.get("aof"):
        yield f"With AOF (everysec), {USUAL} at a time", _throughput(rows)
    if "latency, rate" in found.values:
        yield f"Latency at {SHARE:.0%} of each one's full load", _latency(found)
    if "memory" in found.values:
        yield (
            f"Bytes of Redis per waiting job with {SIZE} bytes of args",
            _single(found.values["memory"], "bytes"),
        )
    if "import" in found.values:
        yield "Processor time of importing the client", _single(found.values["import"], "ms")
    if any(name.startswith("option") for name in found.rows):
        yield "Options", _options(found)
    if any(name.startswith(FLOWS) for name in found.rows):
        yield "Workflows", _flows(found)
    if found.failures:
        yield "Failed", "\n".join(f"* {failure}" for failure in found.failures)


def write(path: Path, text: str) -> None:
    """Replace what a page has between the two comments."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{path} has no lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def draw(found: Comparison, folder: Path) -> None:
    """Draw the charts into a folder."""
    usual = found.rows.get(f"single, {USUAL}", {})
    alone = found.rows.get("single, 1", {})
    if rows := {**alone, **usual}:
        draw_bars(
            folder / "peers-cpu.svg",
            f"Processor time per job in µs, enqueued one by one, {USUAL} at a time",
            {
                title: {group: statistics.median(row.us([group])) for group in GROUPS}
                for title, row in rows.items()
            },
            stacked=True,
        )
    if "memory" in found.values:
        bytes_of = found.values["memory"]
        draw_bars(
            folder / "peers-memory.svg",
            f"Bytes of Redis per waiting job with {SIZE} bytes of args",
            {title: {"bytes": statistics.median(each)} for title, each in bytes_of.items()},
        )
    if "latency, p50" in found.values:
        p50, p99 = found.values["latency, p50"], found.values["latency, p99"]
        draw_bars(
            folder / "peers-latency.svg",
            f"Latency in ms at {SHARE:.0%} of each one's full load",
            {
                title: {"p50": statistics.median(p50[title]), "p99": statistics.median(p99[title])}
                for title in p50
            },
        )


def _setting(found: Comparison, absent: Mapping[str, str], binary: ServerBinary) -> str:
    versions = ", ".join(
        f"{peer.title} {peer.version()}" for peer in found.peers if not peer.is_ours
    )
    settings = found.settings
    lines = [
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {binary.kind} {binary.version}, "
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, {settings.jobs} jobs per "
        f"measurement, rounds: {settings.rounds} (medians). {versions}.",
        *(f"Not obtainable: {name} ({reason})." for name, reason in absent.items()),
    ]
    if os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
        lines.append("The machine was busy: only processor times, their ratios and bytes count.")
    return "\n".join(lines)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _to_ours(values: Sequence[float], ours: Sequence[float] | None) -> str:
    """Return the median of the ratios of the rounds."""
    if not ours:
        return ""
    return f"{statistics.median(a / b for a, b in zip(values, ours, strict=False)):.2f}"


def _throughput(rows: Mapping[str, Row]) -> str:
    base = rows.get("ojs-cluster")
    lines = []
    for title, row in rows.items():
        cells = [title]
        for part in (0, 1):
            rates = row.rates(part)
            cells += [f"{_median(rates):.0f}", _to_ours(rates, base.rates(part) if base else None)]
        cells += [f"{_median(row.us([group])):.0f}" for group in GROUPS]
        cells += [f"{_median(row.us()):.0f}", _to_ours(row.us(), base.us() if base else None)]
        lines.append(cells)
    heads = ["", "enqueued/s", "/ ours", "run/s", "/ ours", *(f"{group}, µs" for group in GROUPS)]
    return table_of([*heads, "sum", "/ ours"], lines)


def _latency(found: Comparison) -> str:
    rates, *columns = (found.values[f"latency, {name}"] for name in ("rate", "p50", "p99"))
    ours = [column.get("ojs-cluster") for column in columns]
    rows = [
        [
            title,
            f"{_median(rates[title]):.0f}",
            *(
                cell
                for column, base in zip(columns, ours, strict=True)
                for cell in (f"{_median(column[title]):.2f}", _to_ours(column[title], base))
            ),
        ]
        for title in columns[0]
    ]
    return table_of(["", "jobs/s", "p50, ms", "/ ours", "p99, ms", "/ ours"], rows)


def _single(values: Mapping[str, Sequence[float]], unit: str) -> str:
    ours = values.get("ojs-cluster")
    rows = [[title, f"{_median(each):.0f}", _to_ours(each, ours)] for title, each in values.items()]
    return table_of(["", unit, "/ ours"], rows)


def _options(found: Comparison) -> str:
    """Return a column for each option: µs per job, and how many of its own plain jobs that is."""
    plain = found.rows["option, single"]

    def cell(peer: Peer, option: str) -> str:
        row = found.rows.get(f"option, {option}", {}).get(peer.title)
        if row is None:
            return ""
        return f"{_median(row.us()):.0f} ({_to_ours(row.us(), plain[peer.title].us())})"

    rows = [
        [
            peer.title,
            f"{_median(plain[peer.title].us()):.0f}",
            *(cell(peer, option) for option in OPTIONS),
        ]
        for peer in found.peers
        if peer.title in plain and peer.options
    ]
    return table_of(["µs of all", "none", *OPTIONS], rows)


def _flows(found: Comparison) -> str:
    """Return a column for each library: µs per job, and the time of the whole in ms."""
    loads = [name for name in found.rows if name.startswith(FLOWS)]
    titles = [
        peer.title for peer in found.peers if any(peer.title in found.rows[name] for name in loads)
    ]

    def cell(row: Row | None) -> str:
        if row is None:
            return ""
        ms = _median([readings[0].seconds * 1000 for readings in row.rounds])
        return f"{_median(row.us()):.0f} ({ms:.0f})"

    rows = [[name, *(cell(found.rows[name].get(title)) for title in titles)] for name in loads]
    return table_of(["µs per job (ms in all)", *titles], rows)
