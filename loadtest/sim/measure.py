"""Measure the inputs of the simulation again, and print them beside ``costs.toml``.

    python -m loadtest.sim.measure [--rounds 3] [--observe] [--scheduler]

It starts its own servers: standalone ones, and clusters of 1 and 8 masters (with --observe of 1, 2
and 3). It measures processor time, so other programs may run on the machine. But they evict this
code from the processor caches, and every cost rises. So compare ratios on a busy machine: the last
column scales each value by the lifecycle on 32 connections in ``costs.toml``, which was observed on
an idle machine. Enter values into the file by hand, with how they were measured.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path

import trio

from loadtest.bench._processes import cpu_s, free_port, running
from loadtest.bench._table import print_setting, print_table
from loadtest.bench._target import Target, start
from loadtest.sim import costs, measure_client, measure_redis
from ojs_cluster.server.embedded.servers import Embedded, ServerBinary, find_server

SETTLE_S = 8.0
"""Time in seconds until all leases are acquired and the copies of the schema are written."""
LIFECYCLES = (("standalone", 0, 32), ("one connection", 0, 1), ("8 connections", 0, 8))
CLUSTERS = tuple((f"cluster of {masters}", masters, 32) for masters in (1, 2, 3))


def of_redis(stack: contextlib.ExitStack, folder: Path, binary: ServerBinary) -> dict[str, float]:
    """Return the costs of the server side."""
    alone, one = (
        stack.enter_context(
            Embedded(
                folder / name, binary=binary, masters=1, cluster=name == "one", append_only=False
            )
        )
        for name in ("alone", "one")
    )
    turn = measure_redis.turn_costs(alone.nodes[0], 100)
    scripts = trio.run(measure_redis.script_costs, alone, 3200, turn)
    in_cluster = trio.run(measure_redis.script_costs, one, 3200, turn)
    few, many = (measure_redis.message_us(alone.nodes[0], count, 200) for count in (1, 33))
    plain = [scripts[verb] for verb in measure_redis.VERBS[:3]]
    checked = [in_cluster[verb] for verb in measure_redis.VERBS[:3]]
    return {
        "redis_turn": turn.turn,
        "redis_read": turn.read,
        **{f"redis_{verb}": us for verb, us in scripts.items()},
        "redis_slot_check": statistics.mean(checked) - statistics.mean(plain),
        "redis_message": (many - few) / 32,
    }


def of_api(stack: contextlib.ExitStack, folder: Path, binary: ServerBinary) -> dict[str, float]:
    """Return the costs of the API process that can be measured without HTTP."""
    one, eight = (
        stack.enter_context(
            Embedded(folder / f"of{masters}", binary=binary, masters=masters, append_only=False)
        )
        for masters in (1, 8)
    )
    found = [
        measure_client.piece_us(
            trio.run(measure_client.command_us, one, 16, 6400),
            trio.run(measure_client.command_us, eight, 16, 6400),
        )
        for _ in range(3)
    ]
    return {
        "api_send": statistics.median(found) / 2,
        "api_read": statistics.median(found) / 2,
        "api_message": trio.run(measure_client.message_us, one, 500),
        "topology_master": measure_client.topology_us(1000),
    }


def of_lifecycles(targets: dict[str, tuple[Target, int]], rounds: int) -> dict[str, Target]:
    """Load all targets in turn, round after round."""
    for number in range(rounds + 1):
        for target, connections in targets.values():
            target.measure(1.0, connections)
            if number == 0:  # that was to warm up
                target.forget()
    return {name: target for name, (target, _) in targets.items()}


def from_lifecycles(found: dict[str, Target], pieces: dict[str, float]) -> dict[str, float]:
    """Separate the costs that requests share from those of a request, by one connection that
    shares none.
    """
    single, full = found["one connection"], found["standalone"]
    # On 32 connections, a tenth of what one connection does not share falls to each request.
    api_us = statistics.median(single.api_us)
    api_shared_us = (api_us - statistics.median(full.api_us)) / 0.9
    redis_shared_us = (statistics.median(single.redis_us) - statistics.median(full.redis_us)) / 0.9
    # For the API that is two turns, and a piece sent and one read; for Redis a turn after a sleep,
    # and a read.
    piece_us = pieces["api_send"] + pieces["api_read"]
    return {
        "api_request": api_us - api_shared_us,
        "api_turn": (api_shared_us - piece_us) / 2,
        "redis_wake": redis_shared_us - pieces["redis_turn"] - pieces["redis_read"],
    }


def of_scheduler(folder: Path, binary: ServerBinary, shards: int) -> tuple[float, float]:
    """Return the idle cost per second of a scheduler that leads all shards, and of Redis."""
    port = free_port()
    with Embedded(
        folder / f"shards{shards}", binary=binary, masters=1, cluster=False, append_only=False
    ) as embedded:
        env = {
            "REDIS_URL": embedded.url,
            "OJS_SHARDS": str(shards),
            "OJS_SCHEDULER_PORT": str(port),
        }
        with running(["-m", "ojs_cluster.cli", "scheduler"], port, env) as pid:
            time.sleep(SETTLE_S)
            servers = [node.pid for node in embedded.nodes if node.pid is not None]
            before = cpu_s([pid]), cpu_s(servers)
            time.sleep(10.0)
            after = cpu_s([pid]), cpu_s(servers)
    own, redis = ((b - a) / 10.0 * 1e6 for a, b in zip(before, after, strict=True))
    return own, redis


def main() -> None:
    """Measure, and print the values of the file beside the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--observe", action="store_true", help="clusters of 1 to 3 masters, too")
    parser.add_argument(
        "--scheduler", action="store_true", help="schedulers at rest, too: a minute"
    )
    parser.add_argument("--server", default="auto")
    options = parser.parse_args()
    binary = find_server(options.server)
    filed, observed = costs.load()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder)
        targets = {
            name: (start(stack, path, binary, name, masters=masters), connections)
            for name, masters, connections in LIFECYCLES + (CLUSTERS if options.observe else ())
        }
        runs = of_lifecycles(targets, options.rounds)
        measured = of_redis(stack, path, binary) | of_api(stack, path, binary)
        measured |= from_lifecycles(runs, measured)
        if options.scheduler:
            few, many = (of_scheduler(path, binary, shards) for shards in (64, 512))
            for shards, (own, redis) in ((64, few), (512, many)):
                print(f"{shards} shards at rest: scheduler {own:.0f} us/s, Redis {redis:.0f} us/s")
            per_shard = (many[0] - few[0]) / (512 - 64)
            measured |= {
                "scheduler_idle": few[0] - 64 * per_shard,
                "scheduler_shard_idle": per_shard,
            }
    print_setting(binary, f"medians of {options.rounds} rounds of 1 s")
    base = runs["standalone"]
    at_rest = next(each for each in observed if not each.clustered and each.connections == 32)
    scale = {
        "api": at_rest.api_us / statistics.median(base.api_us),
        "redis": at_rest.redis_us / statistics.median(base.redis_us),
    }
    scale["topology"] = scale["scheduler"] = scale["api"]
    rows = [
        [
            name,
            f"{getattr(filed, name):.1f}",
            f"{us:.1f}",
            f"{us * scale[name.partition('_')[0]]:.1f}",
        ]
        for name, us in measured.items()
    ]
    print_table(["us", "costs.toml", "measured", "scaled"], rows)
    print()
    rows = [
        [
            name,
            *(f"{statistics.median(values):.1f}" for values in (run.api_us, run.redis_us)),
            f"{statistics.median(run.rates):.0f}",
            f"{statistics.median(run.api_us) / statistics.median(base.api_us):.2f}",
            f"{statistics.median(run.redis_us) / statistics.median(base.redis_us):.2f}",
            f"{statistics.median(run.rates) / statistics.median(base.rates):.2f}",
        ]
        for name, run in runs.items()
    ]
    ratios = ["API, ratio", "Redis, ratio", "requests/s, ratio"]
    heads = ["lifecycle", "API us", "Redis us", "requests/s", *ratios]
    print_table(heads, rows)


if __name__ == "__main__":
    main()
