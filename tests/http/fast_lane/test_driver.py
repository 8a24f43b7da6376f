"""Plain requests that run without a task, and the cases that wake the task of a connection."""

from __future__ import annotations

import json
import math
import os
import re
import select
import signal
import socket
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from ojs_cluster.core.access.scopes import ALL_SCOPES, Keyring, Principal, digest
from ojs_cluster.http import dispatch
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.fast_lane import connection as lane_connection
from ojs_cluster.http.fast_lane import driver
from ojs_cluster.http.fast_lane.idle_connections import IdleConnections
from ojs_cluster.http.fast_lane.plain.verb import PlainVerb
from ojs_cluster.http.fast_lane.server import FastLane
from ojs_cluster.http.fast_lane.transport import PeerWatch
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_ids import new_request_id
from ojs_cluster.redis.driven_coroutines import DriverState
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, Stream, open_app, serving, until
from tests.http.fast_lane.test_server import ENQUEUE, FETCH, connected, read_responses
from tests.http.test_entry_points import request
from tests.support.access import accepts

LIVE = request("GET", "/live")
POLL = request("POST", "/ojs/v1/workers/fetch", {"queues": ["default"]})
POLL_MANY = request("POST", "/ojs/v1/workers/fetch", {"queues": ["default"], "count": 2})
JOB = "/ojs/v1/jobs/01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"


@pytest.fixture
async def lane(api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[FastLane, int]]:
    # Every two seconds a request has the partition table read again, which takes a task.
    monkeypatch.setattr(api.app.store.partitions, "_next_read_at", math.inf)
    monkeypatch.setattr(api.app.store.partitions, "_unreadable", True)
    fast_lane = FastLane(stop=trio.Event(), idle_timeout_s=600)
    async with serving(api.app, lane=fast_lane) as port:
        yield fast_lane, port


