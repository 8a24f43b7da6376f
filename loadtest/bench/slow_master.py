"""Does a blocked or slow master lower the throughput of queues on other masters?

    python -m loadtest.bench.slow_master [--seconds 2] [--rounds 5] [--quick]

One API process runs over three masters. 24 connections run lifecycles in queues of two masters. A
second load generator enqueues 200 jobs per second in queues of the third master, in an open loop.
The third master is in turn *healthy*; *blocked*, which is stopped for the whole round; and *slow*,
which is stopped for 45 of each 50 ms. A stopped process keeps its connections open, does not
answer, and uses no processor time. The ratio compares the requests per second of the 24 connections
with the round before, in which the master was healthy.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import redis

from loadtest.bench._table import print_setting, print_table
from loadtest.bench._target import Target, start_api
from ojs_cluster.keys import Keyspace
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode, find_server

CONNECTIONS = 24
BESIDE = 32
"""Connections of the third master's clients: most of them wait while it is stopped."""
RATE = 200.0
STOPPED_S, RUNNING_S = 0.045, 0.005
GOAL = 0.9
STATES = ("healthy", "blocked", "healthy", "slow")


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 1.0, 2
    binary = find_server(options.server)
    rates: dict[str, list[float]] = {state: [] for state in STATES}
    ratios: dict[str, list[float]] = {state: [] for state in STATES}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        embedded = Embedded(Path(folder), binary=binary, masters=3, append_only=False)
        stack.enter_context(embedded)
        target = start_api(stack, embedded, "cluster")
        third = embedded.masters()[2]
        its, others = queues_of(third, BESIDE, CONNECTIONS)
        _lifecycles(target, others, options.seconds)  # warms up
        for _ in range(options.rounds):
            healthy = 0.0
            for state in STATES:
                rate = _one_round(target, third, state, others, its, options.seconds)
                healthy = rate if state == "healthy" else healthy
                rates[state].append(rate)
                ratios[state].append(rate / healthy)
                time.sleep(1.0)  # calls that waited for the third master end before the next state
    print_setting(binary, f"medians of {options.rounds} rounds of {options.seconds:g} s")
    print_table(
        ["third master", "requests/s of the others", "ratio"],
        [
            [state, f"{statistics.median(rates[state]):.0f}", f"{_median(ratios[state]):.2f}"]
            for state in dict.fromkeys(STATES)
        ],
    )
    reached = all(_median(found) >= GOAL for found in ratios.values())
    print("reached" if reached else "not reached")


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _one_round(
    target: Target,
    third: EmbeddedNode,
    state: str,
    others: Sequence[str],
    its: Sequence[str],
    seconds: float,
) -> float:
    """Return the requests per second of the connections to the other masters."""
    command = target.load_command(seconds + 10, BESIDE, RATE, its)
    command[command.index("--kind") + 1] = "enqueue"
    beside = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.3)  # the load on the third master has begun before it stops
        with _stopped(third.pid, state):
            return _lifecycles(target, others, seconds)
    finally:
        beside.terminate()
        beside.wait()


def _lifecycles(target: Target, queues: Sequence[str], seconds: float) -> float:
    found = target.load(seconds, CONNECTIONS, queues=queues)
    rate: float = found["requests"] / found["seconds"]
    return rate


@contextlib.contextmanager
def _stopped(pid: int, state: str) -> Iterator[None]:
    """Stop a process until the block ends, in the way of ``state``."""
    ended = threading.Event()

    def stop_and_go() -> None:
        while not ended.is_set():
            os.kill(pid, signal.SIGSTOP)
            ended.wait(STOPPED_S if state == "slow" else None)
            os.kill(pid, signal.SIGCONT)
            ended.wait(RUNNING_S)

    thread = threading.Thread(target=stop_and_go)
    if state != "healthy":
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if state != "healthy":
            thread.join()


def queues_of(node: EmbeddedNode, its: int, others: int = 0) -> tuple[list[str], list[str]]:
    """Return some queues of a master of a cluster, and some of the other masters."""
    keys = Keyspace(64)
    found: tuple[list[str], list[str]] = ([], [])
    with redis.RedisCluster(host="127.0.0.1", port=node.port) as client:
        for number in count():
            name = f"bench-{number}"
            key = keys.partitions(name, 1)[0].due.decode()
            found[client.get_node_from_key(key).port != node.port].append(name)
            if len(found[0]) >= its and len(found[1]) >= others:
                break
    return found[0][:its], found[1][:others]


if __name__ == "__main__":
    main()
