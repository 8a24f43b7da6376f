"""Latency at 30, 60 and 90 % of the full rate of the server, in an open loop.

    python -m loadtest.bench.latency [--seconds 5] [--rounds 3] [--quick]
                                     [--chart docs/latency.svg] [--peer http://host:port]

One API process runs over one standalone server. First the full rate is measured: 32 connections
that send as soon as they get a response. Then requests are sent at fixed times on up to 256
connections, after one job on each. Each request is timed from its scheduled time. So a stall counts
for every request that waits for its end, which a closed loop would not see (coordinated omission).
The load is enqueue, fetch and ack in equal parts. Rates are in requests per second; the full rate
is measured again before each round.

``--peer``, or the variable ``PEER``, is the URL of any other OJS server. It is measured in the same
rounds, at the shares of its own full rate. The last rows divide our figures by those of the peer.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtest.bench._chart import draw_bars
from loadtest.bench._table import print_setting, print_table
from loadtest.bench._target import Target, peer_of, start
from ojs_cluster.server.embedded.servers import find_server

SHARES = (0.3, 0.6, 0.9)
NAMES = ("p50_ms", "p99_ms", "p999_ms")


def one_round(target: Target, seconds: float) -> dict[float, list[float]]:
    """Return per share of the full rate: the scheduled rate and three percentiles."""
    full = target.load(min(seconds, 2.0), 32)
    rate = full["requests"] / full["seconds"]
    found = {}
    for share in SHARES:
        told = target.load(seconds, 256, rate * share)
        found[share] = [rate * share, *(told[name] for name in NAMES)]
    return found


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="three rounds of two seconds")
    parser.add_argument("--chart", type=Path, help="an SVG file to draw into")
    parser.add_argument("--peer", default=os.environ.get("PEER"))
    options = parser.parse_args()
    if options.quick:
        options.seconds = 2.0
    binary = find_server(options.server)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        targets = [start(stack, Path(folder), binary, "standalone")]
        if options.peer:
            targets.append(peer_of(options.peer))
        for target in targets:
            target.load(min(options.seconds, 1.0), 32)  # warms up
        rounds = [
            [one_round(target, options.seconds) for target in targets]
            for _ in range(options.rounds)
        ]
    print_setting(binary, f"medians of {options.rounds} rounds of {options.seconds:g} s")
    ours, *others = zip(*rounds, strict=True)
    rows = _rows("", ours)
    if options.chart:
        bars = {
            row[0]: dict(zip(("p50", "p99", "p99.9"), map(float, row[2:]), strict=True))
            for row in rows
        }
        draw_bars(options.chart, "Latency in ms, by share of the full rate", bars)
    for peer in others:
        theirs = _rows("peer, ", peer)
        ratios = [
            [f"ratio, {one[0]}", *(f"{float(a) / float(b):.2f}" for a, b in _numbers(one, other))]
            for one, other in zip(rows, theirs, strict=True)
        ]
        rows += theirs + ratios
    print_table(["of the full rate", "requests/s", "p50 ms", "p99 ms", "p99.9 ms"], rows)


def _rows(prefix: str, rounds: Sequence[dict[float, list[float]]]) -> list[list[str]]:
    """Return a row of medians for each share of the full rate."""
    rows = []
    for share in SHARES:
        columns = zip(*(found[share] for found in rounds), strict=True)
        rate, *times = (statistics.median(values) for values in columns)
        rows.append([f"{prefix}{share:.0%}", f"{rate:.0f}", *(f"{ms:.2f}" for ms in times)])
    return rows


def _numbers(one: Sequence[str], other: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(one[1:], other[1:], strict=True)


if __name__ == "__main__":
    main()
