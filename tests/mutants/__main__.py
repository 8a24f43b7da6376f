"""Run the mutants: ``make mutants``, or ``python -m tests.mutants [-j N] [-k TEXT] [AREA...]``.

``--sample N --seed S`` runs a random part of them, spread evenly over the rooms.

Each worker has a copy of the repository of its own, so a run touches no working tree. In it the
worker puts one mutant in, runs the tests that the list names until the first failure, and takes the
mutant out. Before that, all tests named must pass in a copy without a mutant. The exit status is 1
when one of them fails there, when a mutant does not apply any more, or when fewer than 97 % of the
mutants are killed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.patches import AREAS, ROOMS, ROOT, Mutant, NotApplicable, load, rooms_of, sample

LEAST_KILLED = 0.97
SERVERS = "not [cluster and not cluster]"
"""What runs on both kinds of servers runs on a standalone one only, which saves half the time."""
MUTANT_S = 600.0
"""Longest run of one mutant's tests, in seconds. A mutant whose tests take longer is not killed:
on a busy machine time is no proof. Tests that wait for something fail by themselves before."""
CONTROL_S = 1800.0

# Exit statuses of pytest. Any other says that the tests did not run, which kills nothing.
_PASSED, _FAILED = 0, 1


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one mutant.

    Attributes:
        outcome: "killed", "survived", or what went wrong, of which ``output`` tells.
    """

    mutant: Mutant
    outcome: str
    seconds: float
    output: str = ""


class Copy:
    """A copy of the repository in a directory of its own. Used by one thread at a time."""

    _serial = count(1)

    def __init__(self, root: Path) -> None:
        self.root = root
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        cache = ROOT / ".cache"
        if cache.is_dir():  # programs that tests have downloaded, such as helm
            (root / ".cache").symlink_to(cache)
        self._check_imports()

    @contextmanager
    def holding(self, mutant: Mutant) -> Iterator[None]:
        """Put ``mutant`` in for the block.

        Raises:
            NotApplicable: its text does not occur exactly once.
        """
        path = self.root / mutant.file
        original, times = path.read_text(), path.stat()
        path.write_text(mutant.mutated(original))
        # Python takes a compiled file for current when size and whole seconds agree.
        stamp = int(times.st_mtime) + 10 * next(self._serial)
        os.utime(path, (stamp, stamp))
        try:
            yield
        finally:
            path.write_text(original)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def run(self, tests: Sequence[str], timeout_s: float, *options: str) -> tuple[int | None, str]:
        """Run tests; returns pytest's exit status, None after ``timeout_s``, and its output."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *tests]
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=self._env(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            status: int | None
            try:
                status = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                _end(process)
            output.seek(0)
            return status, output.read()

    def _env(self) -> dict[str, str]:
        # The editable install leads to the working tree, but comes after PYTHONPATH.
        places = (self.root, self.root / "scheduler", self.root / "clients/python/src")
        return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}

    def _check_imports(self) -> None:
        code = (
            "import ojs_client, ojs_cluster, ojs_scheduler\n"
            "print(ojs_client.__file__, ojs_cluster.__file__, ojs_scheduler.__file__)"
        )
        found = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.root,
            env=self._env(),
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        if not all(Path(path).is_relative_to(self.root) for path in found):
            raise RuntimeError(f"tests would not run the copy's code, but {found}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a test run and the servers that it has left behind."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)  # fixtures stop their servers
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        else:
            return
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_one(copy: Copy, mutant: Mutant) -> Result:
    """Put one mutant in and run its tests."""
    began = time.monotonic()
    try:
        with copy.holding(mutant):
            status, output = copy.run(mutant.tests, MUTANT_S, "-x", "-k", SERVERS)
    except NotApplicable as error:
        return Result(mutant, "not applicable", time.monotonic() - began, str(error))
    seconds = time.monotonic() - began
    if status == _FAILED:
        return Result(mutant, "killed", seconds)
    if status == _PASSED:
        return Result(mutant, "survived", seconds)
    if status is None:
        return Result(mutant, "timed out", seconds, output[-3000:])
    return Result(mutant, f"error {status}", seconds, output[-3000:])


def failing_without_mutant(copy: Copy, mutants: Sequence[Mutant]) -> str:
    """Run all tests named without any mutant; returns pytest's output when they do not pass."""
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    status, output = copy.run(tests, CONTROL_S, "-k", SERVERS)
    return "" if status == _PASSED else output[-5000:] or "no output"


