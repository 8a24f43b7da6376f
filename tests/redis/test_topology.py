"""Reading what a node says about the cluster."""

from __future__ import annotations

import pytest

from ojs_cluster.redis import Address
from ojs_cluster.redis.topology import (
    Topology,
    TopologyUnknown,
    parse_cluster_slots,
    parse_redirect,
    standalone,
)

QUERIED = Address("10.0.0.9", 7009)


def test_ranges_masters_and_replicas_are_read() -> None:
    a, b = [b"10.0.0.1", 7001, b"ida"], [b"10.0.0.2", 7002, b"idb", [b"hostname", b"x"]]
    topology = parse_cluster_slots([[0, 99, a, b], [100, 16383, b]], QUERIED)

    assert topology.masters == (Address("10.0.0.1", 7001), Address("10.0.0.2", 7002))
    assert topology.nodes == topology.masters
    assert topology.covered
    assert topology.owner(99) == Address("10.0.0.1", 7001)
    assert topology.owner(100) == Address("10.0.0.2", 7002)


@pytest.mark.parametrize("host", [b"", None, b"?"])
def test_unknown_host_means_the_node_that_was_asked(host: bytes | None) -> None:
    topology = parse_cluster_slots([[0, 16383, [host, 7001, b"id"]]], QUERIED)

    assert topology.masters == (Address("10.0.0.9", 7001),)


def test_hole_in_the_slots_is_noticed() -> None:
    topology = parse_cluster_slots([[1, 16383, [b"h", 1, b"id"]]], QUERIED)

    assert not topology.covered
    assert topology.slots_covered == 16383
    assert topology.owner(0) is None


@pytest.mark.parametrize(
    "reply", [None, b"x", 3, [3], [[0, 1]], [[0, 1, [b"h"]]], [[b"a", 1, [b"h", 1]]], [[0, 1, 2]]]
)
def test_unreadable_reply_is_refused(reply: object) -> None:
    with pytest.raises(TopologyUnknown):
        parse_cluster_slots(reply, QUERIED)  # type: ignore[arg-type] # a wrong type


def test_standalone_server_owns_every_slot() -> None:
    topology = standalone(QUERIED)

    assert topology == Topology(clustered=False, ranges=topology.ranges, nodes=(QUERIED,))
    assert topology.covered
    assert topology.owner(16383) == QUERIED


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("3999 127.0.0.1:6381", (3999, Address("127.0.0.1", 6381))),
        ("0 ::1:6381", (0, Address("::1", 6381))),
        ("7 [::1]:6381", (7, Address("::1", 6381))),
        ("7 node.example:1", (7, Address("node.example", 1))),
        ("7 :6381", (7, Address("10.0.0.9", 6381))),
    ],
)
def test_redirect_is_read(message: str, expected: tuple[int, Address]) -> None:
    assert parse_redirect(message, QUERIED) == expected


def test_address_with_colons_is_bracketed_for_people() -> None:
    assert str(Address("::1", 7001)) == "[::1]:7001"
    assert str(Address("h", 7001)) == "h:7001"
