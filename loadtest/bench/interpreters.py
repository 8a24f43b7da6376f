"""The cost of the API on other builds of Python: the ratio of processor time per request.

    python -m loadtest.bench.interpreters /path/to/venv/bin/python ... [--rounds 5] [--quick]

Each given Python runs an API process with its own standalone server. The Python that runs this
benchmark comes first; the others are compared with it. All are measured in the same run and in
turn, with one load generator: 32 connections enqueue, fetch and acknowledge jobs. A given Python
needs the dependencies of the server: ``python -m venv /tmp/v && /tmp/v/bin/pip install
'.[embedded]'``.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtest.bench._table import print_setting, print_table, ratio
from loadtest.bench._target import start, take_rounds
from ojs_cluster.server.embedded.servers import find_server

CONNECTIONS = 32
_TELL = (
    "import platform as p, sysconfig as s, sys; from ojs_cluster.server import interpreter as i; "
    "print(p.python_version(), 'slow' if i.runs_on_slow_build() else 'optimized', sys.base_prefix)"
)


def described(python: str) -> str:
    """Return version and build of a Python, as the name of its row."""
    done = subprocess.run([python, "-c", _TELL], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pythons", nargs="*")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="three rounds of a second")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 1.0, 3
    binary = find_server(options.server)
    pythons = [sys.executable, *options.pythons]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        targets = [
            start(stack, Path(folder), binary, str(number), python=python)
            for number, python in enumerate(pythons)
        ]
        take_rounds(targets, options.rounds, options.seconds, CONNECTIONS)
    print_setting(binary, f"medians of {options.rounds} rounds of {options.seconds:g} s")
    rows = [
        [
            described(python),
            f"{statistics.median(target.api_us):.0f}",
            ratio(target.api_us, targets[0].api_us),
            ratio(target.rates, targets[0].rates),
        ]
        for python, target in zip(pythons, targets, strict=True)
    ]
    print_table(["API process under", "API us", "ratio", "requests/s, ratio"], rows)


if __name__ == "__main__":
    main()
