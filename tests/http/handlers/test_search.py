"""The parameter ``query`` of lists of jobs."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from ojs_cluster.store.features.search import lists
from tests.http.api import Api
from tests.support.patience import LONG_S

JOBS = "/ojs/v1/jobs"
ADMIN = "/ojs/v1/admin/jobs"


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page ends early because the machine is slow."""
    monkeypatch.setattr(lists, "MAX_PAGE_S", LONG_S)


@pytest.mark.parametrize("path", [JOBS, ADMIN])
async def test_a_search_finds_jobs_and_tells_how_many_it_has_examined(
    any_api: Api, path: str
) -> None:
    mail = [
        (await any_api.enqueue(type="mail.send", args=[{"to": name}], options={"queue": "mail"}))
        for name in ("ada", "bob")
    ]
    await any_api.enqueue(type="sms.send")
    for query, expected in (
        ("", None),
        ("type:mail.*", [mail[1]["id"], mail[0]["id"]]),
        ("type:mail.* args.to:ada,eve", [mail[0]["id"]]),
        (f"id:{mail[1]['id']}", [mail[1]["id"]]),
        ("queue:mail state:available since:1h", [mail[1]["id"], mail[0]["id"]]),
        ("queue:mail until:1h", []),
        ("worker:w1", []),
    ):
        page = (await any_api.get(f"{path}?query={quote(query)}")).json
        found = [job["id"] for job in page.get("jobs", page.get("items"))]
        if expected is None:
            assert len(found) == 3
            assert "examined" not in page["pagination"]
            continue
        assert found == expected, query
        assert len(expected) <= page["pagination"]["examined"] <= 3
        assert page["pagination"]["has_more"] is False


async def test_a_search_goes_on_from_its_cursor(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    needle = await api.enqueue(type="needle")
    for _ in range(7):
        await api.enqueue(type="hay")
    monkeypatch.setattr(lists, "SEARCH_BUDGET", 5)
    for path in (JOBS, ADMIN):
        found, examined, cursor = [], 0, ""
        for _ in range(20):
            page = (await api.get(f"{path}?query=type:needle+state:available&cursor={cursor}")).json
            found += [job["id"] for job in page.get("jobs", page.get("items"))]
            examined += page["pagination"]["examined"]
            cursor = page["pagination"].get("next_cursor") or ""
            if not cursor:
                break
        assert (found, examined, cursor) == ([needle["id"]], 8, "")


async def test_dead_letters_are_searched(any_api: Api) -> None:
    retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    for kind in ("a.one", "a.two"):
        await any_api.enqueue(type=kind, options={"retry": retry})
        [job] = await any_api.fetch()
        error = {"type": f"{kind}.Error", "message": "no"}
        await any_api.post("/ojs/v1/workers/nack", {"job_id": job["id"], "error": error})
    page = (await any_api.get("/ojs/v1/admin/dead-letter?query=error:a.two.*")).json
    assert [job["type"] for job in page["items"]] == ["a.two"]
    assert page["pagination"]["examined"] == 2


async def test_a_word_finds_dead_letters_by_their_error(any_api: Api) -> None:
    retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    for kind in ("a.one", "a.two"):
        await any_api.enqueue(type=kind, options={"retry": retry})
        [job] = await any_api.fetch()
        error = {"type": "Broken", "message": f"The disk of {kind[2:]} is full"}
        await any_api.post("/ojs/v1/workers/nack", {"job_id": job["id"], "error": error})
    page = (await any_api.get("/ojs/v1/admin/dead-letter?query=disk%20TWO")).json
    assert [job["type"] for job in page["items"]] == ["a.two"]


@pytest.mark.parametrize("path", [JOBS, ADMIN, "/ojs/v1/admin/dead-letter"])
@pytest.mark.parametrize("query", ["queue:", "colour:red", "state:running", "%22"])
async def test_what_is_no_search_is_refused(api: Api, path: str, query: str) -> None:
    reply = await api.get(f"{path}?query={query}")
    assert (reply.status, reply.error["details"]["field"]) == (400, "query")


@pytest.mark.parametrize("page", [f"{JOBS}?offset=5", f"{ADMIN}?page=2"])
async def test_a_search_has_no_numbered_pages(api: Api, page: str) -> None:
    reply = await api.get(f"{page}&query=type:a")
    assert reply.status == 400
    assert "cursor" in reply.error["message"]
