"""What the page of a job shows of its history."""

from __future__ import annotations

import re

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.ui.drawings.attempts_chart import MAX_BARS, WIDTH, Attempt, attempts_chart
from ojs_cluster.ui.pages.timelines import workflow_waits
from tests.support.servers import wait_until
from tests.ui.conftest import FULL
from tests.ui.dashboard import Running, dashboard
from tests.ui.html import parse
from tests.ui.test_pages import act, page


def attempt(start: float | None, end: float | None, outcome: str = "failed") -> Attempt:
    return Attempt("1", "w", "", start, end, outcome)


def test_bars_share_one_axis_of_time() -> None:
    chart = attempts_chart([attempt(10, 11), attempt(15, None, "running")], 20)
    assert chart is not None
    first, second = chart.bars
    assert (first.x, second.x) == (0, round(5 / 10 * (WIDTH - 3)))
    assert second.x + second.width <= WIDTH
    assert first.width < second.width
    assert chart.words == "2 attempts within 10 s"


def test_attempts_without_a_start_are_not_drawn() -> None:
    assert attempts_chart([attempt(None, 11)], 20) is None
    assert attempts_chart([], 20) is None


def test_an_attempt_of_no_length_has_a_bar() -> None:
    chart = attempts_chart([attempt(10, 10)], 10)
    assert chart is not None
    assert [bar.width for bar in chart.bars] == [3]


def test_only_the_last_attempts_are_drawn() -> None:
    chart = attempts_chart([attempt(n, n + 1) for n in range(100)], 200)
    assert chart is not None
    assert len(chart.bars) == MAX_BARS
    assert chart.bars[0].x == 0


def test_a_page_shows_each_attempt_and_who_has_retried_it(
    admin: httpx.Client, running: Running
) -> None:
    with running.api() as api:
        options = {"queue": "lives", "retry": {"max_attempts": 1}}
        job_id = api.post(
            "/ojs/v1/jobs", json={"type": "a.b", "args": [], "options": options}
        ).json()["job"]["id"]
        for worker in ("first <b>", "second"):
            api.post("/ojs/v1/workers/fetch", json={"queues": ["lives"], "worker_id": worker})
            error = {"message": f"failed at {worker}"}
            api.post("/ojs/v1/workers/nack", json={"job_id": job_id, "error": error})
            act(admin, f"/ui/jobs/{job_id}/retry", f"jobs/{job_id}")
    shown = page(admin, f"/ui/jobs/{job_id}")
    assert shown.count("Retried by hand by boss") == 2
    assert shown.count('<rect class="try-failed"') == 2
    assert re.search(r'<svg[^>]* aria-label="2 attempts within', shown)
    assert "first &lt;b&gt;" in shown
    assert "failed at second" in shown
    table = shown[shown.index('aria-label="Attempts"') :]
    assert table[: table.index("</table>")].count("<tr>") == 3


def test_a_page_says_who_has_cancelled_and_changed_a_job(
    admin: httpx.Client, running: Running
) -> None:
    with running.api() as api:
        body = {
            "type": "a.b",
            "args": [],
            "options": {"queue": "lives-waiting", "delay_until": "+PT1H"},
        }
        job_id = api.post("/ojs/v1/jobs", json=body).json()["job"]["id"]
    admin.post(f"/ui/jobs/{job_id}/priority", data={"priority": "5", "back": f"jobs/{job_id}"})
    to_queue = {"queue": "lives-moved", "back": f"jobs/{job_id}"}
    admin.post(f"/ui/jobs/{job_id}/move", data=to_queue)
    act(admin, f"/ui/jobs/{job_id}/cancel", f"jobs/{job_id}")
    shown = page(admin, f"/ui/jobs/{job_id}")
    assert "Moved from queue lives-waiting to lives-moved by boss" in shown
    assert "Priority changed from 0 to 5 by boss" in shown
    assert "Cancelled by boss" in shown
    assert "<svg" not in shown[shown.index('id="timeline"') : shown.index("</main>")]


def test_a_page_says_what_a_job_waits_for(admin: httpx.Client, running: Running) -> None:
    def waits(job_id: str) -> str:
        found = re.search(r"<p>(Waits for .*?)</p>", page(admin, f"/ui/jobs/{job_id}"))
        return "" if found is None else " ".join(parse(found[1]).text.split())

    with running.api() as api:

        def enqueue(**options: str) -> str:
            body = {"type": "a.b", "args": [], "options": {"queue": "idles", **options}}
            return str(api.post("/ojs/v1/jobs", json=body).json()["job"]["id"])

        assert waits(enqueue(delay_until="+PT1H")).startswith("Waits for its start time, in ")
        job_id = enqueue()
        assert waits(job_id) == "Waits for a worker of idles"
        enqueue()

        def waits_for(words: str) -> bool:
            return waits(job_id) == f"Waits for {words}"

        wait_until(
            lambda: waits_for("a worker of idles, which has 2 available jobs"),
            what="viewers share the numbers for two seconds",
        )
        api.post("/ojs/v1/queues/idles/pause")
        wait_until(lambda: waits_for("the queue idles, which is paused"), what="as before")
        api.post("/ojs/v1/queues/idles/resume")
        api.post("/ojs/v1/workers/fetch", json={"queues": ["idles"], "worker_id": "w"})
        assert waits(job_id) == ""


def test_viewers_share_what_is_read_of_the_queue_of_a_job(
    ui_redis: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = workflow_waits._read_known
    queues: list[str] = []

    async def note(store: Store, queue: str) -> bytes:
        queues.append(queue)
        return await read(store, queue)

    monkeypatch.setattr(workflow_waits, "_KEPT_S", 3600.0)
    monkeypatch.setattr(workflow_waits, "_read_known", note)
    with dashboard(ui_redis, FULL) as server, server.api() as api:
        body = {"type": "a.b", "args": [], "options": {"queue": "email"}}
        job_id = api.post("/ojs/v1/jobs", json=body).json()["job"]["id"]
        with server.browser() as one, server.browser() as two, server.browser("email-key") as team:
            for client in (one, two, one):
                assert "Waits for" in page(client, f"/ui/jobs/{job_id}")
            assert queues == ["email"]
            page(team, f"/ui/jobs/{job_id}")
            assert queues == ["email"] * 2, "a key for some queues reads for itself"
