"""A Valkey or Redis server, or a whole cluster of them, as children of this process.

`ojs-cluster dev` keeps one in a folder; the tests start many. Everything here is synchronous and
built on subprocesses, so that tests can use it from fixtures and from any thread.

A directory is one installation: it records its shape and ports, and starting again in it gives
the same nodes with the same slots and data. When a recorded port has been taken meanwhile, the
node moves to another one and introduces itself again (CLUSTER MEET); ids and slots stay.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from ojs_cluster.server.binaries import (
    CHOICES,
    ServerBinary,
    ServerNotFound,
    find_server,
)
from ojs_cluster.server.children import spawn
from ojs_cluster.server.ports import PortReservation, reserve, reserve_any

__all__ = [
    "CHOICES",
    "Embedded",
    "EmbeddedError",
    "Node",
    "ServerBinary",
    "ServerNotFound",
    "find_server",
]

HOST = "127.0.0.1"
SLOTS = 16_384
_POLL_S = 0.02
_SHAPE_FILE = "embedded.json"


class EmbeddedError(Exception):
    """A server did not start or the cluster did not form; the message ends with its log."""


@dataclass(slots=True)
class Node:
    """One server process.

    Attributes:
        index: 0-based; masters come before replicas.
        directory: its configuration, log, AOF and cluster state.
        port: where clients connect, 0 before the first start.
    """

    index: int
    directory: Path
    port: int = 0
    bus_port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _reservations: list[PortReservation] = field(default_factory=list, repr=False)

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id; raises EmbeddedError when the node was never started."""
        if self._process is None:
            raise EmbeddedError(f"node {self.index} is not running")
        return self._process.pid

    def is_alive(self) -> bool:
        """Tell whether the process exists (it may still refuse commands)."""
        return self._process is not None and self._process.poll() is None

    @contextlib.contextmanager
    def client(self, *, timeout_s: float = 5.0) -> Iterator[redis.Redis]:
        """Open a redis-py client of this node alone."""
        connection = redis.Redis(
            host=HOST, port=self.port, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )
        try:
            yield connection
        finally:
            connection.close()

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of the server's log."""
        try:
            text = (self.directory / "server.log").read_text(errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])


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
        start_timeout_s: float = 60.0,
    ) -> None:
        """Describe the installation; nothing is started or written yet.

        Args:
            directory: made when missing; holds one folder per node.
            binary: the program, from `find_server`.
            masters: at least 3 in a cluster (a smaller one cannot elect); 1 otherwise.
            replicas: per master.
            cluster: False for a standalone server.
            append_only: keep an append-only file, so that data survives a restart.
            node_timeout_ms: after which a silent node is suspected dead.
            config: more server directives, for example {"maxmemory": "100mb"}.
            start_timeout_s: for all nodes together to accept commands and form the cluster.
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
        self.start_timeout_s = start_timeout_s
        self.nodes = [
            Node(index, self.directory / f"node-{index}")
            for index in range(masters * (1 + replicas))
        ]

    # -- life ---------------------------------------------------------------------------------

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
                self._await_serving(node, deadline)
            if self.cluster:
                self._form_cluster(deadline)
            self._save_shape()
        except BaseException:
            self.stop(graceful=False)
            raise

    def stop(self, *, graceful: bool = True) -> None:
        """End every node and give its ports back; a second call does nothing.

        Args:
            graceful: ask with SIGTERM first, so that the AOF is synced to disk; SIGKILL after 10 s.
        """
        for node in self.nodes:
            if node.is_alive():
                node_process = node._process
                assert node_process is not None  # noqa: S101 - for mypy: is_alive() says so
                node_process.send_signal(signal.SIGTERM if graceful else signal.SIGKILL)
                node_process.send_signal(signal.SIGCONT)
        for node in self.nodes:
            self._reap(node, timeout_s=10)
            for reservation in node._reservations:
                reservation.release()
            node._reservations.clear()

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

    # -- what a test does to it ---------------------------------------------------------------

    def kill(self, node: Node) -> None:
        """SIGKILL a node; its ports stay reserved for `restart`."""
        if node.is_alive():
            assert node._process is not None  # noqa: S101 - for mypy: is_alive() says so
            node._process.kill()
        self._reap(node, timeout_s=10)

    def restart(self, node: Node) -> None:
        """Start a node that was killed, on the same port, and wait until it answers PING."""
        self._spawn(node)
        self._await_serving(node, time.monotonic() + self.start_timeout_s)

    def pause(self, node: Node) -> None:
        """SIGSTOP: the node keeps its connections and answers nothing."""
        self._signal(node, signal.SIGSTOP)

    def resume(self, node: Node) -> None:
        """SIGCONT after `pause`."""
        self._signal(node, signal.SIGCONT)

    def _signal(self, node: Node, number: signal.Signals) -> None:
        if node._process is None:
            raise EmbeddedError(f"node {node.index} is not running")
        node._process.send_signal(number)

    # -- what a test asks it ------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Every node as one REDIS_URL: `redis://127.0.0.1:7001,127.0.0.1:7002`."""
        return "redis://" + ",".join(node.address for node in self.nodes)

    def masters(self) -> list[Node]:
        """Nodes that are masters with slots now, as the first living node sees it."""
        if not self.cluster:
            return list(self.nodes)
        rows = self._view().values()
        return [row.node for row in rows if row.is_master and row.has_slots and not row.failed]

    def replica_of(self, master: Node) -> list[Node]:
        """Nodes that replicate this master now and are not marked failed."""
        view = self._view()
        ids = {row_id for row_id, row in view.items() if row.node is master}
        return [row.node for row in view.values() if row.master_id in ids and not row.failed]

    def _view(self) -> dict[str, _Row]:
        """CLUSTER NODES as seen by a living node, rows of unknown addresses left out."""
        for node in self.nodes:
            if node.is_alive():
                with contextlib.suppress(redis.RedisError), node.client() as client:
                    return _parse_nodes(_cluster(client, "NODES"), self.nodes)
        raise EmbeddedError("no node answers CLUSTER NODES")

    # -- processes ----------------------------------------------------------------------------

    def _spawn(self, node: Node) -> None:
        """Start the process; a new node tries other ports when one is taken after all."""
        if node.is_alive():
            raise EmbeddedError(f"node {node.index} is running")
        node.directory.mkdir(parents=True, exist_ok=True)
        if not node._reservations:
            reservations = [reserve(port) if port else None for port in self._wanted(node)]
            node._reservations = [taken or reserve_any() for taken in reservations]
        node.port = node._reservations[0].port
        if self.cluster:
            node.bus_port = node._reservations[1].port
        config = node.directory / "server.conf"
        config.write_text(self._configuration(node))
        node._process = spawn(
            [str(self.binary.path), str(config)], output=node.directory / "server.log"
        )

    def _wanted(self, node: Node) -> list[int]:
        return [node.port, node.bus_port] if self.cluster else [node.port]

    def _configuration(self, node: Node) -> str:
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
        if self.cluster:
            directives |= {
                "cluster-enabled": "yes",
                "cluster-port": str(node.bus_port),
                "cluster-config-file": "nodes.conf",
                "cluster-node-timeout": str(self.node_timeout_ms),
                "cluster-allow-replica-migration": "no",
            }
        directives |= self.config
        return "".join(f"{name} {value}\n" for name, value in directives.items())

    def _await_serving(self, node: Node, deadline: float) -> None:
        def answers() -> bool:
            if not node.is_alive():
                raise EmbeddedError(f"node {node.index} ended at its start:\n{node.log_tail()}")
            with contextlib.suppress(redis.RedisError), node.client(timeout_s=2) as client:
                return bool(client.ping())
            return False

        self._await(answers, deadline, f"node {node.index} answers PING")

    def _reap(self, node: Node, timeout_s: float) -> None:
        if node._process is None:
            return
        try:
            node._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            node._process.kill()
            node._process.wait()

    # -- the cluster --------------------------------------------------------------------------

    def _form_cluster(self, deadline: float) -> None:
        """Give slots and epochs to new masters, introduce all nodes, attach the replicas."""
        fresh = [node for node in self.nodes[: self.master_count] if self._is_fresh(node)]
        if len(fresh) == self.master_count:
            for node in fresh:
                first = node.index * SLOTS // self.master_count
                last = (node.index + 1) * SLOTS // self.master_count - 1
                with node.client() as client:
                    _cluster(client, "ADDSLOTSRANGE", first, last)
                    # Distinct epochs from the start: equal ones would collide for a while.
                    _cluster(client, "SET-CONFIG-EPOCH", node.index + 1)
        self._introduce()
        self._await(self._all_known, deadline, "every node knows every node")
        if len(fresh) == self.master_count:
            self._attach_replicas(deadline)
        self._await(self._all_ok, deadline, "every slot is served and every replica in sync")

    def _is_fresh(self, node: Node) -> bool:
        with node.client() as client:
            info = _cluster_info(client)
        return info["cluster_slots_assigned"] == "0" and info["cluster_known_nodes"] == "1"

    def _introduce(self) -> None:
        for node in self.nodes:
            with node.client() as client:
                for other in self.nodes:
                    if other is not node:
                        _cluster(client, "MEET", HOST, other.port, other.bus_port)

    def _attach_replicas(self, deadline: float) -> None:
        for node in self.nodes[self.master_count :]:
            master = self.nodes[(node.index - self.master_count) % self.master_count]
            with master.client() as client:
                master_id = _cluster(client, "MYID").decode()
            with node.client() as client:
                _cluster(client, "REPLICATE", master_id)
        self._await(self._all_ok, deadline, "every replica is in sync")

    def _all_known(self) -> bool:
        """Every node sees every node at its present address, no handshake left."""
        for node in self.nodes:
            with node.client() as client:
                text = _cluster(client, "NODES")
            rows = _parse_nodes(text, self.nodes).values()
            if len(rows) != len(self.nodes) or any(row.handshake for row in rows):
                return False
        return True

    def _all_ok(self) -> bool:
        for node in self.nodes:
            with node.client() as client:
                if _cluster_info(client)["cluster_state"] != "ok":
                    return False
                link: dict[str, Any] = client.info("replication")
            if link["role"] == "slave" and link["master_link_status"] != "up":
                return False
        return True

    def _await(self, condition: Callable[[], bool], deadline: float, what: str) -> None:
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"node {n.index}:\n{n.log_tail(5)}" for n in self.nodes)
                raise EmbeddedError(f"not reached in {self.start_timeout_s} s: {what}\n{logs}")
            time.sleep(_POLL_S)

    # -- the record ---------------------------------------------------------------------------

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
        known = {name: record[name] for name in self._shape()}
        if known != self._shape():
            raise EmbeddedError(
                f"{self.directory} holds an installation of another shape "
                f"({known}, asked for {self._shape()}): use another folder, or delete this one"
            )
        for node, (port, bus_port) in zip(self.nodes, record["ports"], strict=True):
            if not node._reservations:
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


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of CLUSTER NODES."""

    node: Node
    is_master: bool
    has_slots: bool
    failed: bool
    handshake: bool
    master_id: str


def _parse_nodes(text: bytes, nodes: list[Node]) -> dict[str, _Row]:
    by_port = {node.port: node for node in nodes}
    rows: dict[str, _Row] = {}
    for line in text.decode().splitlines():
        row_id, address, flag_text, master_id, *rest = line.split()
        node = by_port.get(int(address.split("@")[0].rpartition(":")[2]))
        if node is None:
            continue
        flags = flag_text.split(",")
        rows[row_id] = _Row(
            node=node,
            is_master="master" in flags,
            has_slots=any(not slot.startswith("[") for slot in rest[4:]),
            failed="fail" in flags or "noaddr" in flags,
            handshake="handshake" in flags,
            master_id=master_id,
        )
    return rows


def _cluster(client: redis.Redis, *args: str | int) -> bytes:
    # Named in two words, the command escapes redis-py's parsers: the raw reply is what we read.
    reply: bytes = client.execute_command("CLUSTER", *args)  # type: ignore[no-untyped-call] # redis-py's own
    return reply


def _cluster_info(client: redis.Redis) -> dict[str, str]:
    lines = _cluster(client, "INFO").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