@contextmanager
def paused(standalone: Embedded) -> Iterator[None]:
    """Stop Redis until the end of the block."""
    pid = standalone.nodes[0].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Steps(trio.abc.Instrument):
    """Counts the steps of the tasks that serve connections."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += "_accept.<locals>.serve" in task.name


async def ask(stream: Stream, sent: bytes, count: int = 1) -> list[bytes]:
    await stream.send_all(sent)
    return await read_responses(stream, count)


async def lifecycle(stream: Stream) -> None:
    (answer,) = await ask(stream, ENQUEUE)
    assert answer.startswith(b"HTTP/1.1 201 ")
    (answer,) = await ask(stream, POLL)
    job = json.loads(answer.partition(b"\r\n\r\n")[2])["jobs"][0]
    body = {"job_id": job["id"], "lease_id": job["lease_id"]}
    (answer,) = await ask(stream, request("POST", "/ojs/v1/workers/ack", body))
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_plain_requests_wake_no_task_of_their_connection(
    lane: tuple[FastLane, int],
) -> None:
    async with connected(lane[1]) as stream:
        await lifecycle(stream)
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for _ in range(5):
            await lifecycle(stream)
        trio.lowlevel.remove_instrument(steps)
    assert steps.count == 0


async def test_a_request_that_ends_its_connection_wakes_its_task_only_for_the_end(
    lane: tuple[FastLane, int],
) -> None:
    async with connected(lane[1]) as stream:
        await lifecycle(stream)
    last = request("POST", "/ojs/v1/jobs", {"type": "t", "args": []}, "Connection: close")
    async with connected(lane[1]) as stream:
        await ask(stream, LIVE)  # the task has begun
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        (answer,) = await ask(stream, last)
        assert await stream.receive_some(10) == b""
        trio.lowlevel.remove_instrument(steps)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert steps.count <= 2  # one ends the connection, one its nursery


async def test_requests_are_answered_in_order_over_and_over(lane: tuple[FastLane, int]) -> None:
    targets = ["/live" if number % 3 else JOB for number in range(2000)]
    asked = [request("GET", to, None, f"X-Request-Id: n-{n}.") for n, to in enumerate(targets)]
    async with connected(lane[1]) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"".join(asked))
        data = b""
        while b"n-1999." not in data:
            data += await stream.receive_some(65_536)
    told = [line for line in data.split(b"\r\n") if line.startswith(b"x-request-id: n-")]
    assert told == [b"x-request-id: n-%d." % n for n in range(2000)]


@pytest.mark.parametrize("target", ["/live", JOB], ids=["without Redis", "with Redis"])
async def test_a_client_that_sends_many_requests_ahead_does_not_starve_others(
    lane: tuple[FastLane, int], monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    begun: list[str] = []
    run = dispatch.run

    async def counted(app: Any, call: Any, request: Request, deadline: Any) -> Response:
        begun.append(request.path)
        return await run(app, call, request, deadline)

    monkeypatch.setattr(driver, "run", counted)
    monkeypatch.setattr(lane_connection, "run", counted)
    async with connected(lane[1]) as greedy, connected(lane[1]) as other, trio.open_nursery() as n:
        await ask(other, LIVE)
        n.start_soon(_read_all, greedy)
        n.start_soon(_send_ahead, greedy, request("GET", target))
        await until(_more_than(begun, 100))
        for _ in range(20):
            begun.clear()
            await ask(other, request("GET", "/ojs/v1/jobs/other"))
            # A turn is eight requests at most. Without a bound one read brings hundreds.
            assert begun.index("/ojs/v1/jobs/other") < 100
        n.cancel_scope.cancel()


async def _send_ahead(stream: Stream, one: bytes) -> None:
    while True:
        await stream.send_all(one * 10_000)


def _more_than(items: list[Any], count: int) -> Any:
    async def more() -> bool:
        return len(items) > count

    return more


async def _read_all(stream: Stream) -> None:
    while await stream.receive_some(65_536):
        pass


async def test_a_client_may_send_ahead_and_close_its_side(lane: tuple[FastLane, int]) -> None:
    async with connected(lane[1]) as stream:
        assert isinstance(stream, trio.SocketStream)
        await stream.send_all(ENQUEUE * 3)
        await stream.send_eof()
        data = b"".join([piece async for piece in stream])
    assert data.count(b"HTTP/1.1 201 ") == 3


async def test_ended_connections_are_unregistered(lane: tuple[FastLane, int]) -> None:
    async with connected(lane[1]) as stream:
        await ask(stream, LIVE)
        assert len(lane[0]._connections) == 1
    await until(_forgotten(lane[0]))
    assert not lane[0].idle_connections._registered


def _forgotten(lane: FastLane) -> Any:
    async def forgotten() -> bool:
        return not lane._connections

    return forgotten


async def test_requests_sent_ahead_of_a_slow_response_are_not_read(
    lane: tuple[FastLane, int], standalone: Embedded
) -> None:
    async with connected(lane[1]) as stream:
        await ask(stream, ENQUEUE)
        assert isinstance(stream, trio.SocketStream)
        with paused(standalone):
            with trio.move_on_after(0.5):
                await stream.send_all(ENQUEUE * 100_000)
            (connection,) = lane[0]._connections
            assert len(connection.data) <= 64 * 1024


async def test_a_response_does_not_wait_for_a_large_request_of_the_same_turn(
    lane: tuple[FastLane, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = request("POST", "/ojs/v1/jobs", {"type": "t", "args": ["x" * 5000]})
    done: list[str] = []
    send, start = driver.Driver._send, dispatch.prepare

    def note_send(self: driver.Driver, response: Response, data: bytes) -> bool:
        done.append(f"sent {response.status}")
        return send(self, response, data)

    def note_start(app: Any, asked: Request, **kwargs: Any) -> Any:
        done.append(f"began {asked.path}")
        return start(app, asked, **kwargs)

    async with connected(lane[1]) as small, connected(lane[1]) as other:
        await ask(small, LIVE)
        await ask(other, LIVE)
        monkeypatch.setattr(driver.Driver, "_send", note_send)
        monkeypatch.setattr(driver, "prepare", note_start)
        for stream, sent in ((small, LIVE), (other, large)):  # without an await in between
            assert isinstance(stream, trio.SocketStream)
            os.write(stream.socket.fileno(), sent)
        await read_responses(small, 1)
        await read_responses(other, 1)
    assert done[:3] == ["began /live", "sent 200", "began /ojs/v1/jobs"]


# -- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize("poll", [POLL, POLL_MANY], ids=["plain", "readable"])
@pytest.mark.parametrize("name", ["encoding", "sending"])
async def test_a_bug_while_responding_ends_only_that_connection_and_releases_its_job(
    api: Api, lane: tuple[FastLane, int], monkeypatch: pytest.MonkeyPatch, name: str, poll: bytes
) -> None:
    places: list[tuple[Any, str]] = [(PeerWatch, "has_closed")]
    if name == "encoding":
        places = [(driver, "encode"), (PlainVerb, "_encode")]
    async with connected(lane[1]) as stream, connected(lane[1]) as other:
        await ask(other, LIVE)
        await ask(stream, poll)  # the first fetch of a worker needs a task, which answers itself
        job = await api.enqueue()
        with monkeypatch.context() as patched:

            def broken(*args: Any, **kwargs: Any) -> Any:
                raise RuntimeError("a bug")

            for owner, attribute in places:
                patched.setattr(owner, attribute, broken)
            await stream.send_all(poll)
            with suppress(trio.BrokenResourceError):
                assert await stream.receive_some(10) == b""
        await until(_is(api, job["id"], "available"))
        await lifecycle(other)


async def test_a_cancellation_in_the_turn_of_a_response_does_not_lose_it(
    lane: tuple[FastLane, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another request of the same turn may cancel the connection, whose response is queued."""
    async with connected(lane[1]) as stream:
        await ask(stream, ENQUEUE)
        (connection,) = lane[0]._connections
        queue_response = DriverState.queue_response

        def queue_and_cancel(state: DriverState, sender: Any) -> None:
            queue_response(state, sender)
            connection.scope.cancel()

        with monkeypatch.context() as patched:
            patched.setattr(DriverState, "queue_response", queue_and_cancel)
            (answer,) = await ask(stream, ENQUEUE)
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert await stream.receive_some(10) == b""
        assert lane[0].idle_connections._registered == {}


