"""Where the processor time of a request goes, and what the smallest possible loop takes.

    python -m loadtest.bench.request_parts [--seconds 2] [--rounds 7] [--quick]

The load is that of ``lifecycle``. Three targets take turns in each round: an empty hypercorn
application, the smallest loop with the system calls of an API process (``_smallest_loop``, over a
server of its own, whose scripts do nothing), and one API process over one standalone server. The
first table has the processor time per request of each process in microseconds, the part of the
target that the kernel took, the sum over load generator, target and Redis, and requests per second
and the target's time as ratios to the empty application. The second table takes the API process
apart: samples of another one, which takes turns as well, at each tick of a timer of its processor
time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from loadtest.bench._processes import cpu_s, free_port, running, user_and_kernel_s
from loadtest.bench._table import print_setting, print_table
from loadtest.bench._target import Target, start, start_api
from ojs_cluster.server.embedded.servers import Embedded, find_server

_CONNECTIONS = 32
_SITE = "import os\nfrom loadtest.bench._sampler import start\nstart({folder!r}, os.getpid())\n"
Figures = dict[str, dict[str, list[float]]]


def take_round(target: Target, seconds: float, figures: dict[str, list[float]]) -> None:
    """Measure a target once."""
    pids = (target.api_pids, target.redis_pids)
    before, kernel = [cpu_s(each) for each in pids], user_and_kernel_s(target.api_pids)
    found = target.load(seconds, _CONNECTIONS)
    requests = found["requests"]
    api, redis = (
        (cpu_s(each) - then) / requests * 1e6 for each, then in zip(pids, before, strict=True)
    )
    user, system = (
        now - then for now, then in zip(user_and_kernel_s(target.api_pids), kernel, strict=True)
    )
    generator = found["own_cpu_us"]
    row = {
        "requests/s": requests / found["seconds"],
        "generator": generator,
        "target": api,
        "its kernel": api * system / (user + system),
        "Redis": redis,
        "sum": generator + api + redis,
    }
    for name, value in row.items():
        figures[name].append(value)


def print_targets(figures: Figures) -> None:
    """Print the first table."""
    medians = {
        name: {kind: statistics.median(values) for kind, values in of.items()}
        for name, of in figures.items()
    }
    empty = medians["empty"]
    rows = []
    for name, of in medians.items():
        costs = [f"{value:.1f}" for kind, value in of.items() if kind != "requests/s"]
        ratios = [f"{of[kind] / empty[kind]:.2f}" for kind in ("requests/s", "target")]
        rows.append([name, f"{of['requests/s']:.0f}", *costs, *ratios])
    heads = list(empty)
    print_table(["", *heads, "requests/s / empty", "target / empty"], rows)


def print_parts(counts: Counter[str], api_us: float) -> None:
    """Print the second table."""
    rows = [
        [part, f"{count / counts.total():.0%}", f"{count / counts.total() * api_us:.1f}"]
        for part, count in counts.most_common()
    ]
    print_table([f"{counts.total()} samples", "share", "us"], rows)


def samples_of(folder: str, pids: Sequence[int]) -> Counter[str]:
    """Return the samples of some processes so far."""
    counts: Counter[str] = Counter()
    for pid in pids:
        path = Path(folder, str(pid))
        if path.exists():
            counts.update(json.loads(path.read_text()))
    return counts


def main() -> None:
    """Run all rounds and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="three rounds of a second")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 1.0, 3
    binary = find_server(options.server)
    figures: Figures = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        Path(folder, "sitecustomize.py").write_text(_SITE.format(folder=folder))
        port = free_port()
        empty = stack.enter_context(
            running(["-m", "loadtest.bench._empty_app", str(port)], port, {})
        )
        servers = [
            Embedded(Path(folder, name), binary=binary, masters=1, cluster=False, append_only=False)
            for name in ("sampled", "smallest")
        ]
        nodes = [stack.enter_context(each).nodes[0] for each in servers]
        floor_port = free_port()
        command = ["-m", "loadtest.bench._smallest_loop", str(floor_port), str(nodes[1].port)]
        floor = stack.enter_context(running(command, floor_port, {}))
        sampled = start_api(stack, servers[0], "sampled", path=folder)
        targets = [
            Target("empty", "127.0.0.1", port, kind="empty", api_pids=[empty]),
            Target(
                *("smallest loop", "127.0.0.1", floor_port),
                api_pids=[floor],
                redis_pids=[nodes[1].pid],
            ),
            start(stack, Path(folder), binary, "standalone"),
        ]
        for target in [*targets, sampled]:
            target.load(min(1.0, options.seconds), _CONNECTIONS)  # warms up
        before = samples_of(folder, sampled.api_pids)
        for number in range(options.rounds):
            for target in targets[number % 2 :] + targets[: number % 2]:
                take_round(target, options.seconds, figures[target.name])
            sampled.load(options.seconds, _CONNECTIONS)
        counts = samples_of(folder, sampled.api_pids)
        counts = counts - before
    how = f"medians of {options.rounds} rounds of {options.seconds:g} s"
    print_setting(binary, f"{how}, us per request")
    print_targets({target.name: figures[target.name] for target in targets})
    print()
    print_parts(counts, statistics.median(figures["standalone"]["target"]))


if __name__ == "__main__":
    main()
