"""The link from a job to its trace (``OJS_TRACE_URL``)."""

from __future__ import annotations

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.ui.settings import UiSettings, parse_trace_url
from tests.ui.dashboard import dashboard
from tests.ui.html import parse
from tests.ui.test_pages import page

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "text",
    [
        "https://tempo.example.com/trace",
        "ftp://tempo.example.com/{trace_id}",
        "javascript:alert('{trace_id}')",
        "https://{trace_id}.example.com/",
        'https://tempo.example.com/{trace_id}"><script>',
        "https://tempo.example.com/{trace_id}/{span_id}",
    ],
)
def test_an_address_that_names_no_trace_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="trace_id"):
        parse_trace_url(text)


def test_a_job_links_to_the_trace_of_its_producer(ui_redis: Embedded) -> None:
    template = parse_trace_url("https://tempo.example.com/explore?trace={trace_id}#spans")
    settings = UiSettings(mode="read", trace_url=template)
    with dashboard(ui_redis, settings) as server, server.api() as api, server.browser() as client:
        targets = []
        for parent in (f"00-{TRACE}-b7ad6b7169203331-01", "00-nonsense-b7ad6b7169203331-01"):
            body = {"type": "a.b", "args": [], "meta": {"traceparent": parent}}
            made = api.post("/ojs/v1/jobs", json={**body, "options": {"queue": "traced"}}).json()
            links = parse(page(client, f"/ui/jobs/{made['job']['id']}")).all("a")
            targets += [
                (each.attributes["href"], each.attributes.get("rel", ""))
                for each in links
                if "tempo" in each.attributes["href"]
            ]
    found = f"https://tempo.example.com/explore?trace={TRACE}#spans"
    assert targets == [(found, "noopener noreferrer")]
