"""Permanently lost masters without a majority to vote: replicas take over, and only then."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import kill
from pathlib import Path

import pytest

from ojs_cluster.server.embedded.servers import Embedded, ServerBinary
from tests.helm.chart import CHART, Chart
from tests.helm.test_valkey_cluster import has_a_replica_each, read, write
from tests.helm.valkey_pods import CLI, LOOKS, PATIENCE_S, Pod, Pods, pods
from tests.helm.valkey_tables import Member, actions
from tests.support.servers import wait_until

VALUES = CHART / "ci" / "bundled-cluster-values.yaml"
needs_cli = pytest.mark.skipif(CLI is None, reason="needs valkey-cli or redis-cli")


@contextmanager
def formed(chart: Chart, binary: ServerBinary, folder: Path) -> Iterator[Pods]:
    """A formed cluster that holds 60 keys, without volumes."""
    with pods(chart.render(VALUES), binary, folder) as started:
        started.formed()
        write(started, 60)
        yield started


def masters(here: Pods) -> list[Pod]:
    return [pod for pod in here.all if "master" in pod.myself()[2] and pod.myself()[8:]]


def owners(servers: list[Embedded]) -> Counter[str]:
    """Return the number of servers that claim each range of slots."""
    found: Counter[str] = Counter()
    for server in servers:
        with server.nodes[0].client() as client:
            reply: bytes = client.execute_command("CLUSTER", "NODES")  # type: ignore[no-untyped-call]
        (own,) = (row.split() for row in reply.decode().splitlines() if "myself" in row)
        found.update(own[8:])
    return found


def taken_over(here: Pods) -> Counter[str]:
    """Return how often each master was taken over, by the sidecars' logs.

    On a busy machine, a node may take over and answer too late: the sidecar then logs no answer.
    """
    said = [
        line for index in range(len(here.all)) for line in here.log(f"meet-{index}").split("\n")
    ]
    return Counter(
        line.split()[1].rstrip(":")
        for line in said
        if line.startswith(("takeover", "force")) and line.endswith(("OK", ": "))
    )


def heal(here: Pods) -> None:
    """Wait until the cluster is complete, and check that no key is lost."""
    wait_until(here.is_one, timeout_s=PATIENCE_S, what="it serves again")
    wait_until(lambda: has_a_replica_each(here), timeout_s=PATIENCE_S, what="a replica each")
    assert read(here, 60) == [str(number).encode() for number in range(60)]
    slots = Counter(each for pod in here.all for each in pod.myself()[8:])
    assert slots == dict.fromkeys(["0-5460", "5461-10921", "10922-16383"], 1)


@needs_cli
def test_no_replica_takes_over_while_a_master_may_be_alive(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path
) -> None:
    with formed(chart, server_binary, tmp_path) as six:
        gone, cut_off, stays = masters(six)
        ids = {gone.myself()[0], cut_off.myself()[0]}
        kill(cut_off.node.pid, signal.SIGSTOP)
        gone.lose()
        gone.start(empty=True)
        six.meet()
        wait_until(
            lambda: stays.info()["cluster_state"] == "fail",
            timeout_s=PATIENCE_S,
            what="no majority is left",
        )
        looked = looks_of(six, stays)
        wait_until(
            lambda: looks_of(six, stays) > looked + LOOKS,
            timeout_s=PATIENCE_S,
            what="time has passed",
        )
        assert not taken_over(six)

        # Its pod is deleted by force: the old process lives on but is unreachable.
        old = cut_off.replace(tmp_path / "another")
        try:
            six.meet()
            heal(six)
            assert taken_over(six).keys() <= ids
            assert max(taken_over(six).values()) == 1
            kill(old.nodes[0].pid, signal.SIGCONT)
            # Each range has one owner, also by the report of the returned node.
            everybody = [old, *(pod.server for pod in six.all)]
            wait_until(
                lambda: set(owners(everybody).values()) == {1},
                timeout_s=PATIENCE_S,
                what="who came back has heard of it",
            )
            heal(six)
        finally:
            old.stop(graceful=False)


def looks_of(here: Pods, pod: Pod) -> int:
    """Return how often the node was asked about the cluster."""
    with pod.node.client() as client:
        stats: dict[str, dict[str, int]] = client.info("commandstats")
    return stats["cmdstat_cluster|info"]["calls"] // len(here.all)


@needs_cli
def test_all_masters_are_lost_at_once(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path
) -> None:
    with formed(chart, server_binary, tmp_path) as six:
        for pod in masters(six):
            pod.lose()
            pod.start(empty=True)
        six.meet()
        heal(six)
        assert max(taken_over(six).values()) == 1


@needs_cli
def test_one_of_two_replicas_takes_over(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path
) -> None:
    # Two masters are lost; one has two replicas, the other none.
    with pods(chart.render(VALUES), server_binary, tmp_path, count=5, replicas=2) as five:
        with_replicas, alone, stays, *others = five.all
        for pod, slots in zip(five.all, [(0, 5460), (5461, 10921), (10922, 16383)], strict=False):
            with pod.node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)  # type: ignore[no-untyped-call]
        id_, lost_id = with_replicas.myself()[0], alone.myself()[0]
        wait_until(
            lambda: all("slave" in pod.myself()[2] for pod in others),
            timeout_s=PATIENCE_S,
            what="they have a part",
        )
        for pod in others:
            with pod.node.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", id_)  # type: ignore[no-untyped-call]
        wait_until(five.is_one, timeout_s=PATIENCE_S, what="they follow")
        with with_replicas.node.client() as client:
            client.set("kept-2", "2")  # in slot 0-5460
            assert client.wait(2, 60_000) == 2

        five.end_sidecars()
        for pod in (with_replicas, alone):
            pod.lose()
            pod.start(empty=True)
        five.meet()
        wait_until(
            lambda: any(pod.myself()[8:] for pod in others), timeout_s=PATIENCE_S, what="one leads"
        )
        (heir,) = (pod for pod in others if pod.myself()[8:])
        rest = [pod for pod in five.all if pod not in (heir, stays)]
        wait_until(
            lambda: (
                all("slave" in pod.myself()[2] for pod in rest)
                and heir.info()["cluster_state"] == "ok"
            ),
            timeout_s=PATIENCE_S,
            what="all others follow, and a majority answers",
        )
        assert taken_over(five) == {id_: 1}
        assert owners([pod.server for pod in five.all]) == {"0-5460": 1, "10922-16383": 1}
        with heir.node.client() as client:
            assert client.get("kept-2") == b"2"
        # Slots without a copy stay with the lost master, and no node is connected to it. It may be
        # fail or noaddr: it depends on whether another node has its address before its time is out.
        (lost,) = (row for row in heir.rows() if row[0] == lost_id)
        assert lost[8:] == ["5461-10921"]
        assert lost[7] == "disconnected"
        assert heir.info()["cluster_slots_assigned"] == "16384"


# -- by tables ----------------------------------------------------------------------------------


def two_lost() -> list[Member]:
    """Masters 0 and 1 are lost, 3 and 5 follow 0, 4 follows 1; their pods are new nodes."""
    lost = [Member(number, "a", None, flags=["fail?"], answers=False) for number in (0, 1)]
    lost[0].slots, lost[1].slots = "0-5460", "5461-10921"
    nodes = [*lost, Member(2, "c", None, "10922-16383"), Member(3, "a", 0), Member(4, "b", 1)]
    nodes += [Member(5, "c", 0), Member(6, "a", None, pod=0), Member(7, "b", None, pod=1)]
    for node in nodes:
        node.state = "fail"
        node.link = "down"
    return nodes


def asked(nodes: list[Member], pods: int = 6) -> list[str]:
    """Return the dangerous actions that all sidecars ask for."""
    wanted = [
        f"{node.number} {action}"
        for node in nodes
        if node.answers
        for action in actions(nodes, node, pods=pods)
    ]
    return [each for each in wanted if "steady" in each]


def test_the_most_recent_replica_of_one_master_at_a_time_takes_over() -> None:
    nodes = two_lost()
    assert asked(nodes) == [f"3 steady 6 takeover {nodes[0].id}"]
    nodes[5].offset += 1
    # In the order of the pods, as every sidecar sees it.
    assert asked(nodes) == [f"5 steady 6 takeover {nodes[0].id}"]


def test_an_existing_majority_elects_the_replica() -> None:
    nodes = two_lost()
    nodes[1].slots, nodes[3].slots, nodes[3].master = "", "5461-10921", None
    nodes[4].master = 3
    assert asked(nodes) == [f"5 steady 6 force {nodes[0].id}"]


def never_in_sync(*replicas: Member) -> None:
    for each in replicas:
        each.offset = 1


SPOILED: dict[str, Callable[[list[Member]], object]] = {
    "a pod is silent": lambda nodes: setattr(nodes[2], "answers", False),
    "the master's pod is silent": lambda nodes: setattr(nodes[6], "answers", False),
    "another pod has its name": lambda nodes: setattr(nodes[6], "pod", 9),
    "a node reaches it": lambda nodes: nodes[0].flags.clear(),
    "a replica still follows it": lambda nodes: setattr(nodes[5], "link", "up"),
    "slots have an owner": lambda nodes: setattr(nodes[7], "slots", "7 100-200"),
    "all but one slot are free": lambda nodes: setattr(nodes[7], "slots", "5460"),
    "no replica was ever in sync": lambda nodes: never_in_sync(nodes[3], nodes[5]),
}


@pytest.mark.parametrize("name", SPOILED)
def test_no_replica_takes_over_from_a_master_that_may_return(name: str) -> None:
    nodes = two_lost()
    SPOILED[name](nodes)
    assert not [each for each in asked(nodes) if nodes[0].id in each]


def test_a_longer_timeout_of_nodes_takes_longer() -> None:
    # By then a master that is cut off has noticed that it has no majority, and serves no more.
    nodes = two_lost()
    (wanted,) = actions(nodes, nodes[3], pods=6, timeout_ms=30_000)[-1:]
    assert wanted == f"steady 12 takeover {nodes[0].id}"
