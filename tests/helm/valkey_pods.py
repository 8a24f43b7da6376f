"""The bundled cluster's pods as processes of this machine: servers, sidecars, and the job.

Pods are servers that do not know each other. The commands are those of the rendered Job, sidecar
and probes. All DNS names of the cluster lead to this machine. The sidecar checks every second
instead of every five.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import select
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import redis

from ojs_cluster.server.embedded.ports import PortReservation, reserve_any
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedNode, ServerBinary
from ojs_cluster.server.supervision.process_spawner import spawn
from tests.helm.chart import Rendering
from tests.support.servers import wait_until

CLI = shutil.which("valkey-cli") or shutil.which("redis-cli")
SHELL = "/bin/sh"
PATIENCE_S = 120
LOOKS = 3
"""A change needs this many checks of a sidecar in a row; twice as many in a real pod."""


@dataclass
class Pod:
    """A server and the address of its cluster bus, which changes with a restart."""

    server: Embedded
    bus: PortReservation
    name: str
    """The name of the StatefulSet's pod and Service, by which the others find it."""

    @property
    def node(self) -> EmbeddedNode:
        return self.server.nodes[0]

    @property
    def here(self) -> str:
        """Return its address, as the sidecar gets it."""
        return f"{self.node.address}@{self.bus.port}"

    def lose(self) -> None:
        """Kill it and delete its data."""
        self.server.stop(graceful=False)
        shutil.rmtree(self.server.directory, ignore_errors=True)

    def move(self, host: str) -> None:
        """Announce this host from now on."""
        with self.node.client() as client:
            client.config_set("cluster-announce-human-nodename", host)

    @property
    def host(self) -> str:
        """Return the host that it announces."""
        with self.node.client() as client:
            found = client.config_get("cluster-announce-human-nodename")
        return str(found["cluster-announce-human-nodename"])

    def replace(self, directory: Path) -> Embedded:
        """Start another server in its place; return the old one, which lives on."""
        old = self.server
        self.server = Embedded(directory, binary=old.binary, cluster=False, config=old.config)
        self.bus = reserve_any()
        self.server.config["cluster-port"] = str(self.bus.port)
        self.server.start()
        return old

    def start(self, *, empty: bool) -> None:
        """Start it at another address, with or without its data."""
        self.server.stop()
        self.bus.release()
        self.bus = reserve_any()
        self.server.config["cluster-port"] = str(self.bus.port)
        self.node.port = 0
        (self.server.directory / "embedded.json").unlink(missing_ok=True)
        if empty:
            shutil.rmtree(self.server.directory, ignore_errors=True)
        self.server.start()

    def rows(self) -> list[list[str]]:
        """Return its CLUSTER NODES."""
        with self.node.client() as client:
            reply: bytes = client.execute_command("CLUSTER", "NODES")  # type: ignore[no-untyped-call]
        return [line.split() for line in reply.decode().splitlines()]

    def myself(self) -> list[str]:
        """Return its report about itself, because reports of others are late."""
        (own,) = (row for row in self.rows() if "myself" in row[2])
        return own

    def info(self) -> dict[str, str]:
        with self.node.client() as client:
            reply: bytes = client.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call]
        return dict(line.split(":") for line in reply.decode().split())


