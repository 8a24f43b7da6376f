"""A Valkey or Redis server, or a whole cluster of them, as children of this process.

``ojs-cluster dev`` runs one cluster in a folder, and the tests start many servers. This module is
synchronous, so that tests can use it in fixtures and in any thread.

An installation is a directory with a file that records its shape (number of masters and replicas)
and its ports. The next start in this directory runs the same nodes with the same slots and data. If
another process uses a recorded port, the node gets another port and joins the cluster again with
CLUSTER MEET. It keeps its node id and slots.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis

from ojs_cluster.server.embedded import cluster as embedded_cluster
from ojs_cluster.server.embedded.binaries import (
    CHOICES,
    ServerBinary,
    ServerNotFound,
    find_server,
)
from ojs_cluster.server.embedded.node import HOST, EmbeddedError, EmbeddedNode
from ojs_cluster.server.embedded.ports import reserve, reserve_any
from ojs_cluster.server.private_files import open_private
from ojs_cluster.server.supervision.process_spawner import spawn

__all__ = [
    "CHOICES",
    "Embedded",
    "EmbeddedError",
    "EmbeddedNode",
    "ServerBinary",
    "ServerNotFound",
    "find_server",
]

_POLL_S = 0.02
_HAS_GLIBC = platform.libc_ver()[0] == "glibc"
_ALLOCATOR = "glibc.malloc.tcache_count=2000"
"""How many free pieces of each size up to 1 KiB glibc keeps ready, instead of 7.

