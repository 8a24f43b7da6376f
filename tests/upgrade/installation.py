"""An installation whose processes are replaced by those of another version, one after the other.

Its proxy behaves as a load balancer does: a new node gets requests when it is ready, and an old one
gets SIGTERM when it has no request left.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ojs_cluster.server.embedded.servers import Embedded
from tests.support.deployment import TOPOLOGIES, backend_of
from tests.support.nodes import NOTHING, ApiNode, Environment, Process, scheduler
from tests.support.proxy import Address, InFlight, proxy
from tests.support.servers import wait_until

NODES = 2


@dataclass(slots=True)
class Installation:
    """Processes of one or two versions on one cluster.

    Args:
        backend: the cluster.
        directory: for logs.
        env: variables of all processes.
    """

    backend: Embedded
    directory: Path
    env: Environment
    url: str = ""
    nodes: list[ApiNode] = field(default_factory=list)
    schedulers: list[Process] = field(default_factory=list)
    addresses: list[Address] = field(default_factory=list)
    """Where the proxy sends requests."""
    in_flight: InFlight = field(default_factory=InFlight)
    _number: Iterator[int] = field(default_factory=itertools.count)

    def start(self, version: Environment) -> None:
        """Start two nodes and a scheduler of one version, and return when the nodes are ready."""
        for _ in range(NODES):
            self.nodes.append(self._new_node(version))
            self.nodes[-1].process.start()
        self._add_scheduler(version)
        for node in self.nodes:
            node.await_ready()
            self.addresses.append(node.address)

    async def replace_nodes(self, version: Environment) -> None:
        """Start new nodes, then replace one old node after the other."""
        former = tuple(self.nodes)
        for _ in former:
            self.nodes.append(self._new_node(version))
            self.nodes[-1].process.start()
        for old, new in zip(former, self.nodes[len(former) :], strict=True):
            await trio.to_thread.run_sync(self._replace_node, old, new)

    async def replace_schedulers(self, version: Environment) -> None:
        """Start new schedulers, then stop one old scheduler after the other."""
        former = tuple(self.schedulers)
        for _ in former:
            self._add_scheduler(version)
        for old in former:
            await trio.to_thread.run_sync(old.stop)
            self.schedulers.remove(old)

    def stop(self) -> None:
        """Stop all processes."""
        with contextlib.ExitStack() as stack:
            for node in self.nodes:
                stack.callback(node.stop)
            for process in self.schedulers:
                stack.callback(process.stop)

    def logs(self) -> str:
        """Return the last lines of all logs, for failure messages."""
        processes = [*(node.process for node in self.nodes), *self.schedulers]
        return "\n".join(process.log_tail() for process in processes)

    def _replace_node(self, old: ApiNode, new: ApiNode) -> None:
        new.await_ready()
        self.addresses.append(new.address)
        self.addresses.remove(old.address)
        wait_until(lambda: self.in_flight.of(old.address) == 0, what="the old node is idle")
        old.stop()
        self.nodes.remove(old)

    def _new_node(self, version: Environment) -> ApiNode:
        name = f"node-{next(self._number)}"
        env = {**self.env, **version}
        return ApiNode(name, self.directory, self.backend.url, workers=1, env=env)

    def _add_scheduler(self, version: Environment) -> None:
        name = f"scheduler-{next(self._number)}"
        process = scheduler(name, self.directory, self.backend.url, {**self.env, **version})
        self.schedulers.append(process)
        process.start()


@contextlib.contextmanager
def installed(
    directory: Path, version: Environment, env: Environment = NOTHING
) -> Iterator[Installation]:
    """Run three masters, two nodes and a scheduler, all of one version.

    Raises:
        ServerNotFound: this machine has no server of that kind.
    """
    with contextlib.ExitStack() as stack:
        backend = backend_of(directory, TOPOLOGIES["valkey-cluster"])
        backend.start()
        stack.callback(backend.stop, graceful=False)
        running = Installation(backend, directory, env)
        stack.callback(running.stop)
        running.start(version)
        running.url = stack.enter_context(
            proxy(directory, running.addresses, "python", running.in_flight)
        )
        yield running
