"""The statistics by job type: the page, one type over time, and who sees them."""

from __future__ import annotations

import re
from functools import partial

import httpx

from ojs_cluster.store.statistics.job_counts import WIDTH
from tests.support.servers import wait_until
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
    """The demo data has records of two hours: 5 and 30 hours ago."""

    def completed(span: str) -> int:
        row = page(admin, f"/ui/types?range={span}").partition(">email.send<")[2]
        numbers = re.findall(r"<td[^>]*>(?:<[^>]*>)?([\d,]+)", row)
        return int(numbers[1].replace(",", ""))

    for span, hours in (("24h", 1), ("72h", 2)):
        assert 0 <= completed(span) - hours * (WIDTH - 1) <= 12, span
    days = page(admin, "/ui/types?range=72h")
    assert 'href="./types/email.send?range=72h"' in days
    assert page(admin, "/ui/types?range=9999h").count('aria-current="true">1 hour') == 1


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
