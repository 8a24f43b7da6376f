"""The bundled cluster, an API and a scheduler, as containers of one rendering."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.containers.image import Image
from tests.containers.kubelet import PATIENCE_S, Kubelet, Pod, await_probes
from tests.containers.network import Network
from tests.helm.chart import CHART, Chart, Manifest, Rendering

VALUES = CHART / "ci" / "bundled-cluster-values.yaml"
KEY, PASSWORD = "not-a-real-key", "not-a-real-password"  # those of the values
HOSTS = 3
_SETS: dict[str, Any] = {
    # The name of a Service leads to its pods here, at their own port.
    "service.port": 8080,
    "valkey.nodeTimeoutMs": 2000,
    "api.drain.preStopSeconds": 2,
    # Acknowledged means that a replica has it: then the loss of a master loses nothing.
    "config.OJS_DURABILITY": "replica",
}
_ANY_USER: dict[str, Any] = {"compatibility.openshift": "force"}


@dataclass
class Release:
    """One release, and how its nodes are asked."""

    kubelet: Kubelet
    rendering: Rendering

    @classmethod
    @contextlib.contextmanager
    def running(
        cls, chart: Chart, images: Mapping[str, Image], folder: Path, range_start: int | None
    ) -> Iterator[Release]:
        """Start everything at once, as an installation does, and wait until it is ready."""
        sets = _SETS if range_start is None else _SETS | _ANY_USER
        rendering = chart.render(VALUES, sets=sets)
        network = Network()
        folder.mkdir()
        started = cls(Kubelet(rendering, images, network, folder, range_start), rendering)
        try:
            network.open()
            started._start()
            yield started
        finally:
            started.kubelet.close()
            network.close()

    def _start(self) -> None:
        for index in range(self.nodes["spec"]["replicas"]):
            self.start_node(index)
        job = self.kubelet.start("form", self.rendering.one("Job"))
        self.kubelet.start("api", self.rendering.api)
        self.kubelet.start("scheduler", self.rendering.scheduler)
        for container in job.containers.values():
            assert container.wait(PATIENCE_S * 2) == 0, job.text()
        self.kubelet.stop(job)
        for pod in self.pods:
            pod.await_ready()

    @property
    def nodes(self) -> Manifest:
        """The StatefulSet."""
        return self.rendering.one("StatefulSet", "-valkey")

    @property
    def pods(self) -> list[Pod]:
        return list(self.kubelet.pods.values())

    @property
    def api(self) -> Pod:
        return self.kubelet.pods["api"]

    @property
    def url(self) -> str:
        return f"http://{self.api.address}:8080"

    def start_node(self, index: int) -> Pod:
        """Start a pod of the StatefulSet, on one host after the other."""
        name = f"{self.nodes['metadata']['name']}-{index}"
        return self.kubelet.start(name, self.nodes, f"host-{index % HOSTS}")

    def node(self, index: int) -> Pod:
        return self.kubelet.pods[f"{self.nodes['metadata']['name']}-{index}"]

    def all_nodes(self) -> list[Pod]:
        return [self.node(index) for index in range(self.nodes["spec"]["replicas"])]

    def own_row(self, pod: Pod) -> list[str]:
        """What a node says of itself: its line of CLUSTER NODES."""
        with redis.Redis(pod.address, 6379, password=PASSWORD, socket_timeout=10) as client:
            reply: bytes = client.execute_command("CLUSTER", "NODES")
        (row,) = (line.split() for line in reply.decode().splitlines() if "myself" in line)
        return row

    def layout(self) -> tuple[list[str], list[str]]:
        """Ids of the masters with slots, and of the master of each replica, both sorted."""
        rows = [self.own_row(pod) for pod in self.all_nodes()]
        masters = [row[0] for row in rows if "master" in row[2] and len(row) > 8]
        return sorted(masters), sorted(row[3] for row in rows if "slave" in row[2])

    def await_whole(self) -> None:
        """Wait until every master has its replica, and every pod is ready."""

        def whole() -> bool:
            with contextlib.suppress(redis.RedisError):
                masters, followed = self.layout()
                return len(masters) == 3 and followed == masters
            return False

        await_probes(whole, "every master has a replica")
        for pod in self.pods:
            pod.await_ready()
