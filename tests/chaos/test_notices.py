"""The rules about webhooks and event streams find what these leave out or repeat."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import httpx
import pytest
import trio
import trio.testing

from tests.chaos.checker import check
from tests.chaos.history import Event, History, Hooked, Streamed
from tests.chaos.listeners import StreamReader

DONE = "job.completed"


def event(number: int, kind: str = DONE, queue: str = "q") -> Event:
    """Return an event at a Unix time of ``number`` ms."""
    return Event("job", kind, number, 0, (number,), queue=queue, id=f"evt_{number}-0-0")


def found(history: History) -> list[tuple[str, str]]:
    return [
        (each.rule, each.excused) for each in check(history) if each.rule in ("webhook", "stream")
    ]


def test_a_webhook_must_get_each_selected_event_once_all_processes_know_it() -> None:
    hooked = Hooked(frozenset({DONE}), 10, {"evt_11-0-0"})
    history = History(hooked=hooked, events=[event(9), event(11), event(12, "job.failed")])
    assert found(history) == []
    history.events.append(event(13))
    assert found(history) == [("webhook", "")]
    history.hooked = replace(hooked, excuse="unread")
    assert found(history) == [("webhook", "unread")]


def test_a_stream_must_have_each_event_once() -> None:
    seen = Counter({(DONE, "job", 11): 1, (DONE, "job", 40): 1})
    streamed = Streamed(frozenset({DONE}), "q", 10, seen)
    ignored = [event(9), event(12, "job.failed"), event(13, queue="other")]
    history = History(streamed=streamed, events=[event(11), *ignored])
    assert found(history) == []
    seen[DONE, "job", 11] = 2
    assert found(history) == [("stream", "")]
    seen[DONE, "job", 11] = 0
    assert found(history) == [("stream", "")]


@pytest.mark.parametrize(
    ("gap", "excused"), [((10, 11), True), ((11, 12), True), ((12, 20), False)]
)
def test_an_event_may_be_absent_only_from_a_gap_that_was_told(
    gap: tuple[int, int], excused: bool
) -> None:
    streamed = Streamed(frozenset({DONE}), "", 10, gaps=[gap])
    assert (found(History(streamed=streamed, events=[event(11)])) == []) == excused


FIRST = (
    "retry: 1\nid: a\n\nid: b\nevent: job.completed\n"
    'data: {"job_id":"x","timestamp":"1970-01-01T00:00:00.011Z"}\n\n'
)
SECOND = (
    'id: c\nevent: system.gap\ndata: {"gap_start":"1970-01-01T00:00:00.001Z",'
    '"gap_end":"1970-01-01T00:00:00.002Z"}\n\nid: c\nevent: system.events_dropped\n'
    'data: {"oldest_dropped_id":"evt_5000-0-1","newest_dropped_id":"evt_5001-0-2-1"}\n\n'
    'id: d\nevent: job.completed\ndata: {"job_id":"cut'
)


async def test_the_reader_resumes_after_the_last_complete_event() -> None:
    asked: list[str | None] = []
    enough = trio.Event()

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        if len(asked) == 3:
            enough.set()
        if len(asked) == 2:
            raise httpx.ReadError("cut", request=request)
        return httpx.Response(200, text=FIRST if len(asked) == 1 else SECOND)

    history, streamed = History(), Streamed(frozenset({DONE}), "")
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http,
        trio.open_nursery() as nursery,
    ):
        reader = StreamReader(http, ["http://a"], history, streamed, random.Random(0))
        nursery.start_soon(reader.run)
        with trio.fail_after(60):
            await enough.wait()
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert asked[:3] == [None, "b", "b"]
    assert streamed.seen == {(DONE, "x", 11): 1}
    assert streamed.gaps[:2] == [(1, 2), (4000, 6000)]
    assert history.errors == []
