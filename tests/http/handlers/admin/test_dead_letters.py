"""Dead letters in the admin API: search, counts, retry, delete."""

from __future__ import annotations

import pytest

from tests.http.api import Api
from tests.http.handlers.admin.test_bulk_retry import DEADLY
from tests.http.handlers.admin.test_jobs import SIX, UNKNOWN_ID, discarded

DEAD = "/ojs/v1/admin/dead-letter"


async def test_dead_letters_are_listed_newest_first_by_page(any_api: Api) -> None:
    await discarded(any_api)  # not kept as a dead letter
    made = [(await discarded(any_api, f"q{n % 2}", **DEADLY))["id"] for n in range(5)]

    pages = [(await any_api.get(f"{DEAD}?per_page=2&page={page}")).json for page in (1, 2, 3)]

    listed = [job["id"] for page in pages for job in page["items"]]
    assert sorted(listed) == sorted(made)
    assert [page["pagination"]["total"] for page in pages] == [5, 5, 5]
    assert [page["pagination"]["page"] for page in pages] == [1, 2, 3]
    assert set(pages[0]["pagination"]) >= SIX
    assert pages[0]["items"][0]["errors"][0]["code"] == "x"
    moments = [job["discarded_at"] for page in pages for job in page["items"]]
    assert moments == sorted(moments, reverse=True)


async def test_every_filter_holds(any_api: Api) -> None:
    made = {
        (queue, kind): (await discarded(any_api, queue, type=kind, **DEADLY))["id"]
        for queue in ("one", "two")
        for kind in ("mail.send", "mail.sort")
    }

    async def expect(query: str, *wanted: str) -> None:
        page = (await any_api.get(f"{DEAD}?{query}")).json
        assert sorted(job["id"] for job in page["items"]) == sorted(wanted), query
        assert page["pagination"]["total"] == len(wanted)
        assert set(page["pagination"]) >= SIX

    await expect("state=discarded", *made.values())
    await expect("queue=one", made["one", "mail.send"], made["one", "mail.sort"])
    await expect("type=mail.send", made["one", "mail.send"], made["two", "mail.send"])
    await expect("type=mail.*&queue=two", made["two", "mail.send"], made["two", "mail.sort"])
    await expect("until=2020-01-01T00:00:00Z")
    await expect("since=2020-01-01T00:00:00Z&type=mail.send&queue=one", made["one", "mail.send"])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=active", "state"),
        ("since=x", "since"),
        ("queue=No", "queue"),
        ("cursor=x", "cursor"),
    ],
)
async def test_a_bad_filter_is_refused(api: Api, query: str, field: str) -> None:
    reply = await api.get(f"{DEAD}?{query}")
    assert (reply.status, reply.error["details"]["field"]) == (400, field)


async def test_the_number_of_dead_letters_is_shown(any_api: Api) -> None:
    assert (await any_api.get(f"{DEAD}/stats")).json["total"] == 0
    for queue in ("one", "two", "one"):
        await discarded(any_api, queue, **DEADLY)
    stats = (await any_api.get(f"{DEAD}/stats")).json
    assert (stats["total"], stats["by_queue"]) == (3, {"one": 2, "two": 1})


async def test_a_dead_letter_is_retried_without_a_body(any_api: Api) -> None:
    job = await discarded(any_api, **DEADLY)
    reply = await any_api.post(f"{DEAD}/{job['id']}/retry")
    assert reply.status == 200
    assert (reply.json["id"], reply.json["state"], reply.json["attempt"]) == (
        *(job["id"], "available", 0),
    )
    assert (await any_api.post(f"{DEAD}/{job['id']}/retry")).status == 404
    assert len(await any_api.fetch()) == 1


async def test_a_deleted_dead_letter_is_gone_and_the_response_is_empty(any_api: Api) -> None:
    job = await discarded(any_api, **DEADLY)
    reply = await any_api.delete(f"{DEAD}/{job['id']}")
    assert (reply.status, reply.body) == (204, b"")
    assert (await any_api.get(f"/ojs/v1/jobs/{job['id']}")).status == 404
    assert (await any_api.delete(f"{DEAD}/{job['id']}")).status == 404


async def test_what_is_no_dead_letter_is_not_found(api: Api) -> None:
    job = await discarded(api)
    for job_id in (job["id"], UNKNOWN_ID, "{{job_id}}"):
        assert (await api.post(f"{DEAD}/{job_id}/retry")).status == 404
        assert (await api.delete(f"{DEAD}/{job_id}")).status == 404
