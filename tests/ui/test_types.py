"""The statistics by job type: the page, one type over time, and who sees them."""

from __future__ import annotations

import re
import time
from functools import partial

import httpx
import pytest

from ojs_cluster.core.histograms import RUN_BOUNDS_MS, WAIT_BOUNDS_MS, WaitsAndRuns
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.ground.process_state.job_counts import RUN_BUCKETS, TIMES, WIDTH
from ojs_cluster.store.ground.process_state.type_minutes import TypeStatistics
from ojs_cluster.ui.drawings.histogram import paired_histogram
from ojs_cluster.ui.formats import NONE
from ojs_cluster.ui.pages.shared.comparison import begin_after
from ojs_cluster.ui.pages.shared.type_changes import MIN_JOBS, SinceMark, change_of
from tests.support.servers import wait_until
from tests.ui.conftest import write_history
from tests.ui.dashboard import Running
from tests.ui.demo import Demo
from tests.ui.html import parse
from tests.ui.test_pages import page


def test_types_are_listed_with_their_numbers(
    admin: httpx.Client, running: Running, demo: Demo
) -> None:
    store = running.app.store
    running.run(partial(store.job_counts.flush, store))

    def is_listed() -> bool:
        return 'href="./types/email.send"' in page(admin, "/ui/types")

    wait_until(is_listed, what="the shared list is older than the counts")
    text = " ".join(parse(page(admin, "/ui/types")).text.split())
    assert "Wait p50" in text
    assert "Run p95" in text
    one = page(admin, "/ui/types/email.send")
    assert "query=type%3Aemail.send" in one
    assert "of_type" not in one
    assert "Jobs by state" not in one, "a type has no depths"
    assert page(admin, "/ui/types/no.such.type")
    days = page(admin, "/ui/types/email.send?range=72h")
    assert "Statistics of the type in the last 3 days" in days
    assert "Run times" in days
    assert "<rect" in days


def test_the_list_of_types_follows_the_time_span(admin: httpx.Client, demo: Demo) -> None:
    """The demo data has records of two hours, 5 and 30 hours ago, and a few jobs of now.

    The numbers of a record count from 1, so that of completed jobs tells its place.
    """
    in_record = len(TIMES) + 2

    def completed(span: str) -> int:
        row = page(admin, f"/ui/types?range={span}").partition(">email.send<")[2]
        numbers = re.findall(r"<td[^>]*>(?:<[^>]*>)?([\d,]+)", row)
        return int(numbers[2].replace(",", ""))

    for span, hours in (("24h", 1), ("72h", 2)):
        assert 0 <= completed(span) - hours * in_record <= 12, span
    days = page(admin, "/ui/types?range=72h")
    assert 'href="./types/email.send?range=72h"' in days
    assert page(admin, "/ui/types?range=9999h").count('aria-current="true">1 hour') == 1


