"""The cost of a request on clusters of 1, 2 and 3 masters, against one standalone server.

    python -m loadtest.bench.clusters [--seconds 3] [--rounds 5] [--quick]

One API process runs over each, all in the same run and in turn: 32 connections enqueue, fetch and
acknowledge jobs, each in its own queue. All share the cores of this machine, so requests per second
say little about more masters. The processor time per request does, separately for the API and all
masters.

The second table takes the difference apart. *One used* is the cluster of 3 with all queues on one
of its masters, so it differs from three used ones by the spread of the same commands alone. Per
request it has the time of the masters, the turns of their event loops, each of which serves all
commands that have arrived since the last one, how often the system made a master wait for a
processor or for commands, and the time that the masters take without requests.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis

from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table, ratio
from loadtest.bench._target import Target, start_api
from loadtest.bench.slow_master import queues_of
from ojs_cluster.server.embedded.servers import Embedded, ServerBinary, find_server

CONNECTIONS = 32
IDLE_S = 3.0


@dataclass
class Masters:
    """The masters of a target, and per round what they count for a request.

    Attributes:
        target: the target.
        clients: one for each master.
        queues: the queues of the load; each connection has one of its own by default.
        turns: turns of the event loops per request.
        switches: how often the masters lost or left a processor per request.
        idle_us: the time that they take without requests, per request of the load.
    """

    target: Target
    clients: Sequence[Redis]
    queues: Sequence[str] = ()
    turns: list[float] = field(default_factory=list)
    switches: list[float] = field(default_factory=list)
    idle_us: float = 0.0

    def counts(self) -> tuple[float, float]:
        """Return the turns of the event loops and the switches so far."""
        turns = 0
        for client in self.clients:
            stats: dict[str, Any] = client.info("stats")
            turns += stats["eventloop_cycles"]
        return turns, sum(map(_switches, self.target.redis_pids))

    def measure(self, seconds: float) -> None:
        """Measure the target under load for some seconds."""
        before = self.counts()
        self.target.measure(seconds, CONNECTIONS, self.queues)
        requests = self.target.rates[-1] * seconds
        for values, now, then in zip(
            (self.turns, self.switches), self.counts(), before, strict=True
        ):
            values.append((now - then) / requests)

    def idle(self) -> None:
        """Measure the masters without requests."""
        before, began = cpu_s(self.target.redis_pids), time.perf_counter()
        time.sleep(IDLE_S)
        used = cpu_s(self.target.redis_pids) - before
        per_s = used / (time.perf_counter() - began)
        self.idle_us = per_s / statistics.median(self.target.rates) * 1e6

    def row(self, base: Target) -> list[str]:
        """Return the row of the first table."""
        target = self.target
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

    def apart(self, base: Target) -> list[str]:
        """Return the row of the second table."""
        return [
            self.target.name,
            f"{statistics.median(self.target.redis_us):.1f}",
            ratio(self.target.redis_us, base.redis_us),
            f"{statistics.median(self.turns):.2f}",
            f"{statistics.median(self.switches):.3f}",
            f"{self.idle_us:.2f}",
        ]


def _switches(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def start(
    stack: contextlib.ExitStack, folder: Path, binary: ServerBinary, name: str, masters: int
) -> Masters:
    """Start one API process over a cluster of ``masters``, or one standalone server (0)."""
    embedded = Embedded(
        folder / name, binary=binary, masters=masters or 1, cluster=masters > 0, append_only=False
    )
    stack.enter_context(embedded)
    clients = [Redis(port=node.port) for node in embedded.nodes]
    queues = [] if name != "one used" else queues_of(embedded.masters()[0], CONNECTIONS)[0]
    return Masters(start_api(stack, embedded, name), clients, queues)


def main() -> None:
    """Run all rounds and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="three rounds of a second")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 1.0, 3
    binary = find_server(options.server)
    names = {
        "standalone": 0,
        "cluster of 1": 1,
        "cluster of 2": 2,
        "cluster of 3": 3,
        "one used": 3,
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        found = [
            start(stack, Path(folder), binary, name, masters) for name, masters in names.items()
        ]
        for each in found:
            each.target.measure(min(1.0, options.seconds), CONNECTIONS, each.queues)  # warms up
            each.target.forget()
        for number in range(options.rounds):
            for each in found[number % 2 :] + found[: number % 2]:
                each.measure(options.seconds)
        for each in found:
            each.idle()
    print_setting(binary, f"medians of {options.rounds} rounds of {options.seconds:g} s")
    base = found[0].target
    heads = ["", "requests/s", "API us", "ratio", "Redis us", "ratio", "both, ratio"]
    print_table(heads, [each.row(base) for each in found])
    print()
    heads = ["masters, per request", "us", "ratio", "turns", "switches", "idle, us"]
    print_table(heads, [each.apart(base) for each in found])


if __name__ == "__main__":
    main()
