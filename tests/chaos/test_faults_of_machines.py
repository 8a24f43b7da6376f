"""Full disks and wrong clocks: they are what they claim to be, and end without a trace."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from ojs_cluster.server.embedded.servers import Embedded, find_server
from tests.chaos import disk
from tests.chaos.clock import Clock, find_library, offset_of
from tests.support.servers import wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Embedded]:
    binary = disk.with_full_disks(find_server(), tmp_path)
    config = {"appendfsync": "always"}
    with Embedded(tmp_path / "server", binary=binary, cluster=False, config=config) as running:
        yield running


def write(client: redis.Redis, size: int = 10_000) -> None:
    client.set("key", "x" * size)


def test_a_server_that_writes_its_aof_every_second_refuses_writes_while_its_disk_is_full(
    server: Embedded,
) -> None:
    [node] = server.nodes
    disk.set_fsync(node, "everysec")
    disk.fill(node)
    with node.client() as client:

        def is_refused() -> bool:
            try:
                write(client)
            except redis.ResponseError as error:
                return "MISCONF" in str(error)
            return False

        wait_until(is_refused, what="a write is refused")
        disk.empty(node)
        wait_until(lambda: disk.writes_aof(node), what="the AOF is written again")
        write(client)


def test_a_server_that_must_write_its_aof_first_ends_and_keeps_what_it_confirmed(
    server: Embedded,
) -> None:
    [node] = server.nodes
    with node.client() as client:
        client.set("confirmed", 1)
        disk.fill(node)
        with pytest.raises(redis.RedisError):
            write(client)
    wait_until(lambda: not node.is_alive(), what="the server has ended")
    server.restart(node)
    with node.client() as client:
        assert client.get("confirmed") == b"1"
        write(client)


def test_a_server_refuses_writes_until_a_snapshot_succeeds(tmp_path: Path) -> None:
    binary = disk.with_full_disks(find_server(), tmp_path)
    with Embedded(tmp_path / "server", binary=binary, cluster=False, append_only=False) as server:
        [node] = server.nodes
        with node.client() as client:
            for number in range(1000):
                client.set(f"key-{number}", number)
            disk.set_snapshots(node)
            disk.fill(node)
            assert disk.snapshot(node) == "err"
            with pytest.raises(redis.ResponseError, match="MISCONF"):
                write(client)
            disk.empty(node)
            assert disk.snapshot(node) == "ok"
            write(client)


_TELL = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"


def test_a_clock_jumps_while_its_process_runs(tmp_path: Path) -> None:
    library = find_library()
    if library is None:
        pytest.skip("libfaketime is not installed")
    clock = Clock(tmp_path / "clock", library)
    with subprocess.Popen(
        [sys.executable, "-c", _TELL],
        env={**clock.env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ahead_s() -> tuple[float, float]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            wall, monotonic = map(float, process.stdout.readline().split())
            return wall - time.time(), monotonic - time.monotonic()

        def is_ahead(offset_s: float) -> bool:
            return abs(ahead_s()[0] - offset_s) < 60

        assert is_ahead(0)
        for offset_s in (3600, -3600, 0):
            clock.set(offset_s)
            wait_until(partial(is_ahead, offset_s), what="the clock jumps")
            assert abs(ahead_s()[1]) < 60
        process.stdin.close()


def test_offsets_of_clocks_are_of_every_size_in_both_directions() -> None:
    offsets = [offset_of(number / 100) for number in range(100)]
    assert min(offsets) < -3600
    assert max(offsets) > 3600
    assert min(map(abs, offsets)) < 3
