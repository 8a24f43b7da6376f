"""The progress bar: on stderr, and only if that is a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from ojs_client.ctl.progress import Bar
from tests.client_library.ctl.conftest import Ctl
from tests.client_library.ctl.test_connection import OJSCTL
from tests.client_library.ctl.test_jobs import dead

_HIDE_CURSOR, _SHOW_CURSOR, _ERASE_LINE = "\x1b[?25l", "\x1b[?25h", "\x1b[2K"


@contextmanager
def terminal() -> Iterator[tuple[int, list[str]]]:
    """Yield the program's end of a terminal, and the list that gets what it has shown at the end.

    The caller closes the end of the program.
    """
    ours, theirs = pty.openpty()
    shown: list[str] = []

    def read() -> None:
        got = b""
        with suppress(OSError):  # the end of the terminal
            while part := os.read(ours, 65536):
                got += part
        shown.append(got.decode())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield theirs, shown
        reader.join(60)
        assert not reader.is_alive()
    finally:
        os.close(ours)


@pytest.fixture(autouse=True)
def xterm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")


def test_a_bar_counts_and_disappears_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal() as (theirs, shown), os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with Bar("cancel", 7) as bar:
            bar.advance(2)
            bar.advance()
            bar.set(5)
            bar.advance()
        with Bar("search") as unknown_total:
            unknown_total.advance(3)
        stderr.close()
        monkeypatch.undo()
    first, last = shown[0].split("search", 1)
    assert "cancel" in first
    assert "6/7" in first
    assert "3/?" in last
    assert first.count(_HIDE_CURSOR) >= 1
    assert last.count(_SHOW_CURSOR) == 1
    assert last.rstrip().endswith(_ERASE_LINE)


def test_a_bar_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal() as (theirs, shown), os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with pytest.raises(KeyboardInterrupt), Bar("count", 2):
            raise KeyboardInterrupt
        stderr.close()
        monkeypatch.undo()
    assert "0/2" in shown[0]
    assert _SHOW_CURSOR in shown[0]


def test_without_a_terminal_no_bar_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with Bar("cancel", 7) as bar:
        bar.advance()
        bar.set(5)
    assert stderr.getvalue() == ""


def test_a_command_shows_its_progress_on_stderr_only(ctl: Ctl) -> None:
    dead(ctl, "q.progress", 2, message="bar")
    [group] = ctl.names("error", "ls", "--queue", "q.progress")
    words = ["error", "retry", group, "--queue", "q.progress", "--yes", "-o", "json"]
    with terminal() as (theirs, shown):
        env = {**os.environ, "OJS_URL": ctl.url}
        with subprocess.Popen(
            [*OJSCTL, *words], stdout=subprocess.PIPE, stderr=theirs, env=env
        ) as process:
            os.close(theirs)
            stdout, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    assert json.loads(stdout)["succeeded"] == 2
    assert "retry" in shown[0]
    assert "2/?" in shown[0]
