"""The last finished runs of the same type and queue, beside a job."""

from __future__ import annotations

import httpx
import pytest

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.ui.drawings.type_runs_chart import HEIGHT, Run, type_runs_chart
from ojs_cluster.ui.pages.timelines import type_runs
from tests.ui.dashboard import Running
from tests.ui.test_pages import page


def test_a_run_is_as_high_as_it_took_long() -> None:
    chart = type_runs_chart(
        [
            Run("a", "completed", "", 50.0, 1),
            Run("b", "discarded", "", 100.0, 3),
            Run("c", "discarded", "", None, 0),
        ]
    )
    assert chart is not None
    assert [(bar.height, bar.y) for bar in chart.bars] == [(22, 22), (HEIGHT, 0), (3, 41)]
    assert chart.words == (
        "The last 3 finished runs: 1 completed, 2 discarded; half of them ran 75 ms or less, "
        "the longest 100 ms"
    )
    assert type_runs_chart([]) is None


def test_a_page_draws_the_last_runs_of_its_type_and_queue(
    running: Running, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type_runs, "_KEPT_S", 600.0)
    once = {"queue": "runs-here", "retry": {"max_attempts": 1}}
    with running.api() as api:

        def run(job_type: str, queue: str, end: str) -> str:
            body = {"type": job_type, "args": [], "options": {**once, "queue": queue}}
            job_id = str(api.post("/ojs/v1/jobs", json=body).json()["job"]["id"])
            api.post("/ojs/v1/workers/fetch", json={"queues": [queue], "worker_id": "w"})
            done = {"job_id": job_id, **({"error": {"message": "x"}} if end == "nack" else {})}
            api.post(f"/ojs/v1/workers/{end}", json=done).raise_for_status()
            return job_id

        others = [run("other.type", "runs-here", "ack"), run("runs.type", "runs-there", "ack")]
        ran = [run("runs.type", "runs-here", end) for end in ("ack", "nack", "ack")]
    shown = page(admin, f"/ui/jobs/{ran[1]}")
    drawn = shown.partition("type-runs")[2].partition("</svg>")[0]
    places = [drawn.index(job_id) for job_id in ran]
    assert places == sorted(places), "oldest first"
    assert (drawn.count("run-completed"), drawn.count("run-discarded")) == (2, 1)
    assert drawn.count('class="here"') == 1
    assert not [job_id for job_id in others if job_id in shown]
    assert "The last 3 finished runs: 2 completed, 1 discarded" in shown
    assert "The triangle is under this job" in shown
    with running.api() as api:
        later = run("runs.type", "runs-here", "ack")
    shown = page(admin, f"/ui/jobs/{later}")
    assert "The last 3 finished runs" in shown, "the runs are kept for a while"
    assert "The triangle is under this job" not in shown


def test_nothing_is_drawn_without_a_finished_run(running: Running, admin: httpx.Client) -> None:
    with running.api() as api:
        body = {"type": "never.ran", "args": [], "options": {"queue": "never"}}
        job_id = api.post("/ojs/v1/jobs", json=body).json()["job"]["id"]
    assert "type-runs" not in page(admin, f"/ui/jobs/{job_id}")


def test_a_failed_read_is_not_kept(
    running: Running, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running.api() as api:
        once = {"queue": "runs-fail", "retry": {"max_attempts": 1}}
        body = {"type": "runs.fail", "args": [], "options": once}
        job_id = api.post("/ojs/v1/jobs", json=body).json()["job"]["id"]
        api.post("/ojs/v1/workers/fetch", json={"queues": ["runs-fail"], "worker_id": "w"})
        api.post("/ojs/v1/workers/ack", json={"job_id": job_id}).raise_for_status()

    async def fail(*_: object) -> None:
        raise BackendUnavailable("no answer", outcome="not_applied")

    with monkeypatch.context() as outage:
        outage.setattr(type_runs, "read_last_ended", fail)
        assert 'id="type-runs"' not in page(admin, f"/ui/jobs/{job_id}")
    assert 'id="type-runs"' in page(admin, f"/ui/jobs/{job_id}")
