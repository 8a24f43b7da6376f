"""How many requests a second, and what one costs: jobs that are enqueued, fetched and acknowledged.

    python -m loadtest.bench.lifecycle [--seconds 3] [--rounds 5] [--peer http://host:port]
    make bench PEER=http://host:port

32 keep-alive connections, each with a queue of its own, from a load generator in another process.
Measured in the same run, in turn, round after round, so that the machine's mood meets all alike:

- *empty*: an empty raw ASGI application on stock hypercorn with trio, which is the yardstick: it
  does nothing, so whoever is faster is so with all the work done;
- *standalone*: one API process over one Valkey;
- *cluster*: one API process over three masters;
- *hypercorn*: as standalone, with the fast lane switched off;
- *peer*: any other OJS server by its URL (`OJS_API_KEY` is sent if set). Its processor time is told
  when `--peer-pids` and `--peer-redis-pids` name its processes on this machine.

Processor time is read from /proc, so Linux only. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from loadtest.bench._processes import children_of, cpu_s, free_port, running
from ojs_cluster.server.embedded import Embedded, ServerBinary, find_server


@dataclass
class Target:
    """A server under load and what was measured of it. Costs are us of processor per request."""

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

    def measure(self, seconds: float, connections: int) -> None:
        """Load it for some seconds."""
        api, redis = cpu_s(self.api_pids), cpu_s(self.redis_pids)
        command = ["-m", "loadtest.bench._load", self.host, str(self.port), "--kind", self.kind]
        command += ["--seconds", str(seconds), "--connections", str(connections)]
        done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout)
        requests = found["requests"]
        self.rates.append(requests / found["seconds"])
        self.p50_ms.append(found["p50_ms"])
        self.api_us.append((cpu_s(self.api_pids) - api) / requests * 1e6)
        self.redis_us.append((cpu_s(self.redis_pids) - redis) / requests * 1e6)

    def row(self, empty: Target) -> str:
        """Its line of the table."""
        rate, base = statistics.median(self.rates), statistics.median(empty.rates)
        api, base_api = statistics.median(self.api_us), statistics.median(empty.api_us)
        redis = statistics.median(self.redis_us)
        cost = f"{api:>8.0f} {api / base_api:>6.2f}x" if self.api_pids else f"{'-':>8} {'-':>7}"
        behind = f"{redis:>8.1f}" if self.redis_pids else f"{'-':>8}"
        p50 = statistics.median(self.p50_ms)
        return f"{self.name:>12} {rate:>8.0f} {rate / base:>6.2f}x {cost} {behind} {p50:>8.2f}"


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--only", nargs="*", help="names of targets; empty always runs")
    parser.add_argument("--peer", default=os.environ.get("PEER"))
    parser.add_argument("--peer-pids", type=_pids, default=())
    parser.add_argument("--peer-redis-pids", type=_pids, default=())
    options = parser.parse_args()
    binary = find_server(options.server)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        targets = list(_targets(stack, Path(folder), binary, options.only))
        if options.peer:
            url = urlsplit(options.peer)
            host, port = url.hostname or "127.0.0.1", url.port or 80
            pids, behind = options.peer_pids, options.peer_redis_pids
            targets.append(Target("peer", host, port, api_pids=pids, redis_pids=behind))
        for target in targets:
            target.measure(min(1.0, options.seconds), options.connections)
            for list_ in (target.rates, target.api_us, target.redis_us, target.p50_ms):
                list_.clear()  # that was to warm up
        for number in range(options.rounds):
            for target in targets[number % 2 :] + targets[: number % 2]:
                target.measure(options.seconds, options.connections)
    print(
        f"{binary.kind} {binary.version}, {options.connections} connections, medians of "
        f"{options.rounds} rounds of {options.seconds:g} s, load average {os.getloadavg()[0]:.1f}"
    )
    print(
        f"{'':>12} {'req/s':>8} {'/empty':>7} {'API us':>8} {'/empty':>7} {'Redis us':>8} "
        f"{'p50 ms':>8}"
    )
    for target in targets:
        print(target.row(targets[0]))


def _targets(
    stack: contextlib.ExitStack, folder: Path, binary: ServerBinary, only: Sequence[str] | None
) -> Iterator[Target]:
    port = free_port()
    empty = stack.enter_context(running(["-m", "loadtest.bench._empty_app", str(port)], port, {}))
    yield Target("empty", "127.0.0.1", port, kind="empty", api_pids=[empty])
    kinds = (("standalone", 1, "1"), ("cluster", 3, "1"), ("hypercorn", 1, "0"))
    for name, masters, lane in kinds:
        if only is not None and name not in only:
            continue
        embedded = Embedded(
            folder / name, binary=binary, masters=masters, cluster=masters > 1, append_only=False
        )
        stack.enter_context(embedded)
        port = free_port()
        env = {
            "REDIS_URL": embedded.url,
            "OJS_HOST": "127.0.0.1",
            "OJS_PORT": str(port),
            "OJS_FAST_LANE": lane,
        }
        if "OJS_API_KEY" not in os.environ:
            env["OJS_ALLOW_INSECURE_NO_AUTH"] = "1"
        command = ["-m", "ojs_cluster.cli", "serve", "--workers", "1"]
        supervisor = stack.enter_context(running(command, port, env))
        _await_ready(port)
        yield Target(
            name,
            "127.0.0.1",
            port,
            api_pids=children_of(supervisor),
            redis_pids=[node.pid for node in embedded.nodes],
        )


def _await_ready(port: int) -> None:
    import urllib.request

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5),
        ):
            return
        time.sleep(0.1)
    raise SystemExit("the server did not become ready")


def _pids(text: str) -> list[int]:
    return [int(pid) for pid in text.split(",")]


if __name__ == "__main__":
    main()
