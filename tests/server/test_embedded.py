"""The embedded servers keep what they promise to `dev` and to every other test."""

from __future__ import annotations

from pathlib import Path

import pytest

from ojs_cluster.server.embedded import Embedded, EmbeddedError
from tests.support.servers import all_keys, observer, own_server, wait_until


def test_backend_serves_reads_and_writes(backend: Embedded) -> None:
    with observer(backend) as client:
        for number in range(50):
            client.set(f"key-{number}", "x")
    assert len(all_keys(backend)) == 50


def test_fixture_starts_without_keys(backend: Embedded) -> None:
    assert all_keys(backend) == set()


def test_restart_in_the_same_directory_keeps_data_ports_and_slots(tmp_path: Path) -> None:
    with own_server(tmp_path, append_only=True) as first:
        ports = [node.port for node in first.nodes]
        with observer(first) as client:
            for number in range(30):
                client.set(f"key-{number}", "x")
        first.stop()
    with own_server(tmp_path, append_only=True) as second:
        assert [node.port for node in second.nodes] == ports
        assert len(second.masters()) == 3
        assert len(all_keys(second)) == 30


def test_killed_master_is_replaced_by_its_replica(tmp_path: Path) -> None:
    with own_server(tmp_path, replicas=1, node_timeout_ms=1000) as embedded:
        victim = embedded.nodes[0]
        (heir,) = embedded.replica_of(victim)
        embedded.kill(victim)
        assert not victim.is_alive()
        wait_until(lambda: heir in embedded.masters(), what="the replica became a master")
        embedded.restart(victim)
        wait_until(lambda: victim in embedded.replica_of(heir), what="the old master follows")


def test_another_shape_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False):
        pass
    with pytest.raises(EmbeddedError, match="another shape"), own_server(tmp_path):
        pass
