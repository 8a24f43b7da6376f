"""`ojs-cluster dev` as a newcomer meets it, and `serve` as an operator does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import trio

from ojs_cluster.server.commands.dev import (
    PASSWORD_FILE,
    DevOptions,
    restart_node_when_dead,
    run_dev,
)
from ojs_cluster.server.config.load import ConfigError
from ojs_cluster.server.embedded.servers import Embedded
from tests.redis.helpers import eventually
from tests.server.programs import Program, free_port, get, pid_exists, program
from tests.support.nodes import children_of
from tests.support.servers import own_server, wait_until

CLI = ("-m", "ojs_cluster.cli")
JOB = {"type": "email.send", "args": ["user@example.com"]}
ONE = {"OJS_WORKERS": "1"}
"""A second API process takes a second to start, which only some of the tests need."""


@contextlib.contextmanager
def dev(folder: Path, *options: str, **env: str) -> Iterator[tuple[Program, str]]:
    """Run `dev` in a folder until its banner is there; gives its URL as well."""
    env.setdefault("OJS_PORT", str(free_port()))
    with program([*CLI, "dev", *options], env=env, cwd=folder) as running:
        running.wait_line("Ctrl-C stops everything")
        yield running, running.wait_line("API  ").split()[1].removesuffix("/ojs/v1")


def enqueue(url: str) -> str:
    answer = httpx.post(f"{url}/ojs/v1/jobs", json=JOB, timeout=60)
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["job"]["id"]
    return job_id


def state(url: str, job_id: str) -> Any:
    return httpx.get(f"{url}/ojs/v1/jobs/{job_id}", timeout=60).json()["job"]["state"]


def servers(children: list[int]) -> dict[int, int]:
    """The Redis nodes among some processes, with their ports (Linux)."""
    titles = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    found = {child: re.search(rb":(\d+) \[cluster\]", title) for child, title in titles.items()}
    return {child: int(match[1]) for child, match in found.items() if match}


def await_written(folder: Path, children: list[int]) -> None:
    """Until the nodes have given all writes to the system: SIGKILL takes what waits for a fsync."""
    ports = servers(children).values()
    assert ports
    password = (folder / ".ojs-data" / PASSWORD_FILE).read_text().strip()

    def written() -> bool:
        for port in ports:
            with redis.Redis(port=port, password=password) as node:
                if node.info("persistence")["aof_buffer_length"]:
                    return False
        return True

    wait_until(written, what="no write waits for the disk")


def assert_nobody_else_reads(data: Path, ports: Iterable[int]) -> None:
    """The folder is its owner's alone, and a client without the password gets nothing."""
    assert data.stat().st_mode & 0o077 == 0
    for port in ports:
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_dev_serves_stops_cleanly_and_keeps_jobs_over_a_restart(tmp_path: Path) -> None:
    with dev(tmp_path, **ONE) as (running, url):
        job_id = enqueue(url)
        children = children_of(running.process.pid)
        assert_nobody_else_reads(tmp_path / ".ojs-data", servers(children).values())
        running.signal(signal.SIGINT)
        assert running.wait_exit() == 0
        assert "Stopped." in running.output
        assert "Traceback" not in running.output
        assert not any(map(pid_exists, children))
    with dev(tmp_path, **ONE) as (_, url):
        assert state(url, job_id) == "available"


def test_second_dev_in_the_same_folder_says_why_it_cannot(tmp_path: Path) -> None:
    with dev(tmp_path, **ONE) as (first, _):
        with program([*CLI, "dev"], cwd=tmp_path) as second:
            assert second.wait_exit() == 1
            assert str(first.process.pid) in second.output
            assert "--data" in second.output
            assert "Traceback" not in second.output
        assert first.process.poll() is None


def test_dev_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    with dev(tmp_path) as (running, url):
        job_id = enqueue(url)
        children = children_of(running.process.pid)
        assert len(children) == 6, "three servers, two API processes, one scheduler"
        await_written(tmp_path, children)
        running.signal(signal.SIGKILL)
        running.wait_exit()
        wait_until(lambda: not any(map(pid_exists, children)), what="all children ended")
    with dev(tmp_path, **ONE) as (_, url):
        assert state(url, job_id) == "available"


