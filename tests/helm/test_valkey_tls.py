"""The bundled Valkey over TLS: the rendered scripts start nodes, form a cluster and probe it.

The test server of this repository has no TLS, so a Redis server of the machine runs the scripts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ojs_cluster.server.embedded.ports import PortReservation, reserve_any
from ojs_cluster.server.supervision.process_spawner import spawn
from tests.helm.chart import CHART, Chart, Manifest, Rendering, container
from tests.support.certificates import Certificates
from tests.support.servers import wait_until

VALUES = CHART / "ci" / "encrypted-cluster-values.yaml"
SERVER, CLIENT = shutil.which("redis-server"), shutil.which("redis-cli")
PATIENCE_S = 120
PASSWORD = "a password"


@dataclass
class Node:
    """A pod of the StatefulSet as a local process."""

    folder: Path
    port: PortReservation
    bus: PortReservation
    manifest: Manifest

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port.port}"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as in the container, and wait for it."""
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, check=False, timeout=60
        )

    def await_probe(self, script: str) -> None:
        """Wait until the probe passes."""
        command = ["sh", "-e", str(self.folder / "scripts" / script)]

        def passes() -> bool:
            return self.run(*command).returncode == 0

        log = self.folder / "valkey.log"
        try:
            wait_until(passes, timeout_s=PATIENCE_S, what=script)
        except AssertionError as error:
            said = self.run(*command)
            raise AssertionError(f"{error}\n{said}\n{log.read_text()[-2000:]}") from None

    @property
    def env(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}:/usr/bin:/bin"
        names = {"POD_IP": "127.0.0.1", "POD_NAME": self.folder.name, "NODE_NAME": "host"}
        return {"PATH": path, "OJS_REDIS_PASSWORD": PASSWORD, **names}

    def here(self, text: str) -> str:
        """Replace the paths and ports of the container by those of this machine."""
        port, bus = self.port.port, self.bus.port
        for there, now in (
            # A probe asks the node of its pod; here several nodes share one address.
            ('/tls/ca.crt "$@"', f'/tls/ca.crt -p {port} "$@"'),
            ('echo "tls-port 6379"', f'echo "tls-port {port}"; echo "cluster-port {bus}"'),
            ("$(POD_IP):6379@16379", f"{self.address}@{bus}"),
            ("/scripts", str(self.folder / "scripts")),
            ("/tls/", f"{self.folder}/tls/"),
            ("dir /data", f"dir {self.folder}/data"),
            ("/tmp/valkey.conf", f"{self.folder}/valkey.conf"),  # noqa: S108 - in the container
        ):
            text = text.replace(there, now)
        return text


