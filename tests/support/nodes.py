"""Real processes of the product, started as an operator starts them.

Every process is ``ojs-cluster ...`` with an environment. Its output goes to a file that failure
messages quote. No process outlives the test process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ojs_cluster.server.embedded.ports import PortReservation, reserve_any
from ojs_cluster.server.supervision.process_spawner import spawn
from tests.support.servers import wait_until

HOST = "127.0.0.1"
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60

Environment = Mapping[str, str]

NOTHING: Environment = MappingProxyType({})

OPEN_TO_TESTS: Environment = {
    "OJS_ALLOW_INSECURE_NO_AUTH": "true",
    "OJS_TEST_HOOKS": "true",
}


def environment(redis_url: str, more: Environment = NOTHING) -> dict[str, str]:
    """Return the environment of a product process: ours without OJS_ variables, then its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OJS_", "REDIS_"))}
    return {**inherited, **OPEN_TO_TESTS, "REDIS_URL": redis_url, **more}


@dataclass(slots=True)
class Process:
    """One ``ojs-cluster`` command; ``log`` is the file with its output."""

    name: str
    arguments: tuple[str, ...]
    env: Environment
    log: Path
    _popen: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the command, without waiting until it is ready."""
        program = str(Path(sys.executable).with_name("ojs-cluster"))
        self._popen = spawn([program, *self.arguments], output=self.log, env=self.env)

    @property
    def pid(self) -> int:
        assert self._popen is not None, f"{self.name} was not started"
        return self._popen.pid

    def is_alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def children(self) -> list[int]:
        """Return the process ids of the direct children, oldest first."""
        return children_of(self.pid)

    def kill(self) -> None:
        """Send SIGKILL to the command itself, not to its children."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)
        self._wait(STOP_TIMEOUT_S)

    def kill_all(self) -> None:
        """Send SIGKILL to the command and to its children, and wait until all are gone."""
        children: list[int] = []
        if self.is_alive():
            os.kill(self.pid, signal.SIGSTOP)  # or it may start a child that is not in the list
            children = self.children()
        self.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            await_death(child)

    def end(self) -> int:
        """Kill the command if it runs; return its exit code."""
        self.kill()
        assert self._popen is not None, f"{self.name} was not started"
        return self._popen.returncode

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL to its whole session when it does not end in time."""
        if self._popen is None:
            return
        if self.is_alive():
            os.kill(self.pid, signal.SIGTERM)
        if not self._wait(STOP_TIMEOUT_S):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._wait(STOP_TIMEOUT_S)
            raise AssertionError(f"{self.name} did not end on SIGTERM\n{self.log_tail()}")

    def _wait(self, timeout_s: float) -> bool:
        assert self._popen is not None
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def log_tail(self, lines: int = 30) -> str:
        """Return the end of its output, for failure messages."""
        if not self.log.exists():
            return f"--- {self.name}: no log"
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- {self.name}:", *text])


class ApiNode:
    """One ``ojs-cluster serve`` with several API processes on one port."""

    def __init__(
        self,
        name: str,
        directory: Path,
        redis_url: str,
        *,
        workers: int,
        env: Environment = NOTHING,
    ) -> None:
        self._reservation: PortReservation = reserve_any()
        self.port = self._reservation.port
        listen = {"OJS_HOST": HOST, "OJS_PORT": str(self.port)}
        self.workers = workers
        self.process = Process(
            name,
            ("serve", "--workers", str(workers)),
            environment(redis_url, {**listen, **env}),
            directory / f"{name}.log",
        )

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Start the node and return when it is ready.

        Raises:
            AssertionError: it did not become ready; the message has its log.
        """
        self.process.start()
        self.await_ready()

    def await_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when ``/ready`` answers 200.

        Raises:
            AssertionError: it did not in time, or the process ended; the message has its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if not self.process.is_alive():
                raise AssertionError(f"ended before it was ready\n{self.process.log_tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not ready in {timeout_s} s\n{self.process.log_tail()}")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Return whether ``/ready`` answers 200 now."""
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(  # noqa: S310 - our own http
                f"{self.url}/ready", timeout=10
            ) as answer,
        ):
            return bool(answer.status == 200)
        return False

    def api_processes(self) -> list[int]:
        """Return the process ids of the API processes behind the supervisor."""
        return self.process.children()

    def stop(self) -> None:
        self.process.stop()
        self._reservation.release()


def scheduler(name: str, directory: Path, redis_url: str, env: Environment = NOTHING) -> Process:
    """Return one ``ojs-cluster scheduler``, not started."""
    return Process(name, ("scheduler",), environment(redis_url, env), directory / f"{name}.log")


def children_of(pid: int) -> list[int]:
    """Return the direct children of a process, oldest first. ``ps`` exists on every Unix."""
    listing = subprocess.run(
        ["ps", "-Ao", "pid=,ppid="],  # noqa: S607 - found on PATH on every Unix
        capture_output=True,
        text=True,
        check=True,
    )
    rows = (line.split() for line in listing.stdout.splitlines())
    return sorted(int(child) for child, parent in rows if int(parent) == pid)


def await_death(pid: int, timeout_s: float = 60.0) -> None:
    """Return when no process has this id. It need not be a child of this process."""

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(gone, timeout_s=timeout_s, what=f"process {pid} is gone")
