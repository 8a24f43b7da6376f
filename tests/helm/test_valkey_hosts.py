"""One lost host makes no shard of the bundled cluster unavailable: nodes are spread over hosts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ojs_cluster.server.embedded.servers import ServerBinary
from tests.helm.chart import CHART, Chart
from tests.helm.valkey_pods import CLI, PATIENCE_S, Pods, pods
from tests.helm.valkey_tables import Member, actions
from tests.support.servers import wait_until

VALUES = CHART / "ci" / "bundled-cluster-values.yaml"
needs_cli = pytest.mark.skipif(CLI is None, reason="needs valkey-cli or redis-cli")


@contextmanager
def formed(chart: Chart, binary: ServerBinary, folder: Path, hosts: str) -> Iterator[Pods]:
    """Return a cluster whose pods are on these hosts, a letter each."""
    with pods(chart.render(VALUES), binary, folder, count=len(hosts), hosts=hosts) as started:
        started.formed()
        yield started


def hosts_of(here: Pods) -> list[tuple[str, list[str]]]:
    """Return the host of every master, and the hosts of its replicas."""
    host = {pod.myself()[0]: pod.host for pod in here.all}
    layout = here.layout()
    return [
        (host[id_], [host[other] for other, part in layout.items() if part[1] == id_])
        for id_, (role, _, *given) in layout.items()
        if role == "master" and given
    ]


def said(here: Pods) -> list[str]:
    """Return what sidecars did to the roles of nodes."""
    lines = [
        line for index in range(len(here.all)) for line in here.log(f"meet-{index}").split("\n")
    ]
    return [line for line in lines if line.startswith(("failover", "replicate"))]


def survives_any_host(here: Pods) -> bool:
    """Return whether every host has at most one master, and every master a replica elsewhere."""
    found = hosts_of(here)
    masters = [master for master, _ in found]
    return len(set(masters)) == len(masters) == 3 and all(
        len(replicas) == 1 and master not in replicas for master, replicas in found
    )


@needs_cli
def test_masters_and_replicas_are_on_different_hosts_also_when_pods_have_moved(
    chart: Chart, server_binary: ServerBinary, tmp_path: Path
) -> None:
    with formed(chart, server_binary, tmp_path, "aabbcc") as six:
        wait_until(lambda: survives_any_host(six), timeout_s=PATIENCE_S, what="they are apart")
        wait_until(six.is_one, timeout_s=PATIENCE_S, what="replicas are in sync")
        formed_by = Counter(said(six))
        slots = sorted(part[2:] for part in six.layout().values() if part[0] == "master")

        # As pods with volumes that restart elsewhere: two masters share a host, and a master and
        # its replica share another.
        first, second, third = (pod for pod in six.all if "master" in pod.myself()[2])
        (beside,) = (pod for pod in six.all if pod.myself()[3] == third.myself()[0])
        homes = [first, second, third, beside]
        rest = [pod for pod in six.all if pod not in homes]
        for pod, host in zip([*homes, *rest], "aabbcc", strict=True):
            pod.move(host)
        assert not survives_any_host(six)

        wait_until(lambda: survives_any_host(six), timeout_s=PATIENCE_S, what="they have moved")
        wait_until(six.is_one, timeout_s=PATIENCE_S, what="replicas are in sync")
        assert slots == sorted(part[2:] for part in six.layout().values() if part[0] == "master")
        # One at a time, and not more than needed.
        moves = list((Counter(said(six)) - formed_by).elements())
        assert sorted(line.split()[0] for line in moves) == ["failover", "replicate", "replicate"]
        assert all(line.endswith("OK") for line in moves), moves


def cluster(parts: list[tuple[str, str | None]]) -> list[Member]:
    """Return a healthy cluster: host of each node, and its master; None for a master."""
    count = sum(master is None for _, master in parts)
    share = 16384 // count
    found: list[Member] = []
    leads = 0
    for number, (host, master) in enumerate(parts):
        slots = ""
        if master is None:
            last = 16383 if leads == count - 1 else (leads + 1) * share - 1
            slots = f"{leads * share}-{last}"
            leads += 1
        found.append(Member(number, host, None if master is None else int(master), slots))
    return found


def settle(nodes: list[Member], most: int) -> int:
    """Apply what the sidecars ask for until they ask for nothing; return how often.

    Raises:
        AssertionError: two of them ask at the same time, or it does not end.
    """
    for step in range(40):
        wanted = [(node, each) for node in nodes for each in actions(nodes, node, most=most)]
        if not wanted:
            return step
        ((node, action),) = wanted
        verb, object_ = action.split()[-2:]
        other = next(each for each in nodes if each.id == object_)
        if verb == "replicate":
            node.master = other.number
        else:
            assert (verb, node.master) == ("failover", other.number)
            node.slots, other.slots = other.slots, ""
            for each in nodes:
                if each.master == other.number:
                    each.master = node.number
            node.master, other.master = None, node.number
    raise AssertionError(f"it never ends: {nodes}")


def test_any_placement_settles_so_that_a_lost_host_loses_no_shard() -> None:
    random.seed(11)
    for _ in range(25):
        masters, most = random.choice([(3, 1), (3, 2), (5, 1)])
        names = "abcdef"[: random.choice([3, 4, 6])]
        count = masters * (1 + most)
        # As evenly as Kubernetes spreads pods.
        hosts = [names[number % len(names)] for number in range(count)]
        random.shuffle(hosts)
        parts: list[tuple[str, str | None]] = [(host, None) for host in hosts[:masters]]
        owners = [str(number % masters) for number in range(count - masters)]
        random.shuffle(owners)
        parts += list(zip(hosts[masters:], owners, strict=True))
        nodes = cluster(parts)

        settle(nodes, most)

        leads = [node for node in nodes if node.master is None]
        loads = Counter(node.host for node in leads)
        assert len(leads) == masters
        for lead in leads:
            followers = [node for node in nodes if node.master == lead.number]
            assert len(followers) == most, nodes
            assert all(node.host != lead.host for node in followers), nodes
        if len(names) >= masters and most == 1:
            assert max(loads.values()) == 1, nodes


def test_an_empty_node_waits_while_no_master_lacks_a_replica() -> None:
    full = [("a", None), ("b", None), ("c", None), ("b", "0"), ("c", "1"), ("a", "2")]
    nodes = cluster(full)
    nodes += [Member(number, "d", None) for number in (6, 7)]
    assert not [a for node in nodes for a in actions(nodes, node)]
    # The replica of 1 can move to 0, whose own replica is lost, and a new replica does not make
    # that worse.
    del nodes[3]
    wanted = [a for node in nodes for a in actions(nodes, node)]
    assert wanted == [f"replicate {nodes[0].id}"]


def test_masters_leave_a_host_while_the_one_of_the_lost_master_is_away() -> None:
    # The host x is lost with a master, whose replica was elected on a, beside another master.
    parts = [("a", None), ("a", None), ("b", None), ("c", "0"), ("b", "1"), ("x", "2"), ("x", "0")]
    nodes = cluster(parts)
    for lost in nodes[5:]:
        lost.answers = False
        lost.flags.append("fail")
    assert [a for node in nodes[:5] for a in actions(nodes, node) if "steady" in a] == [
        f"steady 2 failover {nodes[0].id}"
    ]
    # Slots that an answer assigns to a silent node may be served there.
    nodes[2].slots, nodes[5].master, nodes[5].slots = "", None, nodes[2].slots
    assert not [a for node in nodes[:5] for a in actions(nodes, node) if "steady" in a]


def test_replicas_stay_while_a_node_is_silent() -> None:
    parts = [("a", None), ("b", None), ("c", None), ("a", "0"), ("b", "1"), ("c", "2")]
    nodes = cluster(parts)
    assert [a for node in nodes for a in actions(nodes, node) if "replicate" in a]
    nodes[5].answers = False
    nodes[5].flags.append("fail")
    assert not [a for node in nodes for a in actions(nodes, node) if "steady" in a]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda nodes: nodes[4].flags.append("fail?"),
        lambda nodes: setattr(nodes[0], "answers", False),
        lambda nodes: setattr(nodes[4], "link", "down"),
        lambda nodes: setattr(nodes[2], "state", "fail"),
        lambda nodes: setattr(nodes[0], "slots", nodes[0].slots + " [1->-" + nodes[1].id + "]"),
        lambda nodes: setattr(nodes[2], "host", ""),
    ],
    ids=["suspected", "silent", "not in sync", "not serving", "slots move", "host unknown"],
)
def test_nothing_moves_in_an_unhealthy_cluster(spoil: Callable[[list[Member]], None]) -> None:
    parts = [("a", None), ("a", None), ("b", None), ("c", "0"), ("b", "1"), ("c", "2")]
    nodes = cluster(parts)
    assert [a for node in nodes for a in actions(nodes, node)]
    spoil(nodes)
    assert not [a for node in nodes for a in actions(nodes, node) if "steady" in a]
