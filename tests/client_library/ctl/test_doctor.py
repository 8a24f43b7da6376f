"""What ``ojsctl doctor`` and ``top`` say about servers and keys that are not as usual."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.client_library.ctl.conftest import Ctl
from tests.client_library.ctl.test_connection import OJSCTL

PROBLEMS = (
    {
        "id": "type_without_worker:mail/t.new",
        "rule": "type_without_worker",
        "severity": "critical",
        "since": "2026-01-01T00:00:00Z",
        "text": "No worker runs the type t.new",
        "action": "Start workers that have a handler for it.",
        "link": "ui/jobs?type=t.new",
    },
    {
        "id": "queue_paused",
        "rule": "queue_paused",
        "severity": "warning",
        "text": "Queue mail is paused",
        "action": "Resume it.",
    },
)


@contextmanager
def serving(
    *problems: Mapping[str, str],
    refused: str = "",
    status: int = 403,
    date: str | None = None,
    failures: Sequence[int] = (),
) -> Iterator[str]:
    """Answer what doctor asks; ``refused`` is the beginning of paths that get ``status``.

    The first requests get the statuses ``failures``.
    """
    left = list(failures)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            content = json.dumps(self.body()).encode()
            is_refused = refused and self.path.startswith(refused)
            self.send_response(left.pop(0) if left else status if is_refused else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def body(self) -> Any:
            if self.path.endswith("/health"):
                return {"version": "9", "backend": {"type": "redis", "status": "ok"}}
            if self.path.endswith("/problems"):
                return {"items": problems, "total": len(problems)}
            return {"items": []} if "/admin/queues" in self.path else {}

        def date_time_string(self, timestamp: float | None = None) -> str:
            return date or super().date_time_string(timestamp)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def statuses(url: str, code: int) -> dict[str, str]:
    checks = Ctl(url).json("doctor", code=code)
    return {each["check"]: each["status"] for each in checks}


def test_a_server_that_is_well_passes() -> None:
    with serving() as url:
        found = statuses(url, 0)
    for check in ("connection", "backend", "key", "clock", "problems"):
        assert found[check] == "ok", check
    assert found["durability"] == "skipped"


def test_each_problem_of_the_server_is_listed() -> None:
    with serving(*PROBLEMS) as url:
        checks = {each["check"]: each for each in Ctl(url).json("doctor", code=1)}
        shown = Ctl(url).run("doctor", code=1).stdout
    critical, warning = checks["type_without_worker:mail/t.new"], checks["queue_paused"]
    assert (critical["status"], warning["status"]) == ("error", "warning")
    assert critical["link"] == "ui/jobs?type=t.new"
    assert warning["detail"] == "Queue mail is paused. Resume it."
    assert re.search(r"runs the type t\.new \(for \d+d\)\. Start workers", shown)
    assert "problems" not in checks
    with serving(PROBLEMS[1]) as url:
        statuses(url, 0)


def test_a_server_that_lists_no_problems_is_told_apart_from_one_without() -> None:
    for status, reason in ((404, "before 0.2"), (403, "answered 403"), (500, "answered 500")):
        with serving(refused="/ojs/v1/admin/problems", status=status) as url:
            checks = {each["check"]: each for each in Ctl(url).json("doctor")}
        assert checks["problems"]["status"] == "skipped"
        assert reason in checks["problems"]["detail"]


def test_a_key_without_admin_scopes_is_told_what_it_lacks() -> None:
    with serving(refused="/ojs/v1/admin") as url:
        checks = {each["check"]: each for each in Ctl(url).json("doctor")}
    assert checks["scopes"]["status"] == "warning"
    assert checks["scopes"]["detail"] == "missing: ojs:admin:read, ojs:admin:write"


def test_top_needs_no_right_to_see_the_workers() -> None:
    with serving(refused="/ojs/v1/admin/workers") as url:
        assert "Workers  unknown" in Ctl(url).run("top", "--once").stdout
    with serving(refused="/ojs/v1/admin/stats") as url:
        Ctl(url).run("top", "--once", code=4)


@pytest.mark.parametrize(("problems", "code"), [((), 0), (PROBLEMS, 1)])
def test_doctor_watches_on_after_a_failure_and_ends_with_the_code_of_its_last_run(
    problems: Sequence[Mapping[str, str]], code: int
) -> None:
    with serving(*problems, failures=[500]) as url:
        words = [*OJSCTL, "doctor", "--watch", "1ms", "-o", "jsonl"]
        env = {**os.environ, "OJS_URL": url}
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as process:
            assert process.stdout is not None
            checks = (json.loads(line)["check"] for line in process.stdout)
            seen = list(itertools.takewhile("persistence".__ne__, itertools.islice(checks, 50)))
            next(checks)  # the next run has begun, so the last one has ended
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == code
    assert seen[:2] == ["connection", "connection"]
    assert "clock" in seen


def test_a_clock_that_is_wrong_is_found() -> None:
    with serving(date="Thu, 01 Jan 2026 00:00:00 GMT") as url:
        assert statuses(url, 0)["clock"] == "warning"
