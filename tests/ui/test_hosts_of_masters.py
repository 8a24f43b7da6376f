"""The overview names a host whose loss leaves no majority of masters."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.ui.problems.of_cluster import problems_of_cluster


def problems(masters: list[tuple[str, str]]) -> list[str]:
    """Return what is said of masters with these addresses and announced hosts."""
    known: dict[str, Any] = {
        **{"answers": True, "memory": "ok", "policy": "noeviction", "shards": 1, "slots": 1},
        "replicas": [{"address": "r:1", "online": True, "lag_s": 0}],
    }
    status: dict[str, Any] = {
        **{"shards": 8, "schedulers": [], "slots_covered": 16_384, "clustered": True},
        **{"without_leader": 0, "clocks_apart_ms": 0, "processes": {}},
        "masters": [{**known, "address": address, "host": host} for address, host in masters],
    }
    return [problem.what for problem in problems_of_cluster(status, "default")]


def test_two_of_three_masters_on_the_announced_host_are_a_problem() -> None:
    found = problems([("10.0.0.1:6379", "a"), ("10.0.0.2:6379", "a"), ("10.0.0.3:6379", "b")])
    assert found == [
        "2 of 3 Redis masters are on the host a: if it fails, the others cannot elect its replicas"
    ]


def test_without_an_announced_host_it_is_the_address() -> None:
    found = problems([("10.0.0.1:1", ""), ("10.0.0.1:2", ""), ("[fd00::1]:1", "")])
    assert found == [
        "2 of 3 Redis masters have the address 10.0.0.1: if that host fails, the others cannot "
        "elect its replicas"
    ]


@pytest.mark.parametrize(
    "masters",
    [
        [("127.0.0.1:1", ""), ("127.0.0.1:2", ""), ("127.0.0.1:3", "")],
        [("10.0.0.1:1", "a"), ("10.0.0.1:2", "b"), ("10.0.0.1:3", "c")],
        [(f"10.0.0.{host}:{port}", "") for host, port in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1))],
    ],
    ids=["one machine", "a host each", "a majority is elsewhere"],
)
def test_masters_whose_host_may_be_lost_are_none(masters: list[tuple[str, str]]) -> None:
    assert problems(masters) == []