class AnyPod(socketserver.ThreadingTCPServer):
    """The Service without DNS: it leads each connection to one of the running pods."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, pods: list[Pod]) -> None:
        super().__init__(("127.0.0.1", 0), self._Connection)
        self.pods = pods
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()

    class _Connection(socketserver.BaseRequestHandler):
        server: AnyPod

        def handle(self) -> None:
            here = self.request
            to = ("127.0.0.1", random.choice(self.server.pods).node.port)
            with contextlib.suppress(OSError), socket.create_connection(to) as there:
                while True:
                    for source in select.select([here, there], [], [])[0]:
                        data = source.recv(65536)
                        if not data:
                            return
                        (there if source is here else here).sendall(data)


@dataclass
class Pods:
    """The pods of a rendering, with the commands of the chart."""

    all: list[Pod]
    rendering: Rendering
    directory: Path
    binary: ServerBinary
    password: str = ""
    replicas: int | None = None
    """Replicas of a master, if not as in the chart."""
    hasty: bool = True
    """Whether sidecars check more often than in a real pod."""
    service: str = ""
    """The address that leads to any of them."""
    _sidecars: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def nodes(self) -> list[EmbeddedNode]:
        return [pod.node for pod in self.all]

    def add(self, count: int, hosts: str = "") -> None:
        """Start pods until there are this many."""
        service = self.rendering.one("StatefulSet", "-valkey")["spec"]["serviceName"]
        for index in range(len(self.all), count):
            name = f"{service}-{index}.{service}"
            config = {
                "cluster-announce-ip": "127.0.0.1",
                "cluster-announce-hostname": name,
                "cluster-announce-human-nodename": hosts[index : index + 1] or f"host-{index}",
                "hash-max-listpack-value": "1024",
                "cluster-enabled": "yes",
                "cluster-config-file": "nodes.conf",
                "cluster-node-timeout": "2000",
                "cluster-require-full-coverage": "no",
                "cluster-allow-replica-migration": "no",
            }
            server = Embedded(
                self.directory / f"pod-{index}", binary=self.binary, cluster=False, config=config
            )
            pod = Pod(server, reserve_any(), name)
            self.all.append(pod)
            pod.start(empty=True)

    def stop(self) -> None:
        """End all servers."""
        for pod in self.all:
            pod.server.stop(graceful=False)
            pod.bus.release()

    def script(self, path: str) -> str:
        """Return a script that a container mounts."""
        local = self.directory / Path(path).name
        if not local.exists():  # a shell reads on in its script while it runs
            text: str = self.rendering.one("ConfigMap", "-valkey")["data"][local.name]
            if self.hasty:
                text = text.replace("period=5", "period=1")
                text = text.replace("patience=6", f"patience={LOOKS}")
            local.write_text(text)
        return str(local)

    def container(self, owner: str, name: str) -> dict[str, Any]:
        """Return a container of the first pod whose owner has this prefix."""
        (spec,) = [p["spec"] for kind, p in self.rendering.pods() if kind.startswith(owner)]
        (found,) = [c for c in spec["containers"] if c["name"] == name]
        result: dict[str, Any] = found
        return result

    def environment(self, pod: Pod | None = None) -> dict[str, str]:
        """Return the environment of a container of the Valkey image: its programs, and the password
        if any.
        """
        port = pod.node.port if pod else 0  # a probe asks the container's own server
        programs = self.directory / f"bin-{port}"
        if not programs.exists():
            programs.mkdir()
            program = programs / "valkey-cli"
            at_name = f'if [ "$2" = -h ]; then shift 3; exec {CLI} -e -h 127.0.0.1 "$@"; fi'
            program.write_text(
                f'#!/bin/sh\n{at_name}\nexec {CLI} {f"-p {port}" if pod else ""} "$@"\n'
            )
            program.chmod(0o755)
        secret = {"OJS_REDIS_PASSWORD": self.password} if self.password else {}
        return {"PATH": f"{programs}:{os.environ['PATH']}", **secret}

    def form(self) -> subprocess.Popen[bytes]:
        """Start the command of the Job."""
        program, script, names, masters = self.container("Job/", "form")["command"]
        assert program == "python"
        for module in ("nodes", "slots"):
            self.script(f"/scripts/valkey_{module}.py")
        assert names.split(",") == [f"{pod.name}:6379" for pod in self.all]
        here = ",".join(node.address for node in self.nodes)
        command = [sys.executable, self.script(script), here, masters]
        return spawn(command, output=self.directory / "form.log", env=self.environment())

    def formed(self, *jobs: subprocess.Popen[bytes]) -> None:
        """Wait until jobs have succeeded and the cluster is complete."""
        for job in jobs or (self.form(),):
            assert job.wait(PATIENCE_S) == 0, self.log("form")
        wait_until(self.is_one, timeout_s=PATIENCE_S, what="every node serves the cluster")

    def meet(self, *, outdated: bool = False) -> None:
        """Start the sidecar of each node, with its address and the others'.

        Args:
            outdated: DNS answers with the addresses of the last call.
        """
        self.end_sidecars()
        program, script, own, names, service = self.container("StatefulSet/", "meet")["command"]
        assert (program, own) == ("sh", "$(POD_IP):6379@16379")
        any_pod = self.rendering.one("Service", "-valkey-meet")
        assert service == f"{any_pod['metadata']['name']}:6379"
        self.script("/scripts/meet.awk")
        everybody = self.directory / "nodes" if outdated else self.write_names(names)
        for index, pod in enumerate(self.all):
            (self.directory / f"meet-{index}.log").unlink(missing_ok=True)
            process = spawn(
                [SHELL, self.script(script), pod.here, str(everybody), self.service],
                output=self.directory / f"meet-{index}.log",
                env=self.environment(),
            )
            self._sidecars.append(process)
        for index in range(len(self.all)):
            begun = partial(self._has_said, f"meet-{index}", "this node is at")
            wait_until(begun, timeout_s=PATIENCE_S, what=f"sidecar {index} runs")

    def write_names(self, path: str) -> Path:
        """Write the current addresses of all pods for the sidecars."""
        text: str = self.rendering.one("ConfigMap", "-valkey")["data"][Path(path).name]
        if self.replicas is not None:
            text = re.sub(r"^replicas .*", f"replicas {self.replicas}", text, flags=re.MULTILINE)
        for pod in self.all:
            text = text.replace(f"{pod.name}:6379", f"{pod.name}:{pod.node.port}")
        rows = [row for row in text.splitlines() if not row.endswith(":6379")]
        local = self.directory / "nodes.new"
        local.write_text("\n".join(rows) + "\n")
        return local.rename(self.directory / "nodes")

    def _has_said(self, name: str, text: str) -> bool:
        return text in self.log(name)

    def end_sidecars(self) -> None:
        """End them as Kubernetes does; their running commands may take a little longer."""
        for process in self._sidecars:
            assert process.poll() is None, "it ended by itself"
            process.terminate()
        for process in self._sidecars:
            assert process.wait(PATIENCE_S) == 0, "the signal ended it, not the script"
        self._sidecars.clear()

    def probe(self, pod: Pod, name: str) -> subprocess.CompletedProcess[str]:
        """Run a probe in a pod."""
        program, *options, script = self.container("StatefulSet/", "valkey")[name]["exec"][
            "command"
        ]
        assert program == "sh"
        return subprocess.run(
            [SHELL, *options, self.script(script)],
            env=self.environment(pod),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def is_ready(self, pod: Pod) -> bool:
        return self.probe(pod, "readinessProbe").returncode == 0

    def is_one(self) -> bool:
        """Return whether every node serves the cluster and replicas are in sync."""
        for pod in self.all:
            with contextlib.suppress(redis.RedisError), pod.node.client() as client:
                link = client.info("replication").get("master_link_status", "up")
                if (pod.info()["cluster_state"], link) == ("ok", "up"):
                    continue
            return False
        return True

    def layout(self) -> dict[str, tuple[str, ...]]:
        """Return role, master and slots of every node."""
        found = {}
        for pod in self.all:
            own = pod.myself()
            found[own[0]] = (own[2].removeprefix("myself,"), own[3], *own[8:])
        return found

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()


@contextlib.contextmanager
def pods(
    rendering: Rendering,
    binary: ServerBinary,
    directory: Path,
    *,
    count: int = 6,
    hosts: str = "",
    replicas: int | None = None,
    hasty: bool = True,
) -> Iterator[Pods]:
    """Start servers as the StatefulSet does, with their sidecars.

    Args:
        rendering: the rendered chart.
        binary: the server.
        directory: for data, scripts and logs.
        count: how many pods.
        hosts: a letter for the host of each.
        replicas: replicas of a master, if not as in the chart.
        hasty: whether sidecars check more often than in a real pod.
    """
    started = Pods([], rendering, directory, binary, replicas=replicas, hasty=hasty)
    with contextlib.ExitStack() as stack:
        stack.callback(started.stop)
        service = AnyPod(started.all)
        stack.callback(service.stop)
        started.service = f"127.0.0.1:{service.server_address[1]}"
        started.add(count, hosts)
        stack.callback(started.end_sidecars)
        started.meet()
        yield started
