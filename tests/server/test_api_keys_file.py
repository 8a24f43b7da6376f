"""`ojs-cluster serve` with a file of API keys, as an operator and its clients meet it."""

from __future__ import annotations

import os
import signal
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.tls import file_version
from tests.server.programs import Program, program
from tests.server.test_serve import CLI, OPEN, serve
from tests.support.servers import wait_until

ONE, TWO = "the-first-secret-of-this-test-file", "another-secret-of-this-test-file-"
assert len(ONE) == len(TWO) + 1


def write(path: Path, secret: str, preset: str = "producer") -> None:
    """Write a file with one key, and put it in place as a whole."""
    digest = sha256(secret.encode()).hexdigest()
    text = f'[[key]]\nname = "ci"\nsha256 = "{digest}"\npreset = "{preset}"\n'
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def statuses(port: int, secret: str, *, tries: int = 12) -> set[int]:
    """Return the responses to this many connections, each from the process that accepts it."""
    headers = {"Authorization": f"Bearer {secret}"}
    url = f"http://127.0.0.1:{port}/ojs/v1/jobs"
    body = {"type": "t", "args": []}
    return {
        httpx.post(url, headers=headers, json=body, timeout=60).status_code for _ in range(tries)
    }


def reloads(port: int) -> list[dict[str, Any]]:
    """What the audit says of reloads."""
    url = f"http://127.0.0.1:{port}/ojs/v1/admin/audit?action=keys.reload"
    reply = httpx.get(url, headers={"Authorization": "Bearer k"}, timeout=60)
    entries: list[dict[str, Any]] = reply.json()["entries"]
    return entries


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    write(path, ONE)
    return path


def test_another_file_of_the_same_size_and_time_is_a_new_version(keys: Path) -> None:
    before, times = file_version(str(keys)), keys.stat()
    write(keys, "X" * len(ONE))  # the file holds a digest, whose length is always the same
    os.utime(keys, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = file_version(str(keys))
    assert before is not None
    assert after is not None
    assert (before[1:], before != after) == (after[1:], True)


@pytest.mark.parametrize("lane", ["0", "1"], ids=["hypercorn", "lane"])
def test_a_changed_file_holds_without_a_restart(
    standalone: Embedded, keys: Path, lane: str
) -> None:
    env = {"OJS_WORKERS": "2", "OJS_FAST_LANE": lane, "OJS_API_KEYS_FILE": str(keys)}
    with serve(standalone.url, **env, OJS_API_KEY="k") as (running, port):
        running.wait_line("ready to serve")
        assert statuses(port, ONE) == {201}
        assert statuses(port, "k") == {201}
        write(keys, TWO)
        wait_until(lambda: statuses(port, ONE) == {401}, what="the old key is refused")
        wait_until(lambda: statuses(port, TWO) == {201}, what="the new key is accepted")
        write(keys, TWO, preset="viewer")
        wait_until(lambda: statuses(port, TWO) == {403}, what="the scope is taken away")
        wait_until(lambda: len(reloads(port)) == 4, what="both processes record both reloads")
        assert {str(each["changed"]) for each in reloads(port)} == {"['ci']"}
        assert len({each["process"] for each in reloads(port)}) == 2
        assert running.output.count('"action":"keys.reload"') == 4
        assert statuses(port, "k") == {201}
        _ends_well(running)


def test_a_wrong_file_keeps_the_keys_and_is_told_once(standalone: Embedded, keys: Path) -> None:
    with serve(standalone.url, OJS_API_KEYS_FILE=str(keys)) as (running, port):
        running.wait_line("ready to serve")
        write(keys, TWO, preset="root")
        line = running.wait_line("cannot be used, so the previous API keys stay valid")
        assert "key 1 ('ci'): preset: expected one of" in line
        assert statuses(port, ONE) == {201}
        assert statuses(port, TWO) == {401}
        keys.unlink()
        running.wait_line("cannot be read (No such file or directory)")
        assert statuses(port, ONE) == {201}
        write(keys, TWO)
        wait_until(lambda: statuses(port, TWO) == {201}, what="the new key is accepted")
        assert running.output.count("cannot be used, so") == 2
        assert ONE not in running.output
        assert TWO not in running.output
        _ends_well(running)


def test_a_hangup_reads_the_file_at_once_in_every_process(standalone: Embedded, keys: Path) -> None:
    """Also where nothing but the content has changed."""
    with serve(
        standalone.url, OJS_API_KEYS_FILE=str(keys), OJS_WORKERS="2", OJS_SHUTDOWN_TIMEOUT="5s"
    ) as (running, port):
        running.wait_line("ready to serve")
        before = os.stat(keys)
        with keys.open("r+") as file:  # in place, with the same length
            text = file.read().replace(
                sha256(ONE.encode()).hexdigest(), sha256(TWO.encode()).hexdigest()
            )
            file.seek(0)
            file.write(text)
        os.utime(keys, ns=(before.st_atime_ns, before.st_mtime_ns))
        running.signal(signal.SIGHUP)
        wait_until(lambda: statuses(port, ONE) == {401}, what="the old key is refused")
        assert statuses(port, TWO) == {201}
        _ends_well(running)


def _ends_well(running: Program) -> None:
    running.signal(signal.SIGTERM)
    assert running.wait_exit() == 0
    assert "Traceback" not in running.output


def test_a_wrong_file_refuses_the_start_with_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[[key]]\nname = "a b"\nsha256 = "{ONE}"\npreset = "root"\n')
    for command in ("serve", "dev"):
        env = {**OPEN, "OJS_API_KEYS_FILE": str(path)}
        with program([*CLI, command], env=env) as running:
            assert running.wait_exit() == 2
            for problem in ("key 1: name:", "key 1: preset:", "key 1: sha256:"):
                assert f"OJS_API_KEYS_FILE={str(path)!r}: {problem}" in running.output
            assert ONE not in running.output
            assert "Traceback" not in running.output
    with program([*CLI, "config"], env=env) as running:
        assert running.wait_exit() == 0
        assert "`serve` will refuse to start: OJS_API_KEYS_FILE" in running.output


def test_a_file_alone_is_enough_and_never_opens_the_server(
    standalone: Embedded, keys: Path
) -> None:
    """OJS_ALLOW_INSECURE_NO_AUTH means nothing beside a key."""
    with serve(standalone.url, OJS_API_KEYS_FILE=str(keys)) as (running, port):
        running.wait_line("ready to serve")
        url = f"http://127.0.0.1:{port}/ojs/manifest"
        assert httpx.get(url, timeout=60).status_code == 401
        assert "WITHOUT AUTHENTICATION" not in running.output
