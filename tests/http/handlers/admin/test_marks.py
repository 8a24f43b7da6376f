"""Marks on the charts: set, listed by time, deleted, and bounded."""

from __future__ import annotations

import time

import msgspec
import pytest

from ojs_cluster.keys import Meta
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.operators.dashboard import marks
from tests.http.api import Api
from tests.support.servers import observer

MARKS = "/ojs/v1/admin/marks"
DAY_S = 86_400


def ago(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))


async def labels(api: Api, query: str = "") -> list[str]:
    return [mark["label"] for mark in (await api.get(f"{MARKS}{query}")).json["items"]]


async def test_marks_are_listed_by_time_and_deleted(any_api: Api) -> None:
    made = await any_api.post(MARKS, {"label": " v2 "})
    assert (made.status, made.json["label"]) == (201, "v2")
    await any_api.post(MARKS, {"label": "v1", "at": ago(2 * DAY_S)})

    listed = (await any_api.get(MARKS)).json
    assert ([mark["label"] for mark in listed["items"]], listed["total"]) == (["v1", "v2"], 2)
    assert await labels(any_api, "?since=1d") == ["v2"]
    assert await labels(any_api, f"?until={ago(DAY_S)}") == ["v1"]

    path = f"{MARKS}/{made.json['id']}"
    assert (await any_api.call("DELETE", path)).json == {"deleted": True, "id": made.json["id"]}
    assert (await any_api.call("DELETE", path)).status == 404
    assert await labels(any_api) == ["v1"]


async def test_a_wrong_mark_is_refused(api: Api) -> None:
    wrong = (
        ({"label": " "}, "label"),
        ({"label": "x" * 101}, "label"),
        ({"label": "a\nb"}, "label"),
        ({"label": "v1", "at": ago(31 * DAY_S)}, "at"),
        ({"label": "v1", "at": ago(-600)}, "at"),
        ({"label": "v1", "at": "yesterday"}, "at"),
    )
    for body, field in wrong:
        reply = await api.post(MARKS, body)
        assert reply.status in (400, 422), body
        assert reply.error["details"]["field"] == field
    assert await labels(api) == []
    assert (await api.get(f"{MARKS}?since=x")).status == 400


async def test_the_newest_marks_are_kept_for_thirty_days(
    api: Api, standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "MAX_MARKS", 3)
    for number in range(4):
        await api.post(MARKS, {"label": f"v{number}", "at": ago(DAY_S * (9 - number))})
    assert await labels(api) == ["v1", "v2", "v3"]
    assert (await api.post(MARKS, {"label": "old", "at": ago(10 * DAY_S)})).status in (400, 422)

    with observer(standalone) as db:
        assert 23 * DAY_S < db.ttl(Meta().marks) <= 24 * DAY_S, "30 days after the newest mark"
        old = marks.Mark("0" * 16, "v0", time.time_ns() // 1_000_000 - 31 * DAY_S * 1000)
        db.zadd(Meta().marks, {b"damaged": 4e12, msgspec.json.encode(old): old.at_ms})
        assert await labels(api) == ["v2", "v3"], "a damaged mark is left out"
        await api.post(MARKS, {"label": "now"})
        assert await labels(api) == ["v3", "now"]
        assert db.zcard(Meta().marks) == 3
