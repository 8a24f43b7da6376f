"""Requests per second and cost of a request: jobs that are enqueued, fetched and acknowledged.

    python -m loadtest.bench.lifecycle [--seconds 3] [--rounds 5] [--peer http://host:port]
    make bench PEER=http://host:port

32 keep-alive connections, each with its own queue, from a load generator in another process. All
targets are measured in the same run, in turn, round after round, so that other load on the machine
affects all alike:

- *empty*: an empty raw ASGI application on stock hypercorn with trio, as a baseline. It does
  nothing, so a faster server is faster although it does all the work;
- *standalone*: one API process over one Valkey;
- *cluster*: one API process over three masters;
- *hypercorn*: as standalone, with the fast lane switched off;
- *peer*: any other OJS server by its URL (``OJS_API_KEY`` is sent if set). Its processor time is
  printed if ``--peer-pids`` and ``--peer-redis-pids``, or the variables ``PEER_PIDS`` and
  ``PEER_REDIS_PIDS``, name its processes on this machine, separated by commas.

Processor time is read from /proc, so this needs Linux. The values are medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtest.bench._processes import free_port, running
from loadtest.bench._target import Target, peer_of, start, take_rounds
from ojs_cluster.server.embedded.servers import ServerBinary, find_server


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--only", nargs="*", help="names of targets; empty always runs")
    parser.add_argument("--peer", default=os.environ.get("PEER"))
    pids, redis_pids = os.environ.get("PEER_PIDS", ""), os.environ.get("PEER_REDIS_PIDS", "")
    parser.add_argument("--peer-pids", type=_pids, default=pids)
    parser.add_argument("--peer-redis-pids", type=_pids, default=redis_pids)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 1.0, 3
    binary = find_server(options.server)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        targets = list(_targets(stack, Path(folder), binary, options.only))
        if options.peer:
            targets.append(peer_of(options.peer, options.peer_pids, options.peer_redis_pids))
        take_rounds(targets, options.rounds, options.seconds, options.connections)
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
    if options.peer:
        _compare(targets[1:-1], targets[-1])


def _compare(targets: Sequence[Target], peer: Target) -> None:
    """Print the figures of each target divided by those of the peer, as medians over the rounds."""
    print(f"\n{'/ peer':>12} {'req/s':>8} {'API us':>8} {'Redis us':>8}")
    for target in targets:
        cells = [_ratio(target.rates, peer.rates)]
        cells += [_ratio(target.api_us, peer.api_us), _ratio(target.redis_us, peer.redis_us)]
        print(f"{target.name:>12} {' '.join(f'{cell:>8}' for cell in cells)}")


def _ratio(values: Sequence[float], base: Sequence[float]) -> str:
    """Return the median of the ratios of each round; a dash without a figure of the peer."""
    if not all(base):
        return "-"
    return f"{statistics.median(a / b for a, b in zip(values, base, strict=True)):.2f}x"


def _targets(
    stack: contextlib.ExitStack, folder: Path, binary: ServerBinary, only: Sequence[str] | None
) -> Iterator[Target]:
    port = free_port()
    empty = stack.enter_context(running(["-m", "loadtest.bench._empty_app", str(port)], port, {}))
    yield Target("empty", "127.0.0.1", port, kind="empty", api_pids=[empty])
    for name, masters, lane in (("standalone", 0, "1"), ("cluster", 3, "1"), ("hypercorn", 0, "0")):
        if only is None or name in only:
            yield start(stack, folder, binary, name, masters=masters, lane=lane)


def _pids(text: str) -> list[int]:
    return [int(pid) for pid in text.split(",") if pid]


if __name__ == "__main__":
    main()
