"""The cost of a request on clusters of 1, 2 and 3 masters, against one standalone server.

    python -m loadtest.bench.clusters [--seconds 3] [--rounds 5] [--quick]

One API process runs over each, all in the same run and in turn: 32 connections enqueue, fetch and
acknowledge jobs, each in its own queue. All share the cores of this machine, so requests per second
say little about more masters. The processor time per request does, separately for the API and all
masters.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from pathlib import Path

from loadtest.bench._table import print_setting, print_table, ratio
from loadtest.bench._target import Target, start, take_rounds
from ojs_cluster.server.embedded.servers import find_server

CONNECTIONS = 32


def row(target: Target, base: Target) -> list[str]:
    """Return the row of a target: rates and costs, and their ratios to the standalone server."""
    both = [a + b for a, b in zip(target.api_us, target.redis_us, strict=True)]
    both_base = [a + b for a, b in zip(base.api_us, base.redis_us, strict=True)]
    return [
        target.name,
        f"{statistics.median(target.rates):.0f}",
        f"{statistics.median(target.api_us):.0f}",
        ratio(target.api_us, base.api_us),
        f"{statistics.median(target.redis_us):.0f}",
        ratio(target.redis_us, base.redis_us),
        ratio(both, both_base),
    ]


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="three rounds of a second")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 1.0, 3
    binary = find_server(options.server)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        targets = [
            start(stack, Path(folder), binary, name, masters=masters)
            for name, masters in (
                ("standalone", 0),
                ("cluster of 1", 1),
                ("cluster of 2", 2),
                ("cluster of 3", 3),
            )
        ]
        take_rounds(targets, options.rounds, options.seconds, CONNECTIONS)
    print_setting(binary, f"medians of {options.rounds} rounds of {options.seconds:g} s")
    heads = ["", "requests/s", "API us", "ratio", "Redis us", "ratio", "both, ratio"]
    print_table(heads, [row(target, targets[0]) for target in targets])


if __name__ == "__main__":
    main()
