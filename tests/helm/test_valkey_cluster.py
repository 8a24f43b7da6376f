"""The bundled cluster forms itself and stays one: the chart's own script, on real servers.

Pods are six servers that know nothing of each other. The commands are those of the rendered Job and
sidecar; only the names that a cluster's DNS knows are replaced.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis

from ojs_cluster.server.children import spawn
from ojs_cluster.server.embedded import Embedded, Node, ServerBinary
from ojs_cluster.server.ports import reserve_any
from tests.helm.chart import CHART, Chart, Rendering
from tests.support.nodes import ApiNode
from tests.support.servers import wait_until

MASTERS, NODES, SLOTS = 3, 6, 16384


@dataclass(frozen=True)
class Pods:
    """Servers as the StatefulSet starts them, and the chart's commands for them."""

    servers: Sequence[Embedded]
    buses: Sequence[int]
    rendering: Rendering
    directory: Path

    @property
    def nodes(self) -> list[Node]:
        return [server.nodes[0] for server in self.servers]

    def command(self, pod: str, container: str) -> list[str]:
        """A container's command, to be run here."""
        (spec,) = [p["spec"] for name, p in self.rendering.pods() if name.startswith(pod)]
        (found,) = [c for c in spec["containers"] if c["name"] == container]
        program, script, verb, names, *rest = found["command"]
        assert program == "python"
        assert len(names.split(",")) == len(self.servers)
        here = ",".join(
            f"{node.address}@{bus}" for node, bus in zip(self.nodes, self.buses, strict=True)
        )
        local = self.directory / Path(script).name
        local.write_text(self.rendering.one("ConfigMap", "-valkey")["data"][local.name])
        return [sys.executable, str(local), verb, here, *rest]

    def form(self, password: str = "") -> subprocess.Popen[bytes]:
        """Start what the Job runs."""
        environment = {"OJS_REDIS_PASSWORD": password} if password else {}
        command = self.command("Job/", "form")
        return spawn(command, output=self.directory / "form.log", env=environment)

    @contextlib.contextmanager
    def meeting(self) -> Iterator[None]:
        """Run the sidecar of one pod."""
        command = self.command("StatefulSet/", "meet")
        process = spawn(command, output=self.directory / "meet.log", env={})
        try:
            yield
            assert process.poll() is None, (self.directory / "meet.log").read_text()
        finally:
            process.kill()
            process.wait()

    def start(self) -> None:
        """Start every server at a new address, with what it remembers."""
        for server in self.servers:
            (server.directory / "embedded.json").unlink(missing_ok=True)
            server.start()

    def rows(self, node: Node) -> list[list[str]]:
        """CLUSTER NODES as one of them sees it."""
        with node.client() as client:
            reply: bytes = client.execute_command("CLUSTER", "NODES")  # type: ignore[no-untyped-call]
        return [line.split() for line in reply.decode().splitlines()]

    def is_one(self) -> bool:
        """Whether every node serves the cluster and replicas are in sync."""
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError), node.client() as client:
                info: bytes = client.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call]
                link = client.info("replication")
                if b"cluster_state:ok" in info and link.get("master_link_status", "up") == "up":
                    continue
            return False
        return True


@pytest.fixture
def pods(chart: Chart, server_binary: ServerBinary, tmp_path: Path) -> Iterator[Pods]:
    rendering = chart.render(CHART / "ci" / "bundled-cluster-values.yaml")
    with contextlib.ExitStack() as stack:
        buses = []
        servers = []
        for index in range(NODES):
            bus = reserve_any()
            stack.callback(bus.release)
            buses.append(bus.port)
            config = {
                "hash-max-listpack-value": "1024",
                "cluster-enabled": "yes",
                "cluster-config-file": "nodes.conf",
                "cluster-port": str(bus.port),
                "cluster-node-timeout": "2000",
                "cluster-require-full-coverage": "no",
            }
            server = Embedded(
                tmp_path / f"pod-{index}", binary=server_binary, cluster=False, config=config
            )
            stack.callback(server.stop, graceful=False)
            servers.append(server)
        started = Pods(servers, buses, rendering, tmp_path)
        started.start()
        yield started


