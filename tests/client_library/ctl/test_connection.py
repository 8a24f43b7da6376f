"""Which server gets which key, exit codes, and what a terminal changes."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ojs_client import ApiError, SyncClient
from ojs_client.ctl import keyboard, profile
from ojs_client.ctl.app import cli
from ojs_client.ctl.command import LEAST_INTERVAL_S
from ojs_client.ctl.keyboard import keys_of, pressed_keys
from ojs_client.ctl.output import compact
from ojs_client.ctl.text import parse_duration, rate, safe, short_span
from tests.client_library.ctl.conftest import Ctl
from tests.server.programs import free_port

OJSCTL = [sys.executable, "-m", "ojs_client.ctl"]
SECRET = "a-secret-key-0123456789"


@contextmanager
def answering(
    status: int, body: Any = None, paths: list[str] | None = None
) -> Iterator[tuple[str, list[str | None]]]:
    """Answer every request in the same way; yields the address and the keys that arrive.

    ``paths`` gets the paths of the requests.
    """
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["Authorization"])
            if paths is not None:
                paths.append(self.path)
            content = json.dumps(body or {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", keys
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, 3), (410, 3), (401, 4), (403, 4), (409, 4), (429, 4), (500, 1), (503, 5), (502, 5)],
)
def test_exit_codes_tell_failures_apart(status: int, code: int) -> None:
    body = {"error": {"code": "x", "message": "why\x1b[31m"}}
    with answering(status, body) as (url, _):
        result = Ctl(url).run("job", "get", "some-id", code=code)
    assert "why\\x1b[31m" in result.stderr
    assert result.stdout == ""


def test_a_server_that_is_away_is_unreachable() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert url in Ctl(url).run("queue", "ls", code=5).stderr
    assert Ctl(url).run("doctor", code=5).stdout.split()[3:5] == ["error", "connection"]


def test_what_is_no_json_is_no_answer() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=_answer_html, args=(server,))
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert "not JSON" in Ctl(url).run("queue", "ls", code=5).stderr
        thread.join()


def _answer_html(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")


def test_a_server_may_live_under_a_path() -> None:
    paths: list[str] = []
    with answering(404, paths=paths) as (url, _):
        Ctl(f"{url}/jobs/").run("queue", "get", "a/../b c", code=3)
    assert paths == ["/jobs/ojs/v1/admin/queues/a%2F..%2Fb%20c"]


def test_what_is_no_ojs_server_is_told_so() -> None:
    with answering(200, {"hello": 1}) as (url, _):
        assert "is it an OJS server" in Ctl(url).run("queue", "ls", code=5).stderr


def test_a_key_goes_only_to_the_server_it_belongs_to(tmp_path: Path) -> None:
    file = tmp_path / "profiles.json"
    env = {"OJS_PROFILES": str(file), "OJS_URL": ""}
    page: dict[str, Any] = {"items": [], "pagination": {}}
    with answering(200, page) as (one, one_keys), answering(200, page) as (two, two_keys):
        ctl = Ctl(one, env=env)
        ctl.run("profile", "add", "one", one, "--key-file", "-", "--use", text=f"{SECRET}\n")
        ctl.run("queue", "ls")
        ctl.run("queue", "ls", env={"OJS_API_KEY": "of-the-environment"})
        ctl.run("queue", "ls", "--url", two)
        ctl.run("queue", "ls", env={"OJS_URL": two, "OJS_API_KEY": "of-the-environment"})
        ctl.run("--profile", "one", "queue", "ls", env={"OJS_URL": two, "OJS_API_KEY": "other"})
        ctl.run("queue", "ls", "--profile", "one", "--url", two, code=2)
    assert one_keys == [f"Bearer {SECRET}"] * 3
    assert two_keys == [None, "Bearer of-the-environment"]


def test_profiles_are_for_their_owner_and_never_printed(ctl: Ctl) -> None:
    file = Path(ctl.env["OJS_PROFILES"])
    printed = []
    add = ["profile", "add", "prod", "https://jobs.example.com/", "--key-file", "-"]
    printed.append(ctl.run(*add, text=SECRET).output)
    printed.append(ctl.run("profile", "add", "local", "http://localhost:8080").output)
    forms = ("table", "wide", "json", "jsonl", "name")
    printed += [ctl.run("profile", "ls", "-o", form).output for form in forms]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not any(SECRET in text for text in printed)
    assert SECRET not in repr(profile.Profile("http://a", SECRET))
    assert SECRET not in repr(profile.Connection("http://a", SECRET, "x"))
    assert SECRET not in repr(profile.Profile(f"http://u:{SECRET}@a"))
    assert SECRET not in repr(profile.Connection(f"http://u:{SECRET}@a", "", "x"))
    assert [each["name"] for each in ctl.json("profile", "ls") if each["in_use"]] == ["prod"]
    ctl.run("profile", "use", "local")
    assert [each["name"] for each in ctl.json("profile", "ls") if each["in_use"]] == ["local"]
    ctl.run("profile", "rm", "local", code=2)
    ctl.run("profile", "rm", "local", "--yes")
    ctl.run("profile", "use", "local", code=2)

    file.chmod(0o644)
    assert "chmod 600" in ctl.run("profile", "ls", code=2).stderr
    file.chmod(0o600)
    file.write_text("{")
    assert "damaged" in ctl.run("profile", "ls", code=2).stderr


def test_a_container_without_a_home_needs_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError

    for name in ("OJS_URL", "OJS_PROFILES", "OJS_PROFILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("OJS_API_KEY", "k")
    assert profile.connection(None, None).api_key == "k"
    with pytest.raises(profile.ProfileError, match="no home"):
        profile.connection(None, "prod")


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://a", "http://", "http://u:p@a", "http://a:x", "http://[a"]
)
def test_an_address_that_is_none_is_refused(ctl: Ctl, url: str) -> None:
    ctl.run("queue", "ls", "--url", url, code=2)
    ctl.run("profile", "add", "x", url, code=2)


@pytest.mark.parametrize("url", [f"u:{SECRET}@a", f"http://u:{SECRET}@a", f"http://u:{SECRET}@a:x"])
def test_no_password_of_an_address_is_printed(url: str, tmp_path: Path) -> None:
    file = tmp_path / "profiles.json"
    file.write_text(json.dumps({"profiles": {"prod": {"url": url}}, "current": "prod"}))
    file.chmod(0o600)
    ctl = Ctl(url, env={"OJS_PROFILES": str(file)})
    printed = [
        ctl.run("doctor", code=2).output,
        ctl.run("queue", "ls", "--url", url, code=2).output,
    ]
    printed += [ctl.run("queue", "ls", "--profile", "prod", code=2).output]
    printed += [ctl.run("profile", "add", "x", url, code=2).output]
    printed += [ctl.run("profile", "ls", "-o", form).output for form in ("wide", "json", "name")]
    assert "prod" in printed[-1]
    assert SECRET not in "".join(printed)


def test_spans_and_control_characters() -> None:
    spans = {0: "0s", 99: "99s", 100: "1m40s", 3599: "59m", 7260: "2h01m", 90_000: "1d01h"}
    assert {seconds: short_span(seconds) for seconds in spans} == spans
    assert short_span(20 * 86_400) == "20d"
    rates = {0: "0", 0.017: "0.017", 1.669: "1.67", 99.96: "100", 1669.2: "1669"}
    assert {value: rate(value) for value in rates} == rates
    given = {"500ms": 0.5, "2": 2, "1.5m": 90, "2h": 7200, "7d": 604_800}
    assert {text: parse_duration(text) for text in given} == given
    assert safe("a\nb\x1b\u202e") == "a\\x0ab\\x1b\\u202e"
    for hidden in "\u061c\u200b\u200d\u200e\u2066\ufeff":
        escaped = f"\\u{ord(hidden):04x}"
        assert safe(f"a{hidden}", keep_lines=True) == safe(f"a{hidden}") == f"a{escaped}"
        assert compact(f"a{hidden}") == f'"a{escaped}"'


# -- a terminal


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"aQ ", "aq "),
        (b"\x1b[A\x1b[C\x1bOD", ""),  # arrows
        (b"n\x1b[1;5Dd\x1b[[Ac\x1b[3~", "ndc"),
        (b"\x1bq\x1b", ""),  # Alt with q, and Escape
    ],
)
def test_arrows_and_other_special_keys_are_no_letters(sent: bytes, keys: str) -> None:
    assert keys_of(sent) == keys


def test_a_special_key_may_arrive_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyboard, "_MAX_BYTES", 1)
    ours, theirs = os.pipe()
    try:
        os.write(theirs, b"\x1b[1;5Aa\x1b")
        assert [pressed_keys(ours, 60) for _ in range(3)] == ["", "a", ""]
    finally:
        os.close(theirs)
        os.close(ours)


def on_terminal(words: Sequence[str], url: str, *, typed: bytes = b"", **more: str) -> str:
    """Run ``ojsctl`` on a terminal of 80 columns; returns what it shows."""
    env = {**os.environ, "OJS_URL": url, "TERM": "xterm-256color", "COLUMNS": "80", **more}
    env = {name: value for name, value in env.items() if value}
    ours, theirs = pty.openpty()
    shown = b""
    with subprocess.Popen(
        [*OJSCTL, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        limit = threading.Timer(120, process.kill)
        limit.start()
        os.write(ours, typed)
        with suppress(OSError):  # the end of the terminal
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
        code = process.wait(60)
        limit.cancel()
    assert code == 0, shown
    return shown.decode()


def test_a_terminal_has_colours_unless_the_user_wants_none(ctl: Ctl) -> None:
    words = ["queue", "ls"]
    plain = ctl.run(*words, env={"COLUMNS": "80"}).stdout
    coloured = on_terminal(words, ctl.url, NO_COLOR="")
    assert "\x1b[33mpaused" in coloured
    without = re.sub(r"\x1b\[[0-9;]*m", "", coloured).replace("\r", "")
    # The names only: leases of other tests end at any time, which changes the numbers.
    assert [line.split()[0] for line in without.splitlines()] == (
        [line.split()[0] for line in plain.splitlines()]
    )
    bold = on_terminal(words, ctl.url, NO_COLOR="1")
    assert not re.search(r"\x1b\[3[0-9]", bold)


def test_a_terminal_is_asked_before_many_jobs_change(ctl: Ctl) -> None:
    ctl.enqueue("q.asked", 2)
    shown = on_terminal(["job", "cancel", "--queue", "q.asked"], ctl.url, typed=b"y\n")
    assert "Cancel 2 jobs?" in shown
    assert "2 jobs cancelled" in shown


def test_watch_repeats_until_it_is_interrupted(ctl: Ctl) -> None:
    words = [*OJSCTL, "queue", "get", "seed.mail", "-o", "name", "--watch", "50ms"]
    env = {**os.environ, "OJS_URL": ctl.url}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert lines == ["seed.mail\n"] * 3


def test_watch_that_is_interrupted_in_its_first_run_has_not_succeeded() -> None:
    words = [*OJSCTL, "job", "get", "some-id"]
    with socket.create_server(("127.0.0.1", 0)) as server:  # answers nothing
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        for command in (words, [*words, "--watch", "1s"]):
            env = {**os.environ, "OJS_URL": url}
            with (
                subprocess.Popen(command, stderr=subprocess.PIPE, env=env) as process,
                server.accept()[0],
            ):
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"code": "refused", "message": "not here"}}, "not here"),
        ({"job": 1}, "422 without an error"),
    ],
)
def test_a_removal_that_is_refused_as_a_whole_is_an_error(body: object, message: str) -> None:
    with answering(422, body) as (url, _):
        assert message in Ctl(url).run("job", "rm", "some-id", "--yes", code=4).stderr
        with SyncClient(url) as client, pytest.raises(ApiError, match=message):
            client.jobs.delete("some-id")


def test_watch_waits_while_a_server_is_busy_and_ends_with_its_failure() -> None:
    replies = [(200, None), (429, "2"), (503, None), (404, None)]
    times: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            times.append(time.monotonic())
            status, retry_after = replies[len(times) - 1]
            content = json.dumps({"job": {"id": "a"}} if status == 200 else {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if retry_after:
                self.send_header("Retry-After", retry_after)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            words = ["job", "get", "some-id", "-o", "name", "--watch", "1ms"]
            result = Ctl(url).run(*words, code=3)
        finally:
            server.shutdown()
            thread.join()
    assert result.stdout == "a\n"
    assert len(times) == len(replies)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    for pause_s, least_s in zip(pauses, (LEAST_INTERVAL_S, 2.0, 1.0), strict=True):
        assert pause_s > 0.9 * least_s


def test_a_pipe_that_closes_early_is_no_error(ctl: Ctl) -> None:
    words = f"{sys.executable} -m ojs_client.ctl job ls --all -o jsonl | head -n 1"
    env = {**os.environ, "OJS_URL": ctl.url}
    done = subprocess.run(
        ["bash", "-c", words],  # noqa: S607
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["id"]
    assert done.stderr == ""


def test_every_command_has_help_with_an_example(ctl: Ctl) -> None:
    for words in leaves(cli, ()):
        text = ctl.run(*words, "--help").output
        assert "Examples:\n" in text, words
        assert f"  ojsctl {' '.join(words)}" in text, words


def leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command that has no commands of its own."""
    if not hasattr(command, "commands"):
        yield words
        return
    for name, inner in command.commands.items():
        yield from leaves(inner, (*words, name))