def test_run_times_are_compared_before_and_after_a_mark(
    running: Running, admin: httpx.Client, demo: Demo
) -> None:
    """The demo data has two equal records, 5 and 30 hours ago, and a few jobs of now."""

    def compared(hours: float) -> list[int]:
        shown = page(admin, f"/ui/types/email.send?range=72h&mark={marks[hours]}")
        words = " ".join(parse(shown).text.split()).partition("Before v2 <new>: ")[2]
        found = re.match(r"([\d,]+) jobs?.*?\. After it: ([\d,]+) jobs?", words)
        assert found is not None
        table = shown.partition("before and after the mark")[2].partition("</table>")[0]
        rows = table.count("<tr>") - 1
        assert (rows > 0, table.count("<svg")) == (True, 2 * rows)
        assert "Part before" in table
        return [int(text.replace(",", "")) for text in found.groups()]

    running.run(partial(write_history, running))  # of the present hour
    record = sum(range(1, WIDTH + 1)[RUN_BUCKETS])
    with running.api() as api:
        marks = {}
        now, short = time.time(), 0.001
        exact = now / 3600 - (now // 3600 - 5)  # the hour of a record begins with the mark
        for hours in (40, 10, exact, 2.5, short):
            at_ms = round(1000 * (now - hours * 3600))
            body = {"label": "v2 <new>", "at": format_ms(at_ms).decode()}
            marks[hours] = api.post("/ojs/v1/admin/marks", json=body).json()["id"]
        choice = f'value="{marks[short]}"'
        wait_until(
            lambda: choice in page(admin, "/ui/types/email.send?range=72h"),
            what="viewers share the marks for two seconds",
        )
        before, after = compared(10)
        assert before == record
        assert after >= before, "the jobs of now may be counted already"
        assert compared(40)[0] == 0
        assert compared(2.5)[0] == 2 * record
        assert compared(exact)[0] == record
        assert compared(exact)[1] < record, "its hour is not counted"
        assert compared(short)[1] == 0, "nothing has followed yet"
        listed = f"/ui/types?range=72h&sort=change&mark={marks[10]}"
        row = page(admin, listed).partition(">email.send<")[2].partition("</tr>")[0]
        assert row.count(" → ") == 4
        assert re.search(r'<span( class="bad")?><bdi dir="ltr">[+-]\d+ %</bdi></span>', row)
        row = page(admin, listed.replace(marks[10], marks[40])).partition(">email.send<")[2]
        assert f'<bdi dir="ltr">{NONE} → ' in row.partition("</tr>")[0], "nothing came before it"
        tab = f'href="../types/email.send?range=2h&amp;mark={marks[40]}"'
        assert tab in page(admin, f"/ui/types/email.send?range=72h&mark={marks[40]}")
        old = page(admin, f"/ui/types/email.send?range=2h&mark={marks[40]}")
        assert "This mark is not in the last 2 hours, or was deleted." in old
        for mark in marks.values():
            api.delete(f"/ojs/v1/admin/marks/{mark}").raise_for_status()


@pytest.mark.parametrize(
    ("at", "period_s", "begin"),
    [
        (7200, 3600, 10800),
        (7201, 3600, 10800),
        (7200, 60, 7260),
        (7244, 60, 7260),
        (7245, 60, 7320),
    ],
)
def test_what_follows_a_mark_begins_after_the_counts_from_before_it(
    at: int, period_s: int, begin: int
) -> None:
    assert begin_after(at, period_s) == begin


def test_types_are_compared_without_the_period_of_the_mark() -> None:
    """The buckets are those of two run times: 20 jobs before, 15 in the period, 12 after it."""
    width = len(RUN_BOUNDS_MS) + 1

    def runs(*numbers: int, failed: int = 0) -> TypeStatistics:
        buckets = [*numbers, *[0] * (width - len(numbers))]
        times = [*[0] * (len(WAIT_BOUNDS_MS) + 1), *buckets, 0, 0]
        return TypeStatistics("t", times, 0, sum(numbers), failed, failed)

    one = runs(35, 12, failed=9)
    since = SinceMark({"t": runs(0, 12, failed=4)}, {"t": runs(15, 12, failed=9)}, 0)
    found = change_of(one, since)
    assert (found["before"]["jobs"], found["after"]["jobs"]) == (20, 12)
    assert found["before"]["p50_ms"] < RUN_BOUNDS_MS[0] < found["after"]["p50_ms"]
    assert found["change"] > 100
    assert (found["before"]["failed_share"], found["after"]["failed_share"]) == (0, 0.25)
    assert (found["after"]["attempts"], found["after"]["discarded"]) == (16, 4)
    assert found["failed_change"] == 25
    few = change_of(one, SinceMark({"t": runs(0, MIN_JOBS - 1)}, {"t": runs(0, 12)}, 0))
    assert few["change"] is None, "of a few jobs a median says little"
    none = change_of(one, SinceMark({}, {"t": runs(99, 99)}, 0))
    assert (none["before"]["jobs"], none["after"]["p50_ms"]) == (0, None)


def test_types_are_compared_by_their_fine_buckets() -> None:
    def runs(*times_ms: int) -> TypeStatistics:
        fine = WaitsAndRuns()
        for run_ms in times_ms:
            fine.runs.add(run_ms)
        buckets = [len(times_ms), *[0] * len(RUN_BOUNDS_MS)]
        times = [*[0] * (len(WAIT_BOUNDS_MS) + 1), *buckets, 0, 0]
        return TypeStatistics("t", times, 0, len(times_ms), 0, 0, fine)

    after = runs(*[3] * MIN_JOBS)
    found = change_of(
        runs(*[2] * MIN_JOBS, *[3] * MIN_JOBS), SinceMark({"t": after}, {"t": after}, 0)
    )
    assert (found["before"]["p50_ms"], found["after"]["p50_ms"]) == (1.5, 2.5)


def test_two_histograms_have_one_scale() -> None:
    rows = paired_histogram([10, 20, 30], [0, 8, 2, 0], [0, 1, 1, 0])
    assert [row.bound_ms for row in rows] == [20, 30]
    assert [(row.before.share, row.after.share) for row in rows] == [(80.0, 50.0), (20.0, 50.0)]
    assert [row.before.width for row in rows] == [160.0, 40.0]
    assert [row.after.width for row in rows] == [100.0, 100.0], "shares, not numbers"
    (only,) = paired_histogram([10], [], [0, 3])
    assert (only.bound_ms, only.before.count, only.after.count) == (None, 0, 3)
    assert paired_histogram([10], [], []) == []


def test_only_keys_for_all_queues_see_types(running: Running, demo: Demo) -> None:
    with running.browser("email-key") as client:
        assert "may not see the statistics by type" in page(client, "/ui/types", 403)
        page(client, "/ui/types/email.send", 403)
        assert 'href="./types"' not in page(client, "/ui/")
    history = "/ojs/v1/admin/stats/history"
    with running.api() as api:
        found = api.get(history, params={"type": "email.send", "period": "1m"}).json()
        assert (found["type"], found["data"]) == ("email.send", found["data_points"])
        both = api.get(history, params={"type": "email.send", "queue": "email"})
        assert both.status_code == 400
        assert api.get(history, params={"type": "a" * 256}).status_code == 400
        api.headers["Authorization"] = "Bearer email-key"
        assert api.get(history, params={"type": "email.send"}).status_code == 400