Jobs in listpacks grow with each transition, and their old pieces have many sizes. Without this,
glibc searches the holes of the heap for a third of a job's processor time (ADR 14). Other
allocators ignore it."""
_SHAPE_FILE = "embedded.json"


class Embedded:
    """Server processes in one directory; a context manager that starts and stops them."""

    def __init__(
        self,
        directory: Path,
        *,
        binary: ServerBinary,
        masters: int = 3,
        replicas: int = 0,
        cluster: bool = True,
        append_only: bool = True,
        node_timeout_ms: int = 5000,
        config: Mapping[str, str] | None = None,
        password: str = "",
        start_timeout_s: float = 60.0,
    ) -> None:
        """Describe the installation; nothing is started or written yet.

        Args:
            directory: folder of the installation, with one folder per node; created if it is
                missing.
            binary: the server program, from ``find_server``.
            masters: number of masters. A cluster needs at least 3 to elect a new master. A
                standalone server has always 1.
            replicas: number of replicas per master; a standalone server has none.
            cluster: whether to form a cluster; False for a standalone server.
            append_only: whether to keep an append-only file, so that data survives a restart.
            node_timeout_ms: time in milliseconds after which a silent node counts as failed.
            config: further directives of the server, such as {"maxmemory": "100mb"}.
            password: password for clients and replicas; empty for none.
            start_timeout_s: maximum time in seconds until all nodes accept commands and have
                formed the cluster.
        """
        if not cluster and (masters, replicas) != (1, 0):
            masters, replicas = 1, 0
        self.directory = directory.absolute()
        self.binary = binary
        self.cluster = cluster
        self.master_count = masters
        self.replicas = replicas
        self.append_only = append_only
        self.node_timeout_ms = node_timeout_ms
        self.config = dict(config or {})
        self.password = password
        self.start_timeout_s = start_timeout_s
        self.nodes = [
            EmbeddedNode(index, self.directory / f"node-{index}", password=password)
            for index in range(masters * (1 + replicas))
        ]

    # -- start and stop -----------------------------------------------------------------------

    def start(self) -> None:
        """Start every node and, in a cluster, wait until all slots are served.

        Raises:
            EmbeddedError: a node ended or the cluster did not form in time, or the directory
                belongs to an installation of another shape.
        """
        deadline = time.monotonic() + self.start_timeout_s
        try:
            self._load_shape()
            for node in self.nodes:
                self._spawn(node)
            for node in self.nodes:
                self._wait_until_serving(node, deadline)
            if self.cluster:
                embedded_cluster.form(
                    self.nodes,
                    self.master_count,
                    lambda condition, what: self._wait_until(condition, deadline, what),
                )
            self._save_shape()
        except BaseException:
            self.stop(graceful=False)
            raise

    def stop(self, *, graceful: bool = True) -> None:
        """End every node and release its ports; a second call does nothing.

        Args:
            graceful: whether to send SIGTERM, so that the server syncs its AOF to disk, and SIGKILL
                only after 10 seconds; otherwise SIGKILL is sent at once.
        """
        for node in self.nodes:
            if node.is_alive():
                node_process = node.process
                assert node_process is not None  # noqa: S101 - for mypy: is_alive() says so
                node_process.send_signal(signal.SIGTERM if graceful else signal.SIGKILL)
                node_process.send_signal(signal.SIGCONT)  # a paused node would not handle SIGTERM
        for node in self.nodes:
            self._reap(node, timeout_s=10)
            for reservation in node.reservations:
                reservation.release()
            node.reservations.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # -- faults that tests cause --------------------------------------------------------------

    def kill(self, node: EmbeddedNode) -> None:
        """Send SIGKILL to a node; its ports stay reserved for ``restart``."""
        if node.is_alive():
            assert node.process is not None  # noqa: S101 - for mypy: is_alive() says so
            node.process.kill()
        self._reap(node, timeout_s=10)

    def restart(self, node: EmbeddedNode, closing: threading.Event | None = None) -> None:
        """Start a node that was killed, on the same port, and wait until it answers PING.

        Args:
            node: the node.
            closing: ends the wait when another thread sets it.

        Raises:
            EmbeddedError: the node ended or did not answer in time, or ``closing`` was set.
            OSError: the process could not be started.
        """
        self._spawn(node)
        self._wait_until_serving(node, time.monotonic() + self.start_timeout_s, closing)

    def pause(self, node: EmbeddedNode) -> None:
        """Send SIGSTOP: the node keeps its connections and answers nothing."""
        self._signal(node, signal.SIGSTOP)

    def resume(self, node: EmbeddedNode) -> None:
        """Send SIGCONT after ``pause``."""
        self._signal(node, signal.SIGCONT)

    def _signal(self, node: EmbeddedNode, number: signal.Signals) -> None:
        if node.process is None:
            raise EmbeddedError(f"node {node.index} was never started")
        node.process.send_signal(number)

    # -- the current shape --------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Every node as one REDIS_URL: ``redis://127.0.0.1:7001,127.0.0.1:7002``."""
        credentials = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{credentials}" + ",".join(node.address for node in self.nodes)

    def masters(self) -> list[EmbeddedNode]:
        """Return the nodes that are masters with slots, as the first running node reports them."""
        if not self.cluster:
            return list(self.nodes)
        rows = embedded_cluster.cluster_nodes(self.nodes).values()
        return [row.node for row in rows if row.is_master and row.has_slots and not row.failed]

    # -- processes ----------------------------------------------------------------------------

    def _spawn(self, node: EmbeddedNode) -> None:
        """Start the process on its recorded ports; replace a recorded port that is in use.

        A node that was killed still has its reservations and keeps its ports.
        """
        if node.is_alive():
            raise EmbeddedError(f"node {node.index} is running")
        node.directory.mkdir(parents=True, exist_ok=True)
        if not node.reservations:
            reservations = [reserve(port) if port else None for port in self._recorded_ports(node)]
            node.reservations = [reservation or reserve_any() for reservation in reservations]
        node.port = node.reservations[0].port
        if self.cluster:
            node.bus_port = node.reservations[1].port
        config = node.directory / "server.conf"
        with open(config, "w", opener=open_private) as file:
            file.write(self._configuration(node))
        node.process = spawn(
            [str(self.binary.path), str(config)],
            output=node.log,
            env={"GLIBC_TUNABLES": _ALLOCATOR, **os.environ},
        )

    def _recorded_ports(self, node: EmbeddedNode) -> list[int]:
        return [node.port, node.bus_port] if self.cluster else [node.port]

    def _configuration(self, node: EmbeddedNode) -> str:
        directives = {
            "bind": HOST,
            "port": str(node.port),
            "protected-mode": "yes",
            "dir": _quoted(str(node.directory)),
            "save": '""',
            "appendonly": "yes" if self.append_only else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "tcp-backlog": "511",
            "repl-diskless-sync-delay": "0",
            "shutdown-timeout": "2",
        }
        if self.password:
            directives |= {
                "requirepass": _quoted(self.password),
                "masterauth": _quoted(self.password),
            }
        if self.binary.jemalloc or _HAS_GLIBC:
            # The default of 64 bytes would take 1.5 times the memory per job. The pieces of larger
            # jobs outgrow the cache of glibc (ADR 14).
            directives["hash-max-listpack-value"] = "1024" if self.binary.jemalloc else "512"
        if self.cluster:
            directives |= {
                "cluster-enabled": "yes",
                "cluster-port": str(node.bus_port),
                "cluster-config-file": "nodes.conf",
                "cluster-node-timeout": str(self.node_timeout_ms),
                "cluster-allow-replica-migration": "no",
                # Otherwise the whole cluster refuses commands when one master is lost.
                "cluster-require-full-coverage": "no",
            }
        directives |= self.config
        return "".join(f"{name} {value}\n" for name, value in directives.items())

    def _wait_until_serving(
        self, node: EmbeddedNode, deadline: float, closing: threading.Event | None = None
    ) -> None:
        def answers() -> bool:
            if closing is not None and closing.is_set():
                raise EmbeddedError(f"node {node.index} did not answer before the wait was ended")
            if not node.is_alive():
                raise EmbeddedError(f"node {node.index} ended at its start:\n{node.log_tail()}")
            with contextlib.suppress(redis.RedisError), node.client(timeout_s=2) as client:
                return bool(client.ping())
            return False

        self._wait_until(answers, deadline, f"node {node.index} answers PING")

    def _wait_until(self, condition: Callable[[], bool], deadline: float, what: str) -> None:
        """Wait until ``condition`` returns true.

        Args:
            condition: the condition.
            deadline: end of the wait, in seconds of the monotonic clock.
            what: description of the condition, for the error message.

        Raises:
            EmbeddedError: the condition was still false at the deadline.
        """
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"node {node.index}:\n{node.log_tail(5)}" for node in self.nodes)
                raise EmbeddedError(f"not reached in {self.start_timeout_s} s: {what}\n{logs}")
            time.sleep(_POLL_S)

    def _reap(self, node: EmbeddedNode, timeout_s: float) -> None:
        """Wait for the end of the process; send SIGKILL after the timeout."""
        if node.process is None:
            return
        try:
            node.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            node.process.kill()
            node.process.wait()

    # -- the recorded shape -------------------------------------------------------------------

    def _shape(self) -> dict[str, object]:
        return {
            "cluster": self.cluster,
            "masters": self.master_count,
            "replicas": self.replicas,
        }

    def _load_shape(self) -> None:
        try:
            record = json.loads((self.directory / _SHAPE_FILE).read_bytes())
        except FileNotFoundError:
            return
        recorded_shape = {name: record[name] for name in self._shape()}
        if recorded_shape != self._shape():
            raise EmbeddedError(
                f"{self.directory} holds an installation of another shape ({recorded_shape}, "
                f"requested: {self._shape()}): use another folder, or delete this folder"
            )
        for node, (port, bus_port) in zip(self.nodes, record["ports"], strict=True):
            if not node.reservations:
                node.port, node.bus_port = port, bus_port

    def _save_shape(self) -> None:
        record = {
            **self._shape(),
            "ports": [[node.port, node.bus_port] for node in self.nodes],
            "server": f"{self.binary.kind} {self.binary.version}",
        }
        temporary = self.directory / f"{_SHAPE_FILE}.new"
        temporary.write_text(json.dumps(record, indent=2) + "\n")
        temporary.replace(self.directory / _SHAPE_FILE)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
