"""Latency at 30, 60 and 90 % of the full rate of the server, in an open loop.

    python -m loadtest.bench.latency [--seconds 5] [--rounds 3] [--quick]
                                     [--chart docs/latency.svg]

One API process runs over one standalone server. First the full rate is measured: 32 connections
that send as soon as they get a response. Then requests are sent at fixed times on up to 256
connections. Each request is timed from its scheduled time. So a stall counts for every request that
waits for its end, which a closed loop would not see (coordinated omission). The load is enqueue,
fetch and ack in equal parts. Rates are in requests per second; the full rate is measured again
before each round.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from pathlib import Path

from loadtest.bench._chart import draw_bars
from loadtest.bench._table import print_setting, print_table
from loadtest.bench._target import Target, start
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
    options = parser.parse_args()
    if options.quick:
        options.seconds = 2.0
    binary = find_server(options.server)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        target = start(stack, Path(folder), binary, "standalone")
        target.load(min(options.seconds, 1.0), 32)  # warms up
        rounds = [one_round(target, options.seconds) for _ in range(options.rounds)]
    print_setting(binary, f"medians of {options.rounds} rounds of {options.seconds:g} s")
    rows, bars = [], {}
    for share in SHARES:
        rate, *times = (statistics.median(v) for v in zip(*(r[share] for r in rounds), strict=True))
        rows.append([f"{share:.0%}", f"{rate:.0f}", *(f"{ms:.2f}" for ms in times)])
        bars[f"{share:.0%}"] = dict(zip(("p50", "p99", "p99.9"), times, strict=True))
    if options.chart:
        draw_bars(options.chart, "Latency in ms, by share of the full rate", bars)
    print_table(["of the full rate", "requests/s", "p50 ms", "p99 ms", "p99.9 ms"], rows)


if __name__ == "__main__":
    main()