@pytest.fixture
def nodes(chart: Chart, tmp_path: Path, certificates: Certificates) -> Iterator[list[Node]]:
    """Return three started nodes that do not know each other, with their sidecars."""
    if SERVER is None or CLIENT is None:
        pytest.skip("needs a redis-server and redis-cli with TLS on PATH")
    said = subprocess.run([SERVER, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.findall(r"v=(\d+)\.(\d+)", said)
    if not version or tuple(map(int, version[0])) < (7, 2):
        pytest.skip(f"this redis-server knows no names of hosts: {said.strip()}")
    rendering = chart.render(VALUES, sets={"valkey.replicasPerMaster": 0})
    spec = rendering.one("StatefulSet")["spec"]["template"]["spec"]
    made = [
        Node(tmp_path / f"pod-{index}", reserve_any(), reserve_any(), spec) for index in range(3)
    ]
    processes = []
    try:
        for node in made:
            prepare(node, rendering, certificates, made)
            for name in ("valkey", "meet"):
                (only,) = (each for each in spec["containers"] if each["name"] == name)
                assert only["command"][0] == "sh"
                command = ["/bin/sh", *(node.here(word) for word in only["command"][1:])]
                log = node.folder / f"{name}.log"
                processes.append(spawn(command, output=log, env=node.env))
        yield made
    finally:
        for process in processes:
            process.terminate()  # SIGKILL would leave what a sidecar has begun in the background
        for process in processes:
            process.wait(60)
        for node in made:
            node.port.release()
            node.bus.release()


def prepare(
    node: Node, rendering: Rendering, certificates: Certificates, everybody: list[Node]
) -> None:
    """Make the folders that a pod has."""
    for name in ("bin", "data", "scripts", "tls"):
        (node.folder / name).mkdir(parents=True)
    (node.folder / "bin" / "valkey-server").symlink_to(str(SERVER))
    # All DNS names of the cluster lead to this machine.
    client = node.folder / "bin" / "valkey-cli"
    client.write_text(
        "#!/bin/sh\n"
        "for word; do\n"
        '  shift; case $word in pod-*) word=127.0.0.1 ;; esac; set -- "$@" "$word"\n'
        "done\n"
        f'exec {CLIENT} "$@"\n'
    )
    client.chmod(0o555)
    files = {"ca.crt": "ca.crt", "tls.crt": "server.crt", "tls.key": "server.key"}
    for entry, file in files.items():
        shutil.copyfile(certificates.files / file, node.folder / "tls" / entry)
    for name, text in rendering.one("ConfigMap", "-valkey")["data"].items():
        script = node.folder / "scripts" / name
        if name == "nodes":
            rows = [line for line in text.splitlines() if not line.startswith("node ")]
            service = rendering.one("StatefulSet")["spec"]["serviceName"]
            rows += [f"node {each.folder.name}.{service}:{each.port.port}" for each in everybody]
            text = "\n".join(rows) + "\n"
        script.write_text(node.here(text))
        script.chmod(0o555)


def form(node: Node, chart: Chart, addresses: str) -> subprocess.CompletedProcess[str]:
    """Run the Job's command."""
    job = chart.render(VALUES, sets={"valkey.replicasPerMaster": 0}).one("Job")
    only = container(job)
    (authority,) = (each["value"] for each in only["env"] if each["name"] == "OJS_REDIS_TLS_CA")
    _, script, _, *rest = only["command"]
    env = {**os.environ, **node.env, "OJS_REDIS_TLS_CA": node.here(authority)}
    return subprocess.run(
        [sys.executable, node.here(script), addresses, *rest],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_nodes_use_only_tls_and_form_a_cluster(nodes: list[Node], chart: Chart) -> None:
    first = nodes[0]
    for node in nodes:
        node.await_probe("ping.sh")
    done = form(first, chart, ",".join(node.address for node in nodes))
    assert done.returncode == 0, done.stdout + done.stderr
    for node in nodes:
        node.await_probe("ready.sh")
    ended = first.run("sh", str(first.folder / "scripts" / "handover.sh"))
    assert (ended.returncode, ended.stderr) == (0, "")  # it has no replica
    assert CLIENT is not None
    plain = first.run(CLIENT, "-h", "127.0.0.1", "-p", str(first.port.port), "ping")
    assert "PONG" not in plain.stdout
    # Clients are redirected to names, which the certificate has, not to addresses, which change.
    shim = str(first.folder / "scripts" / "valkey-cli")
    slots = first.run(shim, "-a", PASSWORD, "cluster", "slots")
    for node in nodes:
        assert f"{node.folder.name}.jobs-ojs-cluster-valkey" in slots.stdout


def test_api_and_scheduler_trust_the_authority_and_see_no_key(chart: Chart) -> None:
    rendering = chart.render(VALUES)
    for deployment in (rendering.api, rendering.scheduler):
        environment = rendering.environment(deployment)
        assert environment["REDIS_URL"].split(",")[0] == (
            "rediss://jobs-ojs-cluster-valkey-0.jobs-ojs-cluster-valkey:6379"
        )
        assert environment["OJS_REDIS_TLS_CA"] == "/etc/ojs/redis-tls/ca.crt"
        volumes = deployment["spec"]["template"]["spec"]["volumes"]
        (volume,) = (each for each in volumes if each["name"] == "redis-tls")
        assert volume["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


def test_the_certificate_of_the_example_has_the_name_of_every_node(chart: Chart) -> None:
    rendering = chart.render(VALUES)
    names = rendering.one("Certificate")["spec"]["dnsNames"]
    nodes = [
        line.split()[1].partition(":")[0]
        for line in rendering.one("ConfigMap", "-valkey")["data"]["nodes"].splitlines()
        if line.startswith("node ")
    ]
    assert names == nodes
