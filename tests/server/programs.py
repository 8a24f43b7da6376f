"""Programs under test, run as real processes and observed from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import httpx

from ojs_cluster.server.embedded.ports import PortReservation, reserve_any

ROOT = Path(__file__).resolve().parents[2]
STOP_S = 60


@dataclass(slots=True)
class Program:
    """A running program; its lines of output arrive as they are printed."""

    process: subprocess.Popen[str]
    lines: Queue[str]
    seen: list[str]

    @property
    def output(self) -> str:
        """All that was printed so far."""
        while not self.lines.empty():
            self.seen.append(self.lines.get())
        return "".join(self.seen)

    def wait_line(self, text: str, timeout_s: float = 120.0) -> str:
        """Wait for a line that contains the text, and return it."""
        deadline = time.monotonic() + timeout_s
        for line in self.seen:
            if text in line:
                return line
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except Empty:
                code = self.process.poll()
                raise AssertionError(
                    f"no line with {text!r} in {timeout_s} s (exit code {code}):\n{self.output}"
                ) from None
            self.seen.append(line)
            if text in line:
                return line

    def wait_exit(self, timeout_s: float = 120.0) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(timeout_s)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Give an environment without any of our variables, plus `extra`."""
    ours = ("OJS_", "REDIS_", "OTEL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": f"{ROOT}:{ROOT / 'scheduler'}", "PYTHONUNBUFFERED": "1", **extra}


@contextlib.contextmanager
def program(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    interpreter: Sequence[str] = (sys.executable,),
) -> Iterator[Program]:
    """Run `python -m ...` until the block ends; stdout and stderr mixed.

    With an empty `interpreter`, `command` names a program.
    """
    process = subprocess.Popen(
        [*interpreter, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(env or {}),
        cwd=cwd,
    )
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    stdout = process.stdout

    def read() -> None:
        for line in stdout:
            lines.put(line)

    reader = Thread(target=read, daemon=True)
    reader.start()
    hangs = False
    try:
        yield Program(process, lines, [])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                hangs = True  # what it has started may disturb the next test
                process.kill()
        process.wait()
        reader.join(20)
        stdout.close()
        assert not hangs, f"{command} did not end within {STOP_S} s of SIGTERM"


_held: list[PortReservation] = []


def free_port() -> int:
    """Return a port that no other process takes before this test process ends."""
    _held.append(reserve_any())
    return _held[-1].port


def get(port: int, path: str, timeout_s: float = 60.0) -> httpx.Response:
    """GET over a connection of its own."""
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=timeout_s)


def pid_exists(pid: int) -> bool:
    """Tell whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