async def test_a_bug_while_reading_ends_that_connection_only(
    lane: tuple[FastLane, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(lane[1]) as stream, connected(lane[1]) as other:
        await ask(stream, LIVE)
        await ask(other, LIVE)
        with monkeypatch.context() as patched:

            def broken(*args: Any) -> None:
                raise RuntimeError("a bug")

            patched.setattr(driver, "prepare", broken)
            await stream.send_all(LIVE)
            with suppress(trio.BrokenResourceError):
                assert await stream.receive_some(10) == b""
        await lifecycle(other)


async def test_a_handler_that_uses_trio_without_a_task_is_answered_500(
    lane: tuple[FastLane, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgetful(*args: Any, **kwargs: Any) -> Any:
        with trio.move_on_after(1):
            await trio.lowlevel.checkpoint()

    async with connected(lane[1]) as stream:
        await ask(stream, LIVE)
        with monkeypatch.context() as patched:
            patched.setattr("ojs_cluster.http.handlers.workers.fetch.fetch_or_wait", forgetful)
            (answer,) = await ask(stream, POLL)
        assert answer.startswith(b"HTTP/1.1 500 ")
        await lifecycle(stream)


async def test_a_fetch_cancelled_by_the_end_of_the_grace_period_releases_its_job(
    api: Api, standalone: Embedded
) -> None:
    stop = trio.Event()
    with trio.fail_after(60):
        async with (
            serving(api.app, lane=True, stop=stop, grace_s=0.2) as number,
            connected(number) as stream,
        ):
            await lifecycle(stream)
            job = await api.enqueue()
            with paused(standalone):
                await stream.send_all(POLL)
                await wait_all_tasks_blocked()
                stop.set()
                await trio.sleep(1)  # the grace period is over, and Redis has not answered
            with suppress(trio.BrokenResourceError):
                assert await stream.receive_some(10) == b""
    await until(_is(api, job["id"], "available"))
    assert (await api.fetch())[0]["attempt"] == 1


def _is(api: Api, job_id: str, state: str) -> Any:
    async def check() -> bool:
        return bool((await api.get(f"/ojs/v1/jobs/{job_id}")).json["state"] == state)

    return check


@pytest.mark.parametrize("poll", [POLL, POLL_MANY], ids=["plain", "readable"])
async def test_the_job_of_a_client_that_disconnects_before_redis_replies_is_released(
    api: Api, lane: tuple[FastLane, int], standalone: Embedded, poll: bytes
) -> None:
    async with connected(lane[1]) as stream:
        await lifecycle(stream)
        job = await api.enqueue()
        with paused(standalone):
            await stream.send_all(poll)
            await wait_all_tasks_blocked(0.05)
            (connection,) = lane[0]._connections
            assert connection._driver is not None
            assert (connection._driver._call is not None) is (poll is POLL)
            assert (connection._driver._coroutine is None) is (poll is POLL)
            await stream.aclose()
            await wait_all_tasks_blocked(0.05)
    await until(_forgotten(lane[0]))
    assert (await api.fetch())[0]["attempt"] == 1
    assert (await api.get(f"/ojs/v1/jobs/{job['id']}")).json["state"] == "active"


@pytest.mark.parametrize("poll", [POLL, POLL_MANY], ids=["plain", "readable"])
async def test_a_reply_that_arrives_while_the_cancelled_task_takes_over_is_not_lost(
    api: Api, lane: tuple[FastLane, int], standalone: Embedded, poll: bytes
) -> None:
    async with connected(lane[1]) as stream:
        await lifecycle(stream)
        with paused(standalone):
            await stream.send_all(poll)
            await wait_all_tasks_blocked(0.05)
            (connection,) = lane[0]._connections
            assert connection._driver is not None
            call = connection._driver._call
            assert (call is not None) is (poll is POLL)
            connection.scope.cancel()
            nothing = [1, b"", 0, 0]
            if call is not None:
                call.receive(nothing)
            else:
                connection._driver._resume(nothing)
            await until(_forgotten(lane[0]))
            assert len(api.app.store.unanswered_fetches) == 0  # it was not lost


async def test_a_request_without_a_reply_ends_at_its_deadline(standalone: Embedded) -> None:
    limits = {"reply_timeout_s": 0.5, "call_timeout_s": 0.5}
    async with (
        open_app(standalone, redis=limits) as app,
        serving(app, lane=True) as number,
        connected(number) as stream,
    ):
        with paused(standalone):
            (answer,) = await ask(stream, request("GET", JOB))
            assert answer.startswith(b"HTTP/1.1 503 ")
        (answer,) = await ask(stream, request("GET", JOB))


async def test_a_slow_reader_gets_a_large_response_completely(
    api: Api, lane: tuple[FastLane, int]
) -> None:
    for _ in range(5):
        await api.enqueue(args=["x" * 1_000_000])
    body = {"queues": ["default"], "count": 5}
    async with connected(lane[1]) as stream:
        await stream.send_all(request("POST", "/ojs/v1/workers/fetch", body))
        await wait_all_tasks_blocked(0.05)
        data = await stream.receive_some(65_536)
        head, _, answer = data.partition(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        assert found is not None
        while len(answer) < int(found[1]):
            answer += await stream.receive_some(65_536)
        assert len(json.loads(answer)["jobs"]) == 5
        await lifecycle(stream)


async def test_a_request_with_durability_is_served_by_the_fast_lane(
    lane: tuple[FastLane, int], standalone: Embedded
) -> None:
    sent = request(*("POST", "/ojs/v1/jobs", {"type": "t", "args": []}, "OJS-Durability: replica"))
    async with connected(lane[1]) as stream:
        (answer,) = await ask(stream, sent)
        assert b"stored_unconfirmed" in answer  # there is no replica
        await lifecycle(stream)


# -- without epoll --------------------------------------------------------------------------


async def test_without_epoll_each_connection_is_served_by_its_task(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(select, "epoll")
    lane = FastLane(stop=trio.Event(), idle_timeout_s=600)
    async with serving(api.app, lane=lane) as number, connected(number) as stream:
        assert not lane.idle_connections.running
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await lifecycle(stream)
        trio.lowlevel.remove_instrument(steps)
    assert steps.count >= 3


async def test_tasks_serve_the_connections_after_the_epoll_ends(api: Api) -> None:
    lane = FastLane(stop=trio.Event(), idle_timeout_s=600)
    lane.open(api.app)
    async with served(lane) as streams:
        with trio.CancelScope() as idle:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lane.idle_connections.run)
                await wait_all_tasks_blocked()
                for stream in streams:
                    await lifecycle(stream)
                await streams[0].send_all(FETCH)
                await streams[1].send_all(ENQUEUE[:20])
                await until(_waits(api))
                assert len(lane.idle_connections._registered) == 1
                idle.cancel()
        assert not lane.idle_connections.running
        await streams[1].send_all(ENQUEUE[20:])
        for stream in streams[:2]:
            await read_responses(stream, 1)
        await lifecycle(streams[2])


def _waits(api: Api) -> Any:
    async def waits() -> bool:
        return len(api.app.waiters) > 0

    return waits


@asynccontextmanager
async def served(lane: FastLane) -> AsyncIterator[list[trio.SocketStream]]:
    """Open three connections that a fast lane serves without a server."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    streams = []
    with trio.fail_after(60):
        async with listener, trio.open_nursery() as nursery:
            for _ in range(3):
                streams.append(await trio.testing.open_stream_to_socket_listener(listener))
                nursery.start_soon(lane.serve, await listener.accept())
            yield streams
            for stream in streams:
                await stream.aclose()


async def test_an_unregistered_connection_gets_no_events() -> None:
    class Unregistered:
        def on_readable(self) -> None:
            raise AssertionError("it is not registered")

        on_epoll_closed = on_readable

    idle = IdleConnections()
    here, there = socket.socketpair()
    with here, there:
        assert not idle.register(here.fileno(), Unregistered())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(idle.run)
            await wait_all_tasks_blocked()
            assert idle.register(here.fileno(), Unregistered())
            there.send(b"x")
            idle.unregister(here.fileno())
            await wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()


async def test_a_descriptor_that_epoll_rejects_is_served_by_its_task(tmp_path: Path) -> None:
    """An error here would follow a response that is sent already, and undo it."""

    class Rejected:
        def on_readable(self) -> None:
            raise AssertionError("it was never registered")

        on_epoll_closed = on_readable

    idle = IdleConnections()
    with (tmp_path / "file").open("wb") as file:  # epoll rejects files
        async with trio.open_nursery() as nursery:
            nursery.start_soon(idle.run)
            await wait_all_tasks_blocked()
            assert not idle.register(file.fileno(), Rejected())
            idle.unregister(file.fileno())
            nursery.cancel_scope.cancel()


# -- cached heads -----------------------------------------------------------------------------


def keyed(secret: str) -> bytes:
    return request("GET", JOB, None, f"Authorization: Bearer {secret}")


async def status(stream: Stream, sent: bytes) -> bytes:
    (answer,) = await ask(stream, sent)
    return answer[9:12]


async def test_a_cached_head_is_authenticated_again_after_the_keys_have_changed(
    standalone: Embedded,
) -> None:
    access = accepts(["old", "other"])
    async with (
        open_app(standalone, access=access) as app,
        serving(app, lane=True) as number,
        connected(number) as stream,
    ):
        for _ in range(3):
            assert await status(stream, keyed("old")) == b"404"
            assert await status(stream, keyed("new")) == b"401"
        access.replace(Keyring({digest("new"): Principal("new", ALL_SCOPES)}, {}))
        for _ in range(3):
            assert await status(stream, keyed("old")) == b"401"
            assert await status(stream, keyed("new")) == b"404"


async def test_a_cached_head_is_counted_against_the_rate_and_expires(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    principals = {
        "rated": Principal("rated", ALL_SCOPES, requests_per_second=3.0),
        "until": Principal("until", ALL_SCOPES, expires_at_s=time.time() + 3600),
    }
    access = AccessControl(Keyring({digest(key): each for key, each in principals.items()}, {}))
    async with (
        open_app(standalone, access=access) as app,
        serving(app, lane=True) as number,
        connected(number) as stream,
    ):
        monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
        seen = [await status(stream, keyed("rated")) for _ in range(4)]
        monkeypatch.undo()
        assert seen == [b"404"] * 3 + [b"429"]
        assert await status(stream, keyed("until")) == b"404"
        later = time.time() + 3601
        access.now_s = lambda: later
        assert await status(stream, keyed("until")) == b"401"


def test_no_two_requests_have_the_same_id_in_this_process_or_a_forked_one() -> None:
    ids = {new_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads run
        child = os.fork()
    if child == 0:
        os.write(writing, "\n".join(new_request_id() for _ in range(500)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        forked = set(told.read().split())
    os.waitpid(child, 0)
    assert len(forked) == 500
    assert forked.isdisjoint({new_request_id() for _ in range(500)})