def run_all(mutants: Sequence[Mutant], jobs: int, control: bool) -> list[Result] | None:
    """Run the mutants, ``jobs`` at a time; None when their tests fail without any."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(jobs):
            root = Path(directory, str(number))
            root.mkdir()
            copies.put(Copy(root))

        def one(mutant: Mutant) -> Result:
            copy = copies.get()
            try:
                result = run_one(copy, mutant)
            finally:
                copies.put(copy)
            _tell(f"{result.outcome:<14} {result.seconds:6.1f} s  {mutant.area}: {mutant.name}")
            return result

        if control:
            copy = copies.get()
            output = failing_without_mutant(copy, mutants)
            copies.put(copy)
            if output:
                _tell(f"{output}\nThese tests fail without any mutant.")
                return None
        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(one, mutants))


def report(results: Sequence[Result]) -> bool:
    """Print survivors, errors and a table; returns whether the run is good."""
    for result in results:
        if result.outcome != "killed":
            _tell(f"\n{result.outcome}: {result.mutant.area}: {result.mutant.name}")
            _tell(f"  in {result.mutant.file}\n  by {', '.join(result.mutant.tests)}")
            _tell(result.output)
    _tell(f"\n{'area':<12}{'mutants':>9}{'killed':>9}{'survived':>10}{'errors':>8}")
    totals: Counter[str] = Counter()
    for area in AREAS:
        here = Counter(result.outcome for result in results if result.mutant.area == area)
        if here:
            totals += here
            _row(area, here)
    _row("total", totals)
    share = totals["killed"] / max(1, totals.total())
    _tell(f"{share:.1%} killed; at least {LEAST_KILLED:.0%} are wanted")
    return share >= LEAST_KILLED and totals.total() == totals["killed"] + totals["survived"]


def _row(name: str, outcomes: Counter[str]) -> None:
    killed, survived, total = outcomes["killed"], outcomes["survived"], outcomes.total()
    _tell(f"{name:<12}{total:>9}{killed:>9}{survived:>10}{total - killed - survived:>8}")


def _tell(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("areas", nargs="*", help="the areas to run, all by default")
    parser.add_argument("-j", type=int, default=2, metavar="N", help="mutants at a time")
    parser.add_argument("-k", default="", metavar="TEXT", help="only names or files with this text")
    parser.add_argument(
        "--no-control", action="store_true", help="do not run the tests without mutants first"
    )
    parser.add_argument(
        "--sample", type=int, default=0, metavar="N", help="run N mutants drawn at random"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="draw others (default 1)")
    parser.add_argument("--list", action="store_true", help="only count the mutants of each room")
    given = parser.parse_args()
    unknown = set(given.areas) - set(AREAS)
    if unknown:
        parser.error(f"no such area: {', '.join(sorted(unknown))}")
    mutants = [
        mutant
        for area in given.areas or AREAS
        for mutant in load(area)
        if given.k in mutant.name or given.k in mutant.file
    ]
    if given.list:
        rooms = Counter(room for mutant in mutants for room in rooms_of(mutant.file))
        for room in ROOMS:
            _tell(f"{room:<16}{rooms[room]:>5}")
        _tell(f"{'all mutants':<16}{len(mutants):>5}")
        return 0
    if given.sample:
        _tell(f"{given.sample} of {len(mutants)} mutants, seed {given.seed}")
        mutants = sample(mutants, given.sample, given.seed)
    results = run_all(mutants, given.j, not given.no_control)
    return 0 if results is not None and report(results) else 1


if __name__ == "__main__":
    sys.exit(main())
