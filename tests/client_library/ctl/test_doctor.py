"""What ``ojsctl doctor`` and ``top`` say about servers and keys that are not as usual."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from ojs_client.ctl.metrics import parse_metrics
from tests.client_library.ctl.conftest import Ctl

METRICS = """
# HELP ojs_redis_up x
ojs_redis_masters 3.0
ojs_redis_covered {covered}
ojs_shards_unreachable {unreachable}
ojs_scheduler_late_seconds{{loop="reap"}} 0.5
ojs_scheduler_late_seconds{{loop="promote"}} {late}
ojs_outbox_waiting 5.0
ojs_outbox_dead_letters {dead}
ojs_queue_oldest_available_age_seconds{{queue="a\\"b\\\\n"}} {oldest}
ojs_queue_paused{{queue="mail"}} {paused}
"""
WELL = {"covered": 1, "unreachable": 0, "late": 29, "dead": 0, "oldest": 200, "paused": 0}
SICK = {"covered": 0, "unreachable": 2, "late": 31, "dead": 1, "oldest": 400, "paused": 1}


@contextmanager
def serving(
    metrics: Mapping[str, float], *, forbidden: str = "", date: str | None = None
) -> Iterator[str]:
    """Answer what doctor asks; ``forbidden`` is the beginning of paths that get 403."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            status, content = 200, json.dumps(self.body()).encode()
            if self.path == "/metrics":
                content = METRICS.format(**metrics).encode()
            if forbidden and self.path.startswith(forbidden):
                status = 403
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def body(self) -> Any:
            if self.path.endswith("/health"):
                return {"version": "9", "backend": {"type": "redis", "status": "ok"}}
            if self.path.endswith("/maintenance"):
                return {"enabled": True, "refused": ["fetch"]}
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
    with serving(WELL) as url:
        found = statuses(url, 0)
    for check in ("connection", "key", "shards", "scheduler", "outbox", "oldest job", "clock"):
        assert found[check] == "ok", check
    assert (found["maintenance"], found["durability"]) == ("warning", "skipped")


def test_each_trouble_is_found() -> None:
    for name, check, status in (
        ("covered", "shards", "error"),
        ("unreachable", "shards", "error"),
        ("late", "scheduler", "error"),
        ("dead", "outbox", "error"),
        ("oldest", "oldest job", "warning"),
        ("paused", "paused queues", "warning"),
    ):
        with serving({**WELL, name: SICK[name]}) as url:
            found = statuses(url, 1 if status == "error" else 0)
        assert found[check] == status, name
        assert list(found.values()).count(status) - (status == "warning") == 1, name


def test_a_key_without_admin_scopes_is_told_what_it_lacks() -> None:
    with serving(WELL, forbidden="/ojs/v1/admin") as url:
        checks = {each["check"]: each for each in Ctl(url).json("doctor")}
    assert checks["scopes"]["status"] == "warning"
    assert checks["scopes"]["detail"] == "missing: ojs:admin:read, ojs:admin:write"
    with serving(WELL, forbidden="/metrics") as url:
        assert statuses(url, 0)["scheduler"] == "skipped"


def test_top_needs_no_right_to_see_the_workers() -> None:
    with serving(WELL, forbidden="/ojs/v1/admin/workers") as url:
        assert "Workers  unknown" in Ctl(url).run("top", "--once").stdout
    with serving(WELL, forbidden="/ojs/v1/admin/stats") as url:
        Ctl(url).run("top", "--once", code=4)


def test_a_clock_that_is_wrong_is_found() -> None:
    with serving(WELL, date="Thu, 01 Jan 2026 00:00:00 GMT") as url:
        assert statuses(url, 0)["clock"] == "warning"


def test_metrics_are_read_with_their_labels() -> None:
    [*_, oldest, _] = parse_metrics(METRICS.format(**WELL) + "not a sample at all\n")
    assert (oldest.labels, oldest.value) == ({"queue": 'a"b\\n'}, 200.0)
