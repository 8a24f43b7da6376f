"""The clock of the API process is twelve hours wrong, and pages count from Redis's clock."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.operators.operations.processes import _send, describe_process
from ojs_cluster.ui.problems.of_cluster import problems_of_cluster
from ojs_cluster.ui.settings import UiSettings
from tests.ui.dashboard import dashboard
from tests.ui.html import parse
from tests.ui.test_pages import page

WRONG_S = 43_200


@pytest.mark.parametrize("wrong_s", [-WRONG_S, WRONG_S])
def test_pages_tell_the_age_of_what_they_show(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch, wrong_s: int
) -> None:
    real_s, real_ns = time.time, time.time_ns
    monkeypatch.setattr("time.time", lambda: real_s() + wrong_s)
    monkeypatch.setattr("time.time_ns", lambda: real_ns() + wrong_s * 1_000_000_000)
    with dashboard(standalone, UiSettings(mode="full")) as running, running.api() as api:
        made = api.post("/ojs/v1/jobs", json={"type": "mail.send", "args": []})
        job_id = made.json()["job"]["id"]
        beat = {"worker_id": "w1", "active_jobs": [], "queues": ["default"]}
        api.post("/ojs/v1/workers/heartbeat", json=beat).raise_for_status()
        with running.browser() as user:  # whose session does not end
            for path in ("/ui/jobs", f"/ui/jobs/{job_id}", "/ui/workers", "/ui/cluster"):
                words = " ".join(parse(page(user, path)).text.split())
                assert "12 h" not in words, path
                assert "11 h" not in words, path
                assert "stale" not in words.lower() or path == "/ui/workers", path
            assert "state-stale" not in page(user, "/ui/workers")


def test_a_process_with_a_wrong_clock_is_on_the_overview(standalone: Embedded) -> None:
    with dashboard(standalone, UiSettings(mode="read")) as running, running.browser() as user:
        assert "The clock of Redis" not in page(user, "/ui/")

        async def report() -> None:
            store = running.app.store
            found = orjson.loads(orjson.dumps(describe_process(store, "scheduler")))
            wrong = {**found, "host": "node-7", "clock_ahead_ms": -90_000}
            await _send(store, "node-7:1:a", orjson.dumps(wrong))

        running.run(report)
        time_s = time.monotonic() + 60
        words = ""
        while "node-7" not in words and time.monotonic() < time_s:
            words = " ".join(parse(page(user, "/ui/")).text.split())
        assert "The clock of Redis differs from that of node-7 by up to 1.5 min" in words


@pytest.mark.parametrize(
    ("apart_ms", "severe"), [(0, []), (2_000, []), (2_001, [False]), (20_001, [True])]
)
def test_masters_with_different_clocks_are_a_problem(apart_ms: int, severe: list[bool]) -> None:
    status: dict[str, Any] = {
        **{"shards": 8, "masters": [], "schedulers": [], "slots_covered": 16_384},
        **{"clustered": True, "without_leader": 0, "clocks_apart_ms": apart_ms},
        "processes": {"p": {"host": "h", "clock_ahead_ms": 2_000, "suspect_schemas": []}},
    }
    found = list(problems_of_cluster(status, "default"))
    assert [problem.severe for problem in found] == severe
    assert all("clocks of the Redis masters" in problem.what for problem in found)
