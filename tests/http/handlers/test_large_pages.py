"""Lists of large jobs: a page has fewer entries, and its cursor continues the list."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.store.features.search import lists
from tests.http.api import Api
from tests.support.patience import LONG_S

COUNT = 24
LARGE = "x" * 1_000_000
MOST = 10 * 1024 * 1024


async def pages(api: Api, path: str) -> list[Any]:
    """Read all pages of a list, and check the size of each."""
    found: list[Any] = []
    cursor = ""
    while True:
        reply = await api.get(f"{path}&cursor={cursor}" if cursor else path)
        assert reply.status == 200, reply.body[:500]
        assert len(reply.body) < MOST
        found.append(reply.json)
        cursor = reply.json["pagination"].get("next_cursor", "")
        assert reply.json["pagination"]["has_more"] == bool(cursor)
        if not cursor:
            return found


async def enqueue_large(api: Api, **options: Any) -> list[str]:
    return [
        (await api.enqueue(args=[LARGE], options={"queue": f"large-{n % 2}", **options}))["id"]
        for n in range(COUNT)
    ]


@pytest.mark.parametrize("filters", ["state=available", "queue=large-1&limit=200"])
async def test_a_page_of_large_jobs_is_cut_short(any_api: Api, filters: str) -> None:
    ids = await enqueue_large(any_api)
    found = await pages(any_api, f"/ojs/v1/jobs?{filters}")
    listed = [job["id"] for page in found for job in page["jobs"]]
    wanted = ids[1::2] if "queue" in filters else ids
    assert sorted(listed) == sorted(wanted)
    assert len(found) > 1


async def test_a_filter_reads_no_large_job_whose_small_fields_do_not_match(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MAX_PAGE_S", LONG_S)
    await enqueue_large(api)
    found = await pages(api, "/ojs/v1/jobs?type=of.another&limit=200")
    assert not any(page["jobs"] for page in found)
    assert len(found) == 1


async def test_a_search_that_lets_few_through_does_not_read_all_for_one_page(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "SEARCH_BYTES", 8 * 1024 * 1024)
    await enqueue_large(api)
    found = await pages(api, "/ojs/v1/jobs?query=meta.none:*&limit=200")
    assert not any(page["jobs"] for page in found)
    assert len(found) > COUNT // 9
    assert sum(page["pagination"]["examined"] for page in found) == COUNT


@pytest.mark.parametrize("filters", ["limit=1000", "queue=large-1&limit=1000"])
async def test_a_page_of_large_dead_letters_is_cut_short(any_api: Api, filters: str) -> None:
    deadly = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}
    ids = await enqueue_large(any_api, **deadly)
    for job_id in ids:
        queue = f"large-{ids.index(job_id) % 2}"
        [job] = await any_api.fetch(queue, worker_id="w1")
        reply = await any_api.post("/ojs/v1/workers/nack", {"job_id": job["id"]})
        assert reply.json["state"] == "discarded"
    found = await pages(any_api, f"/ojs/v1/dead-letter?{filters}")
    listed = [job["id"] for page in found for job in page["jobs"]]
    wanted = ids[1::2] if "queue" in filters else ids
    assert sorted(listed) == sorted(wanted)
    assert len(found) > 1
    assert {page["total"] for page in found} == {len(wanted)}
