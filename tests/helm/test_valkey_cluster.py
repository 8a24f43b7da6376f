"""The bundled cluster forms and maintains itself: the chart's own scripts, on real servers."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from ojs_cluster.server.embedded.servers import ServerBinary
from tests.helm.chart import CHART, Chart
from tests.helm.valkey_pods import CLI, PATIENCE_S, Pod, Pods, pods
from tests.support.nodes import ApiNode
from tests.support.servers import wait_until

pytestmark = pytest.mark.skipif(CLI is None, reason="needs valkey-cli or redis-cli")

EQUAL = ["0-5460", "10922-16383", "5461-10921"]


@pytest.fixture
def six(chart: Chart, server_binary: ServerBinary, tmp_path: Path) -> Iterator[Pods]:
    rendering = chart.render(CHART / "ci" / "bundled-cluster-values.yaml")
    with pods(rendering, server_binary, tmp_path) as started:
        yield started


def slots(here: Pods) -> list[str]:
    """Return the slots of every master."""
    parts = here.layout().values()
    return sorted(",".join(given) for role, _, *given in parts if role == "master")


def has_a_replica_each(here: Pods) -> bool:
    """Return whether every node is a master with slots, or the only replica of one."""
    parts = here.layout()
    masters = {id_ for id_, (role, _, *given) in parts.items() if role == "master" and given}
    replicas = Counter(master for role, master, *_ in parts.values() if role == "slave")
    return len(masters) == 3 and replicas == dict.fromkeys(masters, 1)


def write(here: Pods, count: int) -> None:
    """Write keys of every shard, also to the replicas."""
    port = here.nodes[0].port
    with redis.RedisCluster(host="127.0.0.1", port=port, socket_timeout=60) as client:
        for number in range(count):
            client.set(f"kept-{number}", number)
        for node in client.get_primaries():
            assert client.wait(1, 60_000, target_nodes=node) == 1


def read(here: Pods, count: int) -> list[bytes | None]:
    port = here.nodes[-1].port
    with redis.RedisCluster(host="127.0.0.1", port=port, socket_timeout=60) as client:
        return [client.get(f"kept-{number}") for number in range(count)]


def test_pods_become_a_cluster_and_another_run_changes_nothing(six: Pods) -> None:
    assert not any(six.is_ready(pod) for pod in six.all)
    six.formed(six.form(), six.form())  # a retry may overlap what it retries

    before = six.layout()
    assert slots(six) == EQUAL
    assert has_a_replica_each(six)
    assert all(six.is_ready(pod) for pod in six.all)

    six.formed()
    assert six.layout() == before


def test_the_server_waits_for_a_cluster_that_is_not_formed_yet(six: Pods, tmp_path: Path) -> None:
    # As in an installation: API pods, servers and the job all start at once.
    url = "redis://" + ",".join(node.address for node in six.nodes[:3])
    api = ApiNode("api", tmp_path, url, workers=1)
    try:
        api.process.start()
        wait_until(lambda: answers(f"{api.url}/live"), timeout_s=60, what="it lives")
        assert not api.is_ready()
        six.formed()
        api.await_ready(60)
        job = {"type": "t", "args": []}
        assert httpx.post(f"{api.url}/ojs/v1/jobs", json=job, timeout=30).status_code == 201
    finally:
        api.stop()


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=10).is_success
    return False


def test_a_run_that_was_interrupted_is_completed(six: Pods) -> None:
    with six.nodes[1].client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 5461, 10921)  # type: ignore[no-untyped-call]
    for node in six.nodes:
        with node.client() as client:
            client.config_set("masterauth", "secret", "requirepass", "secret")
    six.password = "secret"
    six.meet()

    assert six.form().wait(PATIENCE_S) == 0, six.log("form")

    six.end_sidecars()
    for node in six.nodes:
        with redis.Redis("127.0.0.1", node.port, password="secret") as client:
            client.config_set("requirepass", "")
    wait_until(six.is_one, what="every node serves the cluster")
    assert slots(six) == EQUAL


def test_nodes_find_each_other_when_every_address_has_changed(six: Pods) -> None:
    six.formed()
    write(six, 1)
    before = six.layout()
    was = [node.port for node in six.nodes]
    for pod in six.all:
        pod.server.stop()
    for pod in six.all:
        pod.start(empty=False)
    assert not set(was) & {node.port for node in six.nodes}

    six.meet()
    wait_until(six.is_one, timeout_s=PATIENCE_S, what="the nodes have found each other")
    assert read(six, 1) == [b"0"]
    assert six.layout().keys() == before.keys()


def test_nodes_find_each_other_while_dns_answers_with_old_addresses(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path
) -> None:
    # As often as in a real pod. The old addresses do not refuse a connection, they are silent.
    rendering = chart.render(CHART / "ci" / "bundled-cluster-values.yaml")
    with (
        pods(rendering, server_binary, tmp_path, hasty=False) as six,
        contextlib.ExitStack() as old,
    ):
        six.formed()
        write(six, 1)
        before = six.layout()
        was = [node.port for node in six.nodes]
        for pod in six.all:
            pod.server.stop()
        for port in was:
            old.enter_context(socket.create_server(("127.0.0.1", port)))
        for pod in six.all:
            pod.start(empty=False)

        six.meet(outdated=True)
        wait_until(six.is_one, timeout_s=PATIENCE_S, what="the nodes have found each other")
        assert read(six, 1) == [b"0"]
        assert six.layout().keys() == before.keys()


def test_pods_without_volumes_are_replaced_one_by_one_and_no_job_is_lost(six: Pods) -> None:
    six.formed()
    write(six, 200)
    ids = set(six.layout())

    for pod in reversed(six.all):  # as a StatefulSet does
        pod.start(empty=True)
        six.meet()
        wait_until(lambda pod=pod: six.is_ready(pod), timeout_s=PATIENCE_S, what=pod.here)  # type: ignore[misc]

    assert not ids & set(six.layout())
    assert read(six, 200) == [str(number).encode() for number in range(200)]
    wait_until(lambda: has_a_replica_each(six), timeout_s=PATIENCE_S, what="a replica each")
    # Only the old process of the pod is left, and no node knows it.
    wait_until(
        lambda: all(len(pod.rows()) == len(six.all) for pod in six.all),
        timeout_s=PATIENCE_S,
        what="those who are gone are forgotten",
    )
    six.formed()


def test_an_empty_node_is_ready_when_it_has_a_role(six: Pods) -> None:
    six.formed()
    six.end_sidecars()
    pod = next(pod for pod in six.all if "slave" in pod.myself()[2])
    pod.start(empty=True)
    with pod.node.client() as client:
        for other in six.all:
            if other is not pod:
                client.execute_command(  # type: ignore[no-untyped-call]
                    *("CLUSTER", "MEET", "127.0.0.1", other.node.port, other.bus.port)
                )
    wait_until(lambda: pod.info()["cluster_state"] == "ok", timeout_s=PATIENCE_S, what="it says so")
    assert not six.is_ready(pod)

    six.meet()
    wait_until(lambda: six.is_ready(pod), timeout_s=PATIENCE_S, what="it has a part")
    assert has_a_replica_each(six)


def test_nodes_that_restart_empty_at_once_choose_different_masters(six: Pods) -> None:
    six.formed()
    write(six, 50)
    for pod in six.all:
        if "slave" in pod.myself()[2]:
            pod.start(empty=True)
    six.meet()

    wait_until(lambda: has_a_replica_each(six), timeout_s=PATIENCE_S, what="a replica each")
    wait_until(six.is_one, timeout_s=PATIENCE_S, what="they are in sync")
    assert None not in read(six, 50)


def test_slots_without_master_and_replica_are_a_failure(six: Pods) -> None:
    six.formed()
    (lost,) = (pod for pod in six.all if pod.myself()[8:] == ["0-5460"])
    id_ = lost.myself()[0]
    both = [pod for pod in six.all if pod is lost or pod.myself()[3] == id_]
    assert len(both) == 2
    for pod in both:
        pod.server.stop(graceful=False)
    for pod in both:
        pod.start(empty=True)
    six.meet()

    job = six.form()
    said = "5461 slots belong to a node that has failed"
    wait_until(lambda: said in six.log("form"), timeout_s=PATIENCE_S, what=said)
    assert job.poll() is None
    assert not any(given(pod) for pod in both), "no script decides that jobs are lost"
    job.terminate()
    assert job.wait(PATIENCE_S) == 128 + signal.SIGTERM


def given(pod: Pod) -> list[str]:
    """Return the slots of a pod by its own report."""
    return pod.myself()[8:]