def test_dev_restarts_a_server_that_died(tmp_path: Path) -> None:
    with dev(tmp_path, **ONE) as (running, url):
        job_id = enqueue(url)
        children = children_of(running.process.pid)
        await_written(tmp_path, children)
        for child in servers(children):
            os.kill(child, signal.SIGKILL)
        running.wait_line("starting it again")

        def back() -> bool:
            with contextlib.suppress(httpx.TransportError):
                answer = get(int(url.rpartition(":")[2]), f"/ojs/v1/jobs/{job_id}")
                return answer.status_code == 200
            return False

        wait_until(back, timeout_s=120, what="the job can be read again")


async def test_a_server_that_cannot_be_started_is_told_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def complaints() -> int:
        return sum("could not be started" in message for message in caplog.messages)

    with own_server(tmp_path / "data", cluster=False) as embedded:
        (node,) = embedded.nodes
        aside = tmp_path / "aside"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart_node_when_dead, embedded, node, threading.Event())
            node.directory.rename(aside)
            node.directory.write_text("a file where the folder was")
            embedded.kill(node)
            await eventually(lambda: complaints() >= 2, what="two starts in vain")
            node.directory.unlink()
            aside.rename(node.directory)
            await eventually(node.is_alive, timeout_s=120, what="it runs again")
            nursery.cancel_scope.cancel()
        assert "File exists" in caplog.text


async def test_the_wait_for_a_server_that_does_not_answer_ends_with_dev(tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexec sleep 600\n")
    mute.chmod(0o755)
    with own_server(tmp_path / "data", cluster=False) as embedded:
        (node,) = embedded.nodes
        embedded.start_timeout_s = 600
        embedded.binary = dataclasses.replace(embedded.binary, path=mute)
        closing = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart_node_when_dead, embedded, node, closing)
            old = node.pid
            embedded.kill(node)
            await eventually(lambda: node.pid != old, what="it is started again")
            closing.set()
            nursery.cancel_scope.cancel()
        assert node.is_alive(), "it was waited for to the end"


def test_dev_uses_the_server_of_redis_url(tmp_path: Path, standalone: Embedded) -> None:
    with dev(tmp_path, REDIS_URL=standalone.url, **ONE) as (_, url):
        job_id = enqueue(url)
        assert state(url, job_id) == "available"
    assert not (tmp_path / ".ojs-data").exists()
    with standalone.nodes[0].client() as client:
        assert client.dbsize() > 0


def test_dev_finds_the_next_free_port(tmp_path: Path, standalone: Embedded) -> None:
    env = {"REDIS_URL": standalone.url}
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # another process uses the port, which is as good
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        with program([*CLI, "dev"], env=env, cwd=tmp_path) as running:
            url = running.wait_line("API  ").split()[1]
            assert "/ui/  (a living example: make demo, or ojs-cluster dev" in running.output
            assert not url.startswith("http://127.0.0.1:8080/")
            assert get(int(url.split(":")[2].split("/")[0]), "/health").status_code == 200


def test_dev_refuses_a_given_port_that_is_taken(tmp_path: Path, standalone: Embedded) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = {"REDIS_URL": standalone.url}
        with program([*CLI, "dev", "--port", port], env=env, cwd=tmp_path) as running:
            assert running.wait_exit() == 1
            assert f"port {port}" in running.output
            assert "Traceback" not in running.output


def test_dev_does_not_open_itself_to_other_machines(tmp_path: Path) -> None:
    options = DevOptions(server="auto", data=tmp_path, masters=3)
    with pytest.raises(ConfigError, match="other machines"):
        run_dev(options, {"OJS_HOST": "0.0.0.0"})


def test_dev_that_must_not_be_open_asks_for_a_key(tmp_path: Path) -> None:
    options = DevOptions(server="auto", data=tmp_path, masters=3)
    with pytest.raises(ConfigError, match="OJS_API_KEY is not set"):
        run_dev(options, {"OJS_ALLOW_INSECURE_NO_AUTH": "false"})


def test_dev_with_a_key_asks_for_it(tmp_path: Path, standalone: Embedded) -> None:
    env = {"REDIS_URL": standalone.url, "OJS_API_KEY": "dev-key-1", **ONE}
    with dev(tmp_path, **env) as (running, url):
        assert httpx.post(f"{url}/ojs/v1/jobs", json=JOB, timeout=60).status_code == 401
        headers = {"Authorization": "Bearer dev-key-1"}
        answer = httpx.post(f"{url}/ojs/v1/jobs", json=JOB, headers=headers, timeout=60)
        assert answer.status_code == 201
        assert "dev-key-1" not in running.output
