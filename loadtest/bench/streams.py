"""How many requests does a process serve beside many event streams, and what does a copy cost?

    python -m loadtest.bench.streams [--streams 0 300 1000] [--rate 600] [--seconds 5] [--quick]

One API process runs over one standalone server. A load generator offers requests at a fixed rate:
jobs that are enqueued, fetched and acknowledged, so a third of the rate is jobs. Every stream
follows the whole cluster (``channel=all``), and a process of its own reads all of them.

- *served*: requests that were answered per second, and as a part of the rate;
- *saturated*: the same without a limit on the rate, and how many of them a second of the processor
  time of the API process serves, as a part of those without streams;
- *copies*: events that the streams got per second, and of a hundred offered ones;
- *per copy*: processor time of the API process beyond that without streams, per copy.

The last line has the time from SIGTERM to the end of the API process with streams open, half of
whose clients read nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table
from loadtest.bench._target import Target, start
from loadtest.bench.push import Subscribers, wait_until_calm
from ojs_cluster.server.embedded.servers import find_server

_STREAM = (
    b"GET /ojs/v1/events/stream HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
)
_EVENTS_PER_REQUEST = 5 / 3
"""An enqueue is one event. A fetch and an ack are two each: the change of state, and the event."""
_CONNECTIONS = 32


def read_streams(target: Target, count: int, pipe: Pipe) -> None:
    """Open streams, report it, and read until the pipe gets something; report the events."""
    subscribers = Subscribers(target, count, _STREAM, b"event: ")
    pipe.send(None)
    while not pipe.poll():
        subscribers.read_some(0.05)
    pipe.send(subscribers.events)


def one_round(target: Target, count: int, rate: float | None, seconds: float) -> list[float]:
    """Return requests, copies, and processor seconds of the API process, per second."""
    wait_until_calm(target)
    ours, theirs = multiprocessing.Pipe()
    reader = multiprocessing.Process(target=read_streams, args=(target, count, theirs))
    reader.start()
    try:
        ours.recv()
        began, before = time.perf_counter(), cpu_s(target.api_pids)
        found = target.load(seconds, _CONNECTIONS, rate)
        used, took = cpu_s(target.api_pids) - before, time.perf_counter() - began
        ours.send(None)
        copies = ours.recv()
    finally:
        reader.terminate()
        reader.join()
    return [found["requests"] / found["seconds"], copies / took, used / took]


def stop(target: Target, count: int) -> float:
    """Return the time in seconds that the API process takes to stop with open streams."""
    reading, silent = (Subscribers(target, count, _STREAM, b"event: ") for _ in range(2))
    target.load(1.0, _CONNECTIONS)  # more events than the buffers of those who do not read hold
    began = time.perf_counter()
    for pid in target.api_pids:
        os.kill(pid, signal.SIGTERM)
    while any(Path(f"/proc/{pid}").exists() for pid in target.api_pids):
        reading.read_some(0.01)
    silent.close()
    return time.perf_counter() - began


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[0, 300, 1000])
    parser.add_argument("--rate", type=float, default=600.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="one short round")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.streams = 1, 2.0, [0, 100]
    for name in ("OJS_PUSH_SUBSCRIBERS", "OJS_PUSH_SUBSCRIBERS_PER_CLIENT"):
        os.environ.setdefault(name, "100000")
    binary = find_server(options.server)
    cases = [(count, rate) for count in options.streams for rate in (options.rate, None)]
    found: dict[tuple[int, float | None], list[list[float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        target = start(stack, Path(folder), binary, "standalone")
        one_round(target, 1, None, 1.0)  # warms up
        for _ in range(options.rounds):
            for count, rate in cases:
                found[count, rate].append(one_round(target, count, rate, options.seconds))
        took = stop(target, 10)
    how = f"{options.rate:.0f} requests/s offered, medians of {options.rounds} rounds"
    print_setting(binary, how)
    medians = {
        case: [statistics.median(column) for column in zip(*rounds, strict=True)]
        for case, rounds in found.items()
    }
    rows = []
    base = medians[options.streams[0], options.rate]
    per_cpu = medians[options.streams[0], None][0] / medians[options.streams[0], None][2]
    for count in options.streams:
        served, copies, used = medians[count, options.rate]
        saturated, _, busy = medians[count, None]
        offered = served * _EVENTS_PER_REQUEST * count
        rows.append(
            [
                *(str(count), f"{served:.0f}", f"{served / options.rate:.2f}"),
                *(
                    f"{saturated:.0f}",
                    f"{saturated / busy / per_cpu:.2f}",
                    f"{copies:.0f}",
                ),
                f"{copies / offered * 100:.0f} %" if count else "-",
                f"{(used - base[2]) / copies * 1e6:.1f}" if copies else "-",
            ]
        )
    heads = ["streams", "served/s", "of rate", "saturated/s", "ratio", "copies/s", "of events"]
    print_table([*heads, "per copy, µs"], rows)
    print(f"\na stop with 20 open streams: {took:.2f} s")


if __name__ == "__main__":
    main()
