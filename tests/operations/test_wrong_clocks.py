"""Real processes whose wall clocks are wrong, and step while they run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.support.nodes import ApiNode, scheduler
from tests.support.servers import wait_until
from tests.support.wrong_clock import FAKETIME, WrongClock

pytestmark = pytest.mark.skipif(FAKETIME is None, reason="needs faketime (Debian: faketime)")
V1 = "/ojs/v1"
AHEAD_S = 600
DEADLY = {"max_attempts": 1, "on_exhaustion": "dead_letter"}


@pytest.fixture
def clock(tmp_path: Path) -> WrongClock:
    return WrongClock(tmp_path, AHEAD_S)


@pytest.fixture
def api(standalone: Embedded, tmp_path: Path, clock: WrongClock) -> Iterator[httpx.Client]:
    """Run a node and a scheduler whose clocks are ten minutes ahead of those of Redis."""
    node = ApiNode("api", tmp_path, standalone.url, workers=1, env=clock.env)
    leader = scheduler("scheduler", tmp_path, standalone.url, clock.env)
    leader.start()
    try:
        node.start()
        with httpx.Client(base_url=node.url, timeout=60) as client:
            yield client
    finally:
        node.stop()
        leader.stop()


def sent(api: httpx.Client, path: str, body: Any = None) -> Any:
    answer = api.post(f"{V1}{path}", json=body)
    assert answer.is_success, answer.text
    return answer.json()


def fetched(api: httpx.Client, queue: str) -> bool:
    return bool(sent(api, "/workers/fetch", {"queues": [queue]})["jobs"])


def off_s(text: str) -> float:
    return abs(datetime.fromisoformat(text).timestamp() - time.time())


def ahead_s(api: httpx.Client) -> float:
    """Return how far the node believes that its clock is ahead."""
    lines = api.get("/metrics").text.splitlines()
    (line,) = (line for line in lines if line.startswith("ojs_clock_ahead_seconds "))
    return float(line.split()[1])


def test_processes_with_wrong_clocks_decide_by_redis_clock(
    api: httpx.Client, clock: WrongClock
) -> None:
    """Each decision is that of the right time, also after a step of the clock by twenty minutes."""
    decide(api, AHEAD_S)
    clock.set(-AHEAD_S)
    decide(api, -AHEAD_S)


def decide(api: httpx.Client, wrong_s: int) -> None:
    wait_until(lambda: abs(ahead_s(api) - wrong_s) < 60, what="the node reports its clock")
    job = {"type": "a.b", "args": [], "options": {"retry": DEADLY}}
    sent(api, "/jobs", job)
    found = sent(api, "/workers/fetch", {"queues": ["default"], "worker_id": "w1"})["jobs"]
    error = {"code": "x", "message": "x"}
    sent(api, "/workers/nack", {"job_id": found[0]["id"], "error": error})
    assert sent(api, "/dead-letter/purge?older_than=5m")["purged_count"] == 0
    assert sent(api, "/dead-letter/purge?older_than=0s")["purged_count"] == 1

    made = sent(api, "/jobs", {"type": "a.b", "args": []})["job"]
    assert off_s(made["created_at"]) < 120
    assert len(api.get(f"{V1}/jobs?query=since:5m+state:available").json()["jobs"]) == 1
    bulk = {"filter": {"older_than": "5m", "states": ["available"]}}
    assert sent(api, "/jobs/bulk/cancel", bulk)["succeeded"] == 0

    for queue, delay in (("due", "+PT1S"), ("later", "+PT5M")):
        options = {"queue": queue, "scheduled_at": delay}
        sent(api, "/jobs", {"type": "a.b", "args": [], "options": options})
    wait_until(lambda: fetched(api, "due"), what="the job that is due is available")
    assert not fetched(api, "later")

    sent(api, "/workers/heartbeat", {"worker_id": "w1", "active_jobs": []})
    assert api.get(f"{V1}/workers/w1/health").status_code == 200
    body = {"enabled": True, "refuse": ["enqueue"], "estimated_duration": "PT5S"}
    assert off_s(sent(api, "/admin/maintenance", body)["ends_at"]) < 120
    sent(api, "/admin/maintenance", {"enabled": False})
    entries: list[Any] = []

    def is_audited() -> bool:
        entries[:] = api.get(f"{V1}/admin/audit").json()["entries"]
        return bool(entries)

    wait_until(is_audited, what="the audit is written")
    assert off_s(entries[0]["time"]) < 120
    sent(api, "/jobs/bulk/cancel", {"filter": {"states": ["available"]}})
