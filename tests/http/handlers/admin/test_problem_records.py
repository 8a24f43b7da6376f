"""Problems are recorded once for all processes, announced once, muted, and ended in time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import quote

import pytest
import trio
from trio.testing import MockClock

from ojs_cluster.http import problem_watch
from ojs_cluster.http.problem_watch import look
from ojs_cluster.http.problems import Found, Problem
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.operators.dashboard import problem_records as records
from ojs_cluster.ui import cluster_status
from tests.http.api import Api, open_app
from tests.store.shortcuts import restore
from tests.support.servers import observer

PATH = "/ojs/v1/admin/problems"
PAUSED = Problem("queue_paused", "Queue q is paused", "Resume it.")
TYPE = Problem("type_fails", "The type a/b fails", "Read its errors.", severe=True, subject="a/ü:b")
MINUTE_MS = 60_000
SECOND_MS = 1000
"""More than the clocks of this process and of Redis differ."""


def find(api: Api, *problems: Problem, is_complete: bool = True) -> None:
    """Let the next looks find these problems."""

    async def found(_app: Any) -> Found:
        return Found(problems, is_complete)

    object.__setattr__(api.app, "find_problems", found)


async def events(api: Api) -> list[tuple[str, str]]:
    """Return the events of problems, the oldest first."""
    listed = (await api.get("/ojs/v1/events?types=problem.*")).json["items"]
    return [(each["type"], each["data"]["problem_id"]) for each in listed]


async def counts(api: Api) -> dict[tuple[str, str, str], int]:
    return dict(await records.count_problems(api.app.store))


async def let_pass(api: Api, ms: int) -> None:
    """Shift the recorded times into the past."""
    store = api.app.store
    for key in (store.keys.meta.problems, store.keys.meta.problem_mutes):
        for id, (first, second, text) in (await records._read(store, key)).items():
            ends_ms = second - ms if second else 0
            value = f"{first - ms} {ends_ms} ".encode() + text
            await store.redis.call(store.keys.meta.slot, "HSET", key, id, value)


async def test_a_problem_begins_and_ends_once_for_all_processes(any_api: Api) -> None:
    api = any_api
    find(api, PAUSED, TYPE)
    for identity in ("a", "b", "a", "b"):
        await look(api.app, identity)
    assert sorted(await events(api)) == [
        ("problem.began", "queue_paused"),
        ("problem.began", TYPE.id),
    ]
    assert await counts(api) == {
        ("queue_paused", "warning", "open"): 1,
        ("type_fails", "critical", "open"): 1,
    }
    began = (await records.read_records(api.app.store)).began_ms

    find(api, PAUSED)
    await look(api.app, "a")
    assert set(await counts(api)) == {("queue_paused", "warning", "open")}, "the metric follows"
    assert len(await events(api)) == 2, "it may only be missing for a moment"
    find(api, PAUSED, TYPE)
    await look(api.app, "a")
    assert (await records.read_records(api.app.store)).began_ms == began
    assert len(await events(api)) == 2

    find(api, PAUSED)
    await let_pass(api, records.ENDED_MS + SECOND_MS)
    find(api, is_complete=False)
    await look(api.app, "a")
    assert len(await counts(api)) == 2, "nothing ends while a master is silent"
    find(api, PAUSED)
    await look(api.app, "a")
    assert (await events(api))[2:] == [("problem.ended", TYPE.id)]


async def test_the_events_say_what_and_since_when(api: Api) -> None:
    since_ms = api.app.store.clock.now_ms() - 2 * MINUTE_MS
    find(api, Problem("old_jobs", "Old jobs", "Add workers.", severe=True, since_ms=since_ms))
    await look(api.app, "a")
    [event] = (await api.get("/ojs/v1/events?types=problem.began")).json["items"]
    assert event["subject"] == "old_jobs"
    assert event["data"] | {"since": ""} == {
        "problem_id": "old_jobs",
        "since": "",
        "rule": "old_jobs",
        "severity": "critical",
        "text": "Old jobs",
    }
    assert event["data"]["since"] == records.Mute(since_ms, records.MuteDetails()).ends_at


async def test_another_process_looks_when_the_first_one_has_ended(api: Api) -> None:
    find(api, PAUSED)
    await look(api.app, "a")
    assert not await records.should_look(api.app.store, "b")
    await let_pass(api, records.SILENT_MS + SECOND_MS)
    assert await records.should_look(api.app.store, "b")
    await let_pass(api, records.SILENT_MS + SECOND_MS)
    assert await counts(api) == {}, "what was found long ago is not reported"


async def test_a_muted_problem_is_listed_below_the_open_ones(any_api: Api) -> None:
    """The list of a real search: its queue is paused, and its jobs have no worker."""
    api = any_api
    await api.enqueue(options={"queue": "p.q"})
    await api.post("/ojs/v1/queues/p.q/pause")
    await api.post("/ojs/v1/admin/system/maintenance", {"enabled": True})
    await look(api.app, "a")
    before = {each["id"]: each for each in (await api.get(PATH)).json["items"]}
    assert all(each["state"] == "open" and each["since"] for each in before.values())

    muted = await api.call("PUT", f"{PATH}/maintenance/mute", {"duration": "PT1H", "reason": "r"})
    acknowledged = await api.call("PUT", f"{PATH}/queue_paused/mute")

    assert (muted.status, muted.json["state"]) == (200, "muted")
    assert muted.json["mute"]["reason"] == "r"
    assert acknowledged.json["state"] == "acknowledged"
    assert "ends_at" not in acknowledged.json["mute"]
    items = (await api.get(PATH)).json["items"]
    assert {each["id"]: each["since"] for each in items} == {
        id: each["since"] for id, each in before.items()
    }
    assert [each["id"] for each in items[-2:]] == ["maintenance", "queue_paused"]
    assert items[-2]["mute"] == muted.json["mute"]
    states = {labels[0]: labels[2] for labels in await counts(api)}
    assert states["maintenance"] == "muted"
    assert states["queue_paused"] == "acknowledged"

    await let_pass(api, 61 * MINUTE_MS)
    states = {each["id"]: each["state"] for each in (await api.get(PATH)).json["items"]}
    assert (states["maintenance"], states["queue_paused"]) == ("open", "acknowledged")
    assert (await api.delete(f"{PATH}/queue_paused/mute")).json["state"] == "open"
    assert (await api.delete(f"{PATH}/queue_paused/mute")).status == 404


async def test_an_acknowledged_problem_is_open_when_it_begins_again(api: Api) -> None:
    find(api, PAUSED)
    await look(api.app, "a")
    await api.call("PUT", f"{PATH}/{quote(TYPE.id, safe='')}/mute")
    await api.call("PUT", f"{PATH}/queue_paused/mute")
    find(api, PAUSED, TYPE)
    await look(api.app, "a")
    assert [kind for kind, id in await events(api) if id == TYPE.id] == [], "it began muted"
    find(api)
    await let_pass(api, 2 * MINUTE_MS)
    await look(api.app, "a")
    assert sorted(await events(api))[1:] == [
        ("problem.ended", "queue_paused"),
        ("problem.ended", TYPE.id),
    ]
    assert (await records.read_records(api.app.store)).mutes == {}
    find(api, PAUSED)
    await look(api.app, "a")
    assert set(await counts(api)) == {("queue_paused", "warning", "open")}


async def test_a_problem_that_begins_when_its_mute_is_over_is_announced(api: Api) -> None:
    await api.call("PUT", f"{PATH}/{quote(TYPE.id, safe='')}/mute", {"duration": "PT1H"})
    await let_pass(api, 61 * MINUTE_MS)
    find(api, TYPE)
    await look(api.app, "a")
    assert await events(api) == [("problem.began", TYPE.id)]


async def test_a_wrong_mute_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for id in ("unknown", "queue_paused:" + "x" * 600, "queue_paused:a%0Ab", "@"):
        assert (await api.call("PUT", f"{PATH}/{id}/mute")).status == 404, id
    for body in (
        {"duration": "1h"},
        {"duration": "PT0S"},
        {"reason": "x" * 201},
        {"reason": "a\nb"},
        {"until": "tomorrow"},
        {"reason": 1},
    ):
        reply = await api.call("PUT", f"{PATH}/queue_paused/mute", body)
        assert reply.status in (400, 422), body
    monkeypatch.setattr(records, "MAX_MUTES", 1)
    for _ in range(2):
        assert (await api.call("PUT", f"{PATH}/queue_paused/mute")).status == 200
    assert (await api.call("PUT", f"{PATH}/old_jobs/mute")).status in (400, 422)


async def test_at_most_a_hundred_problems_are_recorded(api: Api) -> None:
    find(api, *(Problem("job_hangs", "x" * 5000, "", subject=str(n)) for n in range(150)))
    await look(api.app, "a")
    assert await counts(api) == {("job_hangs", "warning", "open"): records.MAX_RECORDED}
    with_text = (await records.read_records(api.app.store)).present.values()
    assert {len(each.text) for each in with_text} == {1000}


async def test_records_stay_few_while_a_master_is_lost(api: Api) -> None:
    """No problem is known to end then, and ids of jobs come and go."""
    store, described = api.app.store, records.ProblemDescription("workflow_stuck", "warning", "x")
    found: dict[str, tuple[int | None, records.ProblemDescription]] = {}
    for turn in range(5):
        found = {f"workflow_stuck:{turn}-{number}": (None, described) for number in range(100)}
        await records.record_problems(store, "p", found, is_complete=False)
        assert len((await records.read_records(store)).began_ms) <= 200
        ended = [id for type, id in await events(api) if type == "problem.ended"]
        assert all(not id.startswith(f"workflow_stuck:{turn - 1}") for id in ended), turn
    assert found.keys() <= (await records.read_records(store)).began_ms.keys()


async def test_damaged_records_are_left_out(standalone: Embedded) -> None:
    async with open_app(standalone) as app:
        api = Api(app)
        find(api, PAUSED)
        await look(app, "a")
        with observer(standalone) as db:
            db.hset(app.store.keys.meta.problems, b"old_jobs", b"damaged")
            db.hset(app.store.keys.meta.problem_mutes, b"old_jobs", b"1 0 [")
        assert list((await records.read_records(app.store)).present) == ["queue_paused"]
        await let_pass(api, records.ENDED_MS + SECOND_MS)
        find(api)
        await look(app, "a")
        ended = (await api.get("/ojs/v1/events?types=problem.ended")).json["items"]
        assert {each["subject"] for each in ended} == {"queue_paused", "old_jobs"}


async def test_an_early_acknowledgement_hides_no_later_loss_of_the_same_master(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_status, "KEPT_S", 0.0)
    store = api.app.store
    shard = store.keys.shard(0)

    async def lose() -> None:
        await store.redis.call(shard.slot, "DEL", shard.schema)

    async def lost() -> list[str]:
        items = (await api.get(PATH)).json["items"]
        return [each["id"] for each in items if each["rule"] == "data_lost"]

    async def announced() -> list[str]:
        return [id for kind, id in await events(api) if id.startswith("data_lost")]

    for _ in range(2):
        await restore(store)
    await lose()
    [early] = await lost()
    await api.call("PUT", f"{PATH}/{quote(early, safe='')}/mute")
    assert await lost() == []
    await look(api.app, "a")
    assert await announced() == []

    await lose()
    await look(api.app, "a")
    [first] = await lost()
    assert await announced() == [first]
    await look(api.app, "a")
    assert await announced() == [first], "once"
    assert (await api.call("PUT", f"{PATH}/{quote(first, safe='')}/mute")).status == 200
    assert await lost() == []


async def test_a_rebuild_that_a_master_refuses_is_tried_again_after_a_pause(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []

    async def is_lost(_app: Any, _identity: str) -> bool:
        return True

    async def refuse(_store: Any, _may_continue: Any) -> None:
        tries.append(trio.current_time())
        raise RedisReplyError("NOPERM User ojs has no permissions to run the 'scan' command")

    monkeypatch.setattr(problem_watch, "look", is_lost)
    monkeypatch.setattr(problem_watch, "rebuild", refuse)
    app = MagicMock()  # its master is responsive
    with trio.move_on_after(25 * 60):
        await problem_watch.watch_problems(app)
    assert len(tries) == 3
    assert min(later - earlier for earlier, later in pairwise(tries)) >= 10 * 60
