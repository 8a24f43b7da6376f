"""Start processes under measurement and read their processor time."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor time that these processes have used so far, user and system, in seconds.

    It uses the scheduler's count in ns; if the kernel has none, ticks of 10 ms.
    """
    return sum(_exact_s(pid) or _ticks_s(pid) for pid in pids)


def _exact_s(pid: int) -> float:
    """Return the run time of all live threads; 0 where the kernel does not count it."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended just now
            total += int(path.read_text().split()[0])
    return total / 1e9


def _ticks_s(pid: int) -> float:
    return sum(user_and_kernel_s([pid]))


def user_and_kernel_s(pids: Iterable[int]) -> tuple[float, float]:
    """Return the processor time of these processes outside and inside the kernel, in seconds.

    The kernel divides the time by what it met at its ticks, so only long times are exact.
    """
    user = kernel = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, kernel = user + int(fields[11]) * TICK_S, kernel + int(fields[12]) * TICK_S
    return user, kernel


def prefer(pids: Iterable[int]) -> None:
    """Give these processes, and all of their sessions, most of a busy machine (Linux, as root).

    The scheduler shares the processors between sessions first, so ``nice`` alone has little effect.
    """
    for pid in pids:
        Path(f"/proc/{pid}/autogroup").write_text("-15")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def children_of(pid: int) -> list[int]:
    """Return the direct children of a process, from all of its threads (Linux)."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in texts for child in text.split()]


@contextlib.contextmanager
def running(
    arguments: Sequence[str],
    port: int,
    env: dict[str, str],
    python: str = sys.executable,
    source: str | None = None,
) -> Iterator[int]:
    """Run ``python -m ...`` until the block ends; yield its pid once it accepts on the port.

    The modules are those of ``source``, the folder of another version, if it is given.
    """
    process = subprocess.Popen(
        [python, *arguments],
        env={**os.environ, **env},
        cwd=source,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(arguments)} did not start")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)
