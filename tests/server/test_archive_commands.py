"""`ojs-cluster export` and `import` as an operator runs them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.commands import archive
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.open import open_store
from tests.server.programs import clean_environment
from tests.store.shortcuts import put
from tests.support.servers import all_keys, flush

CLI = ("-m", "ojs_cluster.cli")


def run(
    *command: str, redis: str = "redis://127.0.0.1:1", stdin: bytes = b"", **env: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *CLI, *command],
        env=clean_environment({"REDIS_URL": redis, **env}),
        input=stdin,
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def busy(cluster: Embedded) -> Embedded:
    """A cluster with some jobs."""

    async def fill() -> None:
        async with open_store(ClientSettings.from_url(cluster.url)) as store:
            for number in range(50):
                await put(store, f"q{number % 7}")

    trio.run(fill)
    return cluster


def test_a_file_moves_jobs_to_another_installation(
    busy: Embedded, standalone: Embedded, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.jsonl"

    out = run("export", "--output", str(file), redis=busy.url)
    back = run("import", str(file), redis=standalone.url, OJS_SHARDS="16")
    again = run("import", str(file), redis=standalone.url, OJS_SHARDS="16")

    assert (out.returncode, out.stdout) == (0, b"")
    assert b"exported 50 jobs, 7 queues" in out.stderr
    assert back.returncode == again.returncode == 0
    assert b"50 jobs created, 0 existed already" in back.stderr
    assert b"\x1b" not in out.stderr + back.stderr, "no progress without a terminal"
    assert b"0 jobs created, 50 existed already" in again.stderr
    assert sum(b"}:j:" in key for key in all_keys(standalone)) >= 50


def test_nobody_else_may_read_the_file_and_it_has_its_name_when_it_is_whole(
    busy: Embedded, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text("the one before")

    failed = run("export", "--output", str(file), OJS_REDIS_CALL_TIMEOUT="1s")
    assert failed.returncode == 1
    assert b"Traceback" not in failed.stderr
    assert file.read_text() == "the one before"

    assert run("export", "--output", str(file), redis=busy.url).returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == [file.name]
    assert "end" in json.loads(file.read_text().splitlines()[-1])


def test_standard_output_and_input_may_be_a_pipe(busy: Embedded, standalone: Embedded) -> None:
    out = run("export", redis=busy.url)
    back = run("import", redis=standalone.url, stdin=out.stdout)

    assert back.returncode == 0
    assert b"50 jobs created" in back.stderr


def test_what_is_wrong_is_told_by_line_and_exit_code(busy: Embedded, standalone: Embedded) -> None:
    lines = run("export", redis=busy.url).stdout.splitlines(keepends=True)

    cut = run("import", redis=standalone.url, stdin=b"".join(lines[:-1]))
    assert cut.returncode == 1
    assert b"50 jobs created" in cut.stderr
    assert b"the file ends early" in cut.stderr

    flush(standalone)
    broken = [*lines[:10], b"{}\n", *lines[10:]]
    one_off = run("import", redis=standalone.url, stdin=b"".join(broken))
    assert one_off.returncode == 1
    assert b"line 11: " in one_off.stderr
    assert b"50 jobs created" in one_off.stderr

    none = run("import", redis=standalone.url, stdin=b"a,b\n")
    assert none.returncode == 1
    assert b"not the file of an export" in none.stderr

    missing = run("import", "nowhere.jsonl", redis=standalone.url)
    assert missing.returncode == 1
    assert b"nowhere.jsonl" in missing.stderr


def test_data_of_another_layout_is_refused(busy: Embedded) -> None:
    out = run("export", redis=busy.url, OJS_SHARDS="32")

    assert out.returncode == 2
    assert b"OJS_SHARDS=64" in out.stderr


def test_a_line_that_does_not_end_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_LINE_BYTES", 8)
    file = tmp_path / "lines"
    file.write_bytes(b"1234\n" + b"x" * 20 + b"\n5678\n")
    with file.open("rb") as lines:
        assert list(archive._numbered(lines)) == [
            (1, b"1234\n"),
            (2, b"xxxxxxxx"),
            (3, b"5678\n"),
        ]


@pytest.mark.parametrize("command", ["config", "export"])
def test_a_reader_that_leaves_is_no_error(busy: Embedded, command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, *CLI, command],
            env=clean_environment({"REDIS_URL": busy.url}),
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write)

    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert done.returncode == 141


def on_a_terminal(*command: str, redis: str) -> str:
    """Run a command with a terminal as standard error; give what the terminal got."""
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, *CLI, *command],
            env=clean_environment({"REDIS_URL": redis, "TERM": "xterm"}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=slave,
            check=True,
            timeout=120,
        )
    finally:
        os.close(slave)
    assert b"\x1b" not in done.stdout
    shown = b""
    with contextlib.suppress(OSError):  # Linux raises EIO at the end of the output
        while part := os.read(master, 65_536):
            shown += part
    os.close(master)
    return shown.decode()


def test_a_terminal_shows_how_far_an_export_and_an_import_are(
    busy: Embedded, standalone: Embedded, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.jsonl"
    out = on_a_terminal("export", "--output", str(file), redis=busy.url)
    back = on_a_terminal("import", str(file), redis=standalone.url)

    assert re.search(r"exporting  \[[#-]{20}\] +\d+ %  \d+ jobs, \d+/s", out)
    assert out.endswith("\r\x1b[Kojs-cluster: exported 50 jobs, 7 queues\r\n")
    assert re.search(r"importing  \[#{20}\] 100 %  57 lines, \d+/s", back)
    assert back.endswith(
        "\r\x1b[Kojs-cluster: 50 jobs created, 0 existed already; 7 queues created, 0 existed "
        "already\r\n"
    )


def test_one_object_is_no_plural() -> None:
    progress = archive.ImportCounts()
    progress.created.update({"cron jobs": 1, "parts of results": 2})
    progress.ignored["saved searches"] = 1
    assert progress.text() == (
        "1 cron job created, 0 existed already; 2 parts of results created, 0 existed already; "
        "1 saved search ignored"
    )