def finish(pods: Pods, *processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        assert process.wait(60) == 0, (pods.directory / "form.log").read_text()
    wait_until(pods.is_one, what="every node serves the cluster")


def layout(pods: Pods) -> dict[str, tuple[str, ...]]:
    """Role, master and slots of every node, as it says itself: what others hear is late."""
    found = {}
    for node in pods.nodes:
        (own,) = (row for row in pods.rows(node) if "myself" in row[2])
        found[own[0]] = (own[2].removeprefix("myself,"), own[3], *own[8:])
    return found


def slots(pods: Pods) -> list[str]:
    """Slots of every master."""
    parts = layout(pods).values()
    return sorted(",".join(given) for role, _, *given in parts if role == "master")


EQUAL = ["0-5460", "10922-16383", "5461-10921"]


def test_pods_become_a_cluster_and_another_run_changes_nothing(pods: Pods) -> None:
    finish(pods, pods.form(), pods.form())  # a retry may overlap what it retries

    before = layout(pods)
    assert slots(pods) == EQUAL
    masters = [id_ for id_, (role, *_) in before.items() if role == "master"]
    replicas = Counter(master for role, master, *_ in before.values() if role == "slave")
    assert replicas == dict.fromkeys(masters, 1)

    finish(pods, pods.form())
    assert layout(pods) == before


def test_the_server_waits_for_a_cluster_that_is_not_formed_yet(pods: Pods, tmp_path: Path) -> None:
    # As in an installation: API pods, servers and the job all start at once.
    url = "redis://" + ",".join(node.address for node in pods.nodes[:3])
    api = ApiNode("api", tmp_path, url, workers=1)
    try:
        api.process.start()
        wait_until(lambda: answers(f"{api.url}/live"), timeout_s=60, what="it lives")
        assert not api.is_ready()
        finish(pods, pods.form())
        api.await_ready(60)
        job = {"type": "t", "args": []}
        assert httpx.post(f"{api.url}/ojs/v1/jobs", json=job, timeout=30).status_code == 201
    finally:
        api.stop()


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=10).is_success
    return False


def test_a_run_that_was_interrupted_is_completed(pods: Pods) -> None:
    with pods.nodes[1].client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 5461, 10921)  # type: ignore[no-untyped-call]
    for node in pods.nodes:
        with node.client() as client:
            client.config_set("masterauth", "secret", "requirepass", "secret")

    assert pods.form("secret").wait(60) == 0, (pods.directory / "form.log").read_text()

    for node in pods.nodes:
        with redis.Redis("127.0.0.1", node.port, password="secret") as client:
            client.config_set("requirepass", "")
    wait_until(pods.is_one, what="every node serves the cluster")

    assert slots(pods) == EQUAL


def test_nodes_find_each_other_when_every_address_has_changed(pods: Pods) -> None:
    finish(pods, pods.form())
    key = b"{b}kept"
    with redis.RedisCluster(host="127.0.0.1", port=pods.nodes[0].port, socket_timeout=60) as client:
        client.set(key, "yes")
        client.wait(1, 30_000, target_nodes=client.get_node_from_key(key.decode()))
    for server in pods.servers:
        server.stop()

    was = [node.port for node in pods.nodes]
    for node in pods.nodes:
        node.port = 0
    pods.start()
    assert not set(was) & {node.port for node in pods.nodes}
    with pods.meeting():
        wait_until(pods.is_one, timeout_s=60, what="the nodes have found each other")
        with redis.RedisCluster(host="127.0.0.1", port=pods.nodes[5].port) as client:
            assert client.get(key) == b"yes"


def test_a_pod_starts_a_server_that_keeps_jobs(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path
) -> None:
    rendering = chart.render(
        CHART / "ci" / "bundled-cluster-values.yaml", sets={"valkey.maxmemory": "100mb"}
    )
    script = rendering.one("ConfigMap", "-valkey")["data"]["start.sh"]
    script = script.replace(" /tmp/", f" {tmp_path}/")
    script = script.replace("dir /data", f"dir {tmp_path}")
    password = 'a "quoted" one, with \\ and \\n and $HOME'
    with contextlib.ExitStack() as stack:
        port, bus = reserve_any(), reserve_any()
        stack.callback(port.release)
        stack.callback(bus.release)
        # The image's program, here with ports of its own.
        program = tmp_path / "bin" / "valkey-server"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\nexec {server_binary.path} "$@"'
            f" --port {port.port} --cluster-port {bus.port}\n"
        )
        program.chmod(0o755)
        (tmp_path / "start.sh").write_text(script)
        process = spawn(
            ["/bin/sh", str(tmp_path / "start.sh")],
            output=tmp_path / "server.log",
            env={
                "PATH": f"{program.parent}:/usr/bin:/bin",
                "POD_IP": "127.0.0.1",
                "OJS_REDIS_PASSWORD": password,
            },
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        client = stack.enter_context(
            redis.Redis("127.0.0.1", port.port, password=password, decode_responses=True)
        )

        def answered() -> bool:
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            with contextlib.suppress(redis.ConnectionError):
                return bool(client.ping())
            return False

        wait_until(answered, timeout_s=60, what="the server accepts the password")
        wanted = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": str(100 * 1024 * 1024),
            "maxmemory-policy": "noeviction",
            "hash-max-listpack-value": "1024",
            "cluster-enabled": "yes",
            "cluster-announce-ip": "127.0.0.1",
            "masterauth": password,
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
