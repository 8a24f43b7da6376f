"""The cost of a scrape of many queues, and how long other requests wait for it.

    python -m loadtest.bench.scrapes [--queues 100 3000] [--scrapes 5] [--quick]

One API process runs over one standalone server. Each queue has a job. The table has, for each
number of queues, the size of the answer of ``/metrics`` and its size on the wire, compressed as
for Prometheus, and the processor time of the API process per scrape: of the first one after the
numbers have expired, and of one that follows at once. *Beside* is the longest response to
``/health`` while a scrape is built, and *alone* the longest of as many without a scrape.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import os
import statistics
import tempfile
import time
from pathlib import Path

import trio

from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table
from loadtest.bench._target import Target, start
from loadtest.bench.many_queues import connect
from ojs_cluster.server.embedded.servers import find_server

_EXPIRED_S = 6.0
"""After this time the numbers of a scrape are read again."""
_CHUNK = 500
_GZIP = b"\x1f\x8b"
"""How a compressed body begins (RFC 1952, 2.3.1)."""


async def fill(target: Target, queues: int) -> None:
    """Enqueue a job into each queue."""
    jobs = [
        {"type": "bench.scrape", "args": [], "options": {"queue": f"scrape-{number}"}}
        for number in range(queues)
    ]
    async with connect(target) as connection:
        for start_at in range(0, queues, _CHUNK):
            await connection.send("/ojs/v1/jobs/batch", {"jobs": jobs[start_at:][:_CHUNK]})


async def get(stream: trio.SocketStream, path: str) -> bytes:
    """Return the response to a request whose connection the server closes."""
    head = (
        f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
    )
    await stream.send_all(head.encode())
    response = bytearray()
    async for piece in stream:
        response += piece
    if response[9:12] != b"200":
        raise SystemExit(f"{path}: {bytes(response[:200])!r}")
    return bytes(response)


async def fetch(target: Target, path: str) -> bytes:
    """Return the response to a request on a connection of its own."""
    async with await trio.open_tcp_stream(target.host, target.port) as stream:
        return await get(stream, path)


async def scrape(target: Target) -> tuple[float, bytes]:
    """Return the processor time of a scrape in seconds, and its body as it was sent."""
    before = cpu_s(target.api_pids)
    response = await fetch(target, "/metrics")
    return cpu_s(target.api_pids) - before, response.partition(b"\r\n\r\n")[2]


async def longest_health(target: Target, seconds: float, *, scrapes: bool) -> float:
    """Return the longest response to ``/health`` in seconds, beside a scrape or alone."""
    longest = 0.0
    async with trio.open_nursery() as nursery:
        if scrapes:
            nursery.start_soon(scrape, target)
        until = trio.current_time() + seconds
        while trio.current_time() < until:
            began = time.perf_counter()
            await fetch(target, "/health")
            longest = max(longest, time.perf_counter() - began)
    return longest


async def measure(target: Target, queues: int, scrapes: int) -> list[str]:
    """Return the row of a number of queues."""
    await fill(target, queues)
    first, next_, beside, alone = list[float](), list[float](), list[float](), list[float]()
    body = b""
    for _ in range(scrapes):
        await trio.sleep(_EXPIRED_S)
        used, body = await scrape(target)
        first.append(used * 1000)
        next_.append((await scrape(target))[0] * 1000)
        alone.append(await longest_health(target, 1, scrapes=False) * 1000)
        await trio.sleep(_EXPIRED_S)
        beside.append(await longest_health(target, 1, scrapes=True) * 1000)
    medians = (statistics.median(values) for values in (first, next_, beside, alone))
    text = gzip.decompress(body) if body.startswith(_GZIP) else body  # a short one is not
    sizes = (len(text), len(body))
    kib = (str(size // 1024) for size in sizes)
    return [str(queues), *kib, *(f"{value:.1f}" for value in medians)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--queues", type=int, nargs="+", default=[100, 3000])
    parser.add_argument("--scrapes", type=int, default=5)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="one scrape of 100 and 500 queues")
    options = parser.parse_args()
    if options.quick:
        options.scrapes, options.queues = 1, [100, 500]
    os.environ.setdefault("OJS_METRICS_QUEUES", str(max(options.queues)))
    binary = find_server(options.server)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        target = start(stack, Path(folder), binary, "standalone")
        rows = [
            trio.run(measure, target, queues, options.scrapes) for queues in sorted(options.queues)
        ]
    print_setting(binary, f"medians of {options.scrapes} scrapes")
    times = ["first, ms of API", "next", "/health beside it, ms", "alone"]
    print_table(["queues", "KiB", "gzip, KiB", *times], rows)


if __name__ == "__main__":
    main()
