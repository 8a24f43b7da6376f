"""A master of the bundled cluster hands over before its pod ends."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from os import kill
from pathlib import Path

import httpx
import pytest

from ojs_cluster.server.embedded.servers import ServerBinary
from tests.helm.chart import CHART, Chart
from tests.helm.test_valkey_cluster import has_a_replica_each
from tests.helm.valkey_pods import CLI, PATIENCE_S, SHELL, Pod, Pods, pods
from tests.support.nodes import ApiNode
from tests.support.servers import wait_until

pytestmark = pytest.mark.skipif(CLI is None, reason="needs valkey-cli or redis-cli")


@pytest.fixture
def six(chart: Chart, server_binary: ServerBinary, tmp_path: Path) -> Iterator[Pods]:
    rendering = chart.render(CHART / "ci" / "bundled-cluster-values.yaml")
    with pods(rendering, server_binary, tmp_path) as started:
        started.formed()
        wait_until(lambda: has_a_replica_each(started), timeout_s=PATIENCE_S, what="replicas")
        yield started


def hand_over(here: Pods, pod: Pod) -> subprocess.CompletedProcess[str]:
    """Do what Kubernetes does before it ends the container of a server."""
    server = here.container("StatefulSet/", "valkey")
    program, script = server["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sh"
    return subprocess.run(
        [SHELL, here.script(script)],
        env=here.environment(pod),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def is_master(pod: Pod) -> bool:
    return "master" in pod.myself()[2] and bool(pod.myself()[8:])


@contextmanager
def enqueuing(url: str) -> Iterator[list[httpx.Response]]:
    """Enqueue jobs of many queues, one after the other; gives all responses."""
    responses, stop = list[httpx.Response](), threading.Event()

    def enqueue() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stop.is_set():
                job = {"type": "t", "args": [], "options": {"queue": f"q{len(responses) % 40}"}}
                responses.append(client.post("/ojs/v1/jobs", json=job))

    thread = threading.Thread(target=enqueue)
    thread.start()
    try:
        yield responses
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def api(six: Pods, tmp_path: Path) -> Iterator[str]:
    """The URL of an API node of the cluster."""
    url = "redis://" + ",".join(node.address for node in six.nodes)
    node = ApiNode("api", tmp_path, url, workers=1)
    try:
        node.process.start()
        wait_until(node.is_ready, timeout_s=PATIENCE_S, what="the API is ready")
        yield node.url
    finally:
        node.stop()


def test_no_request_fails_when_masters_restart_one_after_the_other(six: Pods, api: str) -> None:
    for pod in six.all:  # an election would take so long that requests fail
        pod.server.config["cluster-node-timeout"] = "90000"
        with pod.node.client() as client:
            client.config_set("cluster-node-timeout", 90_000)
    with enqueuing(api) as responses:
        for pod in [pod for pod in six.all if is_master(pod)]:
            wait_until(six.is_one, timeout_s=PATIENCE_S, what="the pod before is back")
            done = hand_over(six, pod)
            assert (done.returncode, done.stderr) == (0, "")
            assert not is_master(pod)
            begun = len(responses)
            pod.server.stop()
            wait_until(
                lambda begun=begun: len(responses) > begun + 80,  # type: ignore[misc]
                timeout_s=PATIENCE_S,
                what="requests are served without the pod",
            )
            pod.start(empty=False)
            six.meet()
    assert {response.status_code for response in responses} == {201}


def test_only_a_master_with_a_replica_hands_over(six: Pods) -> None:
    before = six.layout()
    for pod in six.all:
        if not is_master(pod):
            assert hand_over(six, pod).returncode == 0
    assert six.layout() == before
    master = next(pod for pod in six.all if is_master(pod))
    (replica,) = (pod for pod in six.all if pod.myself()[3] == master.myself()[0])
    six.end_sidecars()
    replica.lose()
    with master.node.client() as client:
        wait_until(
            lambda: client.info("replication")["connected_slaves"] == 0,
            timeout_s=PATIENCE_S,
            what="the master has lost its replica",
        )
    assert hand_over(six, master).returncode == 0
    assert is_master(master)


def test_a_replica_that_hangs_does_not_keep_the_pod(six: Pods) -> None:
    master = next(pod for pod in six.all if is_master(pod))
    (replica,) = (pod for pod in six.all if pod.myself()[3] == master.myself()[0])
    kill(replica.node.pid, signal.SIGSTOP)
    try:
        assert "an election will replace it" in hand_over(six, master).stderr
    finally:
        kill(replica.node.pid, signal.SIGCONT)


def test_the_pod_has_time_for_it(chart: Chart) -> None:
    rendering = chart.render(CHART / "ci" / "bundled-cluster-values.yaml")
    spec = rendering.one("StatefulSet", "-valkey")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] >= 6 + 45
