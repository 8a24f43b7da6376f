"""The events of the steps of a workflow: one drawing on one axis, and a table."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.store.engine.jobs.read_jobs import get_history
from ojs_cluster.store.engine.outbox.outbox import drain
from ojs_cluster.store.features.workflows.read_workflows import JobOutcome, WorkflowRecord
from ojs_cluster.ui.drawings.dag import Box, Step
from ojs_cluster.ui.drawings.time_axis import Span, TimeAxis
from ojs_cluster.ui.drawings.workflow_chart import MAX_BARS, Lane, workflow_chart
from ojs_cluster.ui.pages.timelines import workflow_events
from tests.support.servers import wait_until
from tests.ui.dashboard import Running
from tests.ui.test_pages import act, page
from tests.ui.test_workflows import V1, chain, run_next


def lane(*spans: tuple[float, float], since: float | None = None, ended: bool = True) -> Lane:
    drawn = [Span(start, end, "failed", "") for start, end in spans]
    return Lane("step", "failed", "", since, drawn, ended)


def test_all_rows_share_one_axis_from_the_creation_of_the_workflow() -> None:
    chart = workflow_chart([lane((10, 20), since=0), lane((20, 100), since=20)], 0, 100)
    assert chart is not None
    first, second = chart.rows
    assert (first.bars[0].x, second.bars[0].x) == (72, 143)
    assert (first.line, second.line) == ((0, 143), (143, 717))
    assert [tick.seconds for tick in chart.ticks] == [15 * n for n in range(1, 7)]
    assert chart.words == "2 rows with 2 attempts within 1.7 min"


def test_a_waiting_step_has_a_line_and_no_bar() -> None:
    chart = workflow_chart([lane(since=50, ended=False), lane()], 0, 100)
    assert chart is not None
    assert [(row.line, row.bars) for row in chart.rows] == [((358, 717), ()), (None, ())]
    assert workflow_chart([lane()], 0, 100) is None


def test_a_retry_by_hand_after_the_end_makes_the_axis_longer() -> None:
    chart = workflow_chart([lane((1, 2), (190, 200))], 0, 10)
    assert chart is not None
    assert [bar.x for bar in chart.rows[0].bars] == [4, round(190 / 200 * 717)]


def test_the_number_of_bars_is_bounded() -> None:
    lanes = [lane(*((n, n + 1) for n in range(100))) for _ in range(60)]
    chart = workflow_chart(lanes, 0, 100)
    assert chart is not None
    assert sum(len(row.bars) for row in chart.rows) == MAX_BARS == 6000 - chart.left_out


def test_outcomes_differ_in_more_than_their_colours_and_stay_on_the_axis() -> None:
    axis = TimeAxis(0, 10, 100)
    spans = [Span(9.9, 10, name, "") for name in ("completed", "failed", "returned")]
    bars = list(axis.bars(spans, 0))
    assert [bar.height for bar in bars] == [10, 5, 3]
    assert {bar.y + bar.height for bar in bars} == {10}
    assert all(bar.x + bar.width <= 100 for bar in bars)
    assert TimeAxis(5, 5, 100).ticks() == []


def table(text: str) -> str:
    return text.partition('aria-label="Events of the steps"')[2].partition("</table>")[0]


def test_a_page_has_each_attempt_of_each_step_and_who_acted(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        workflow = chain(api, "flow-times", 2)
        first = run_next(api, "flow-times", "lamp <broken>")
        act(admin, f"/ui/jobs/{first['id']}/retry", f"jobs/{first['id']}")
        run_next(api, "flow-times")
        text = page(admin, f"/ui/workflows/{workflow}")
    events = table(text)
    told = ["Created", "Attempt 1 started", "Attempt 1 failed", "Discarded"]
    told += ["Retried by hand by boss", "Attempt 1 started", "Completed after"]
    places = [events.index(what) for what in told[:5]]
    assert places == sorted(places), "oldest first"
    assert [events.count(what) for what in told] == [1, 2, 1, 1, 1, 2, 1]
    assert "lamp &lt;broken&gt;" in events
    assert f'href="../jobs/{first["id"]}"' in events
    drawn = text.partition("lanes")[2].partition("</svg>")[0]
    assert drawn.count('class="try-failed"') == drawn.count('class="try-completed"') == 1
    assert "not all events" not in text


def test_a_removed_job_shows_what_the_workflow_has_recorded(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        workflow = chain(api, "flow-removed", 2)
        job_id = run_next(api, "flow-removed")["id"]
        shard = running.app.store.keys.shard_of_id(job_id)
        running.run(lambda: running.app.store.redis.call(shard.slot, "DEL", shard.job(job_id)))
        text = page(admin, f"/ui/workflows/{workflow}")
        api.delete(f"{V1}/workflows/{workflow}")
    assert "1 step has not all events any more" in text
    assert "Attempt 1 started" in table(text)
    assert text.partition("lanes")[2].count('class="try-completed"') == 1


def test_the_last_events_are_shown_and_viewers_share_them(
    running: Running, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    async def counted(store: Any, job_id: str) -> Any:
        read.append(job_id)
        return await get_history(store, job_id)

    monkeypatch.setattr(workflow_events, "get_history", counted)
    monkeypatch.setattr(workflow_events, "MAX_EVENTS", 2)
    monkeypatch.setattr(workflow_events, "_KEPT_S", 600.0)
    with running.api() as api, running.browser("viewer-key") as viewer:
        workflow = chain(api, "flow-shared", 2)
        first = run_next(api, "flow-shared")["id"]
        texts = [page(client, f"/ui/workflows/{workflow}") for client in (admin, viewer, admin)]
        for text in texts:
            assert "data-refresh" in text
            assert "2 earlier events of these steps are not shown here" in text
            shown = [what for what in ("started", "Completed", "Created") if what in table(text)]
            assert (shown, table(text).count("<tr>")) == (["Completed", "Created"], 3)
        assert read.count(first) == 1
        run_next(api, "flow-shared")
        assert "data-refresh" not in page(admin, f"/ui/workflows/{workflow}"), "it has ended"


def test_a_silent_master_is_no_end_of_a_retention(
    running: Running, admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise BackendUnavailable("no answer", outcome="not_applied")

    monkeypatch.setattr(workflow_events, "get_history", fail)
    with running.api() as api:
        workflow = chain(api, "flow-silent", 2)
        run_next(api, "flow-silent")
        text = page(admin, f"/ui/workflows/{workflow}")
        api.delete(f"{V1}/workflows/{workflow}")
    assert "Redis did not return the events of 2 steps" in text
    assert "not all events" not in text
    assert "Attempt 1 started" in table(text)


def test_steps_of_one_row_wait_from_the_end_of_those_before_them() -> None:
    outcomes = [JobOutcome("completed", 10, 5000), *[JobOutcome("active", 7000)] * 2]
    found = cast(WorkflowRecord, SimpleNamespace(created_ms=1000, jobs=outcomes))
    steps = [Step("a", "", job_id="x"), *(Step("b", "", frozenset({0}), each) for each in "y-")]
    since = partial(workflow_events._since, found=found, steps=steps)
    assert since(Box([1, 2], "b", "", {})) == 5.0
    assert since(Box([0, 1], "b", "", {})) == 1.0
    waiting = [*steps[:2], Step("c", "", frozenset({1}))]
    assert workflow_events._since(Box([2], "c", "", {}), found, waiting) is None


def test_large_workflows_collapse_and_list_their_events_page_by_page(
    running: Running, admin: httpx.Client
) -> None:
    with running.api() as api:
        jobs: list[Any] = [{"type": f"many.n{number}", "args": []} for number in range(1000)]
        made = api.post(f"{V1}/workflows", json={"type": "group", "name": "many", "jobs": jobs})
        workflow = made.raise_for_status().json()["id"]
        address = f"/ui/workflows/{workflow}?events="
        beyond = page(admin, f"{address}99")

        store = running.app.store
        owner = store.keys.shard_of_id(workflow)

        def all_created() -> bool:
            # What the request had no time to enqueue is the work of a scheduler, and none runs.
            running.run(lambda: drain(store, owner, 1000))
            return table(page(admin, f"{address}2")).count("Created") == 50

        wait_until(all_created, what="the jobs of the steps 51 to 100 are enqueued")
        api.delete(f"{V1}/workflows/{workflow}")
    assert "Steps 951 to 1,000" in beyond
    assert "Next steps" not in beyond
    assert 'events=19">Previous steps' in beyond
