"""Servers under load and their measurements."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtest.bench._processes import children_of, cpu_s, free_port, running
from ojs_cluster.server.embedded.servers import Embedded, ServerBinary


@dataclass
class Target:
    """A server under load and its measurements. Costs are microseconds of processor time per
    request.
    """

    name: str
    host: str
    port: int
    kind: str = "lifecycle"
    api_pids: Sequence[int] = ()
    redis_pids: Sequence[int] = ()
    rates: list[float] = field(default_factory=list)
    api_us: list[float] = field(default_factory=list)
    redis_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)

    def load_command(
        self,
        seconds: float,
        connections: int,
        rate: float | None = None,
        queues: Sequence[str] = (),
    ) -> list[str]:
        """Return the load generator's command line.

        Args:
            seconds: how long it runs.
            connections: how many it opens.
            rate: requests a second in an open loop; None for a closed one.
            queues: names of queues for the connections; each has one of its own by default.
        """
        command = [sys.executable, "-m", "loadtest.bench._load", self.host, str(self.port)]
        command += ["--kind", self.kind, "--connections", str(connections)]
        command += ["--seconds", str(seconds)]
        command += ["--rate", str(rate)] if rate else []
        return command + (["--queues", *queues] if queues else [])

    def load(
        self,
        seconds: float,
        connections: int,
        rate: float | None = None,
        queues: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Run the load generator and return its result; arguments as for ``load_command``."""
        command = self.load_command(seconds, connections, rate, queues)
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def forget(self) -> None:
        """Discard the measurements of the warm-up."""
        for values in (self.rates, self.api_us, self.redis_us, self.p50_ms):
            values.clear()

    def measure(self, seconds: float, connections: int, queues: Sequence[str] = ()) -> None:
        """Measure the server under load for some seconds; arguments as for ``load_command``."""
        api, redis = cpu_s(self.api_pids), cpu_s(self.redis_pids)
        found = self.load(seconds, connections, queues=queues)
        requests = found["requests"]
        self.rates.append(requests / found["seconds"])
        self.p50_ms.append(found["p50_ms"])
        self.api_us.append((cpu_s(self.api_pids) - api) / requests * 1e6)
        self.redis_us.append((cpu_s(self.redis_pids) - redis) / requests * 1e6)

    def row(self, empty: Target) -> str:
        """Return its row of the table."""
        rate, base = statistics.median(self.rates), statistics.median(empty.rates)
        api, base_api = statistics.median(self.api_us), statistics.median(empty.api_us)
        redis = statistics.median(self.redis_us)
        cost = f"{api:>8.0f} {api / base_api:>6.2f}x" if self.api_pids else f"{'-':>8} {'-':>7}"
        behind = f"{redis:>8.1f}" if self.redis_pids else f"{'-':>8}"
        p50 = statistics.median(self.p50_ms)
        return f"{self.name:>12} {rate:>8.0f} {rate / base:>6.2f}x {cost} {behind} {p50:>8.2f}"


def peer_of(url: str, api_pids: Sequence[int] = (), redis_pids: Sequence[int] = ()) -> Target:
    """Return another OJS server as a target.

    Args:
        url: where it listens.
        api_pids: its processes on this machine; empty to leave out their processor time.
        redis_pids: those of its Redis.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    return Target("peer", host, port, api_pids=api_pids, redis_pids=redis_pids)


def take_rounds(targets: list[Target], rounds: int, seconds: float, connections: int) -> None:
    """Warm up, then measure all targets in turn, round after round."""
    for target in targets:
        target.measure(min(1.0, seconds), connections)
        target.forget()
    for number in range(rounds):
        for target in targets[number % 2 :] + targets[: number % 2]:
            target.measure(seconds, connections)


def start(
    stack: contextlib.ExitStack,
    folder: Path,
    binary: ServerBinary,
    name: str,
    *,
    masters: int = 0,
    lane: str = "1",
    python: str = sys.executable,
) -> Target:
    """Start one API process with its own servers: a cluster of ``masters``, or one standalone (0).

    ``python`` runs the API process; its environment has the dependencies of the server.
    """
    embedded = Embedded(
        folder / name, binary=binary, masters=masters or 1, cluster=masters > 0, append_only=False
    )
    stack.enter_context(embedded)
    return start_api(stack, embedded, name, lane=lane, python=python)


def start_api(
    stack: contextlib.ExitStack,
    embedded: Embedded,
    name: str,
    *,
    lane: str = "1",
    python: str = sys.executable,
    source: str | None = None,
    path: str = "",
) -> Target:
    """Start one API process over servers that run; otherwise as ``start``.

    ``source`` is the folder of another version of the project, which the process runs, and ``path``
    a folder that its Python searches first.
    """
    port = free_port()
    env = {
        "REDIS_URL": embedded.url,
        "OJS_HOST": "127.0.0.1",
        "OJS_PORT": str(port),
        "OJS_FAST_LANE": lane,
        # Another interpreter does not have this project installed.
        "PYTHONPATH": os.pathsep.join([*filter(None, [path]), source or os.getcwd()]),
    }
    if "OJS_API_KEY" not in os.environ:
        env["OJS_ALLOW_INSECURE_NO_AUTH"] = "1"
    command = ["-m", "ojs_cluster.cli", "serve", "--workers", "1"]
    supervisor = stack.enter_context(running(command, port, env, python, source))
    _await_ready(port)
    return Target(
        name,
        "127.0.0.1",
        port,
        api_pids=children_of(supervisor),
        redis_pids=[node.pid for node in embedded.nodes],
    )


def _await_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5),
        ):
            return
        time.sleep(0.1)
    raise SystemExit("the server did not become ready")
