"""The bytes of clients that follow events: Python, JS and Ruby SDK, CLI, admin UI."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from tests.clients.test_progress import JS, PYTHON, send
from tests.clients.wire import Wire
from tests.http.push.reading import Events, events

# ojs-python-sdk, src/ojs/subscribe.py:49; httpx adds the others.
PYTHON_STREAM = {
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
    "User-Agent": "python-httpx/0.28.1",
    "Accept": "text/event-stream",
    "Cache-Control": "no-cache",
}
# ojs-js-sdk, src/subscribe.ts:66; undici adds the others.
JS_STREAM = {
    "connection": "keep-alive",
    "Accept": "text/event-stream",
    "Cache-Control": "no-cache",
    "accept-language": "*",
    "sec-fetch-mode": "cors",
    "user-agent": "node",
    "accept-encoding": "gzip, deflate",
}
# ojs-ruby-sdk, lib/ojs/subscribe.rb:48; Net::HTTP adds the others.
RUBY_STREAM = {
    "Accept-Encoding": "gzip;q=1.0,deflate;q=0.6,identity;q=0.3",
    "Accept": "text/event-stream",
    "User-Agent": "Ruby",
    "Cache-Control": "no-cache",
}
# ojs-cli, cmd/ojs/commands/events.go:46.
CLI_STREAM = {
    "User-Agent": "Go-http-client/1.1",
    "Accept": "text/event-stream",
    "Accept-Encoding": "gzip",
}


async def enqueue(wire: Wire, queue: str = "default") -> str:
    body = {"type": "mail.send", "args": [], "options": {"queue": queue}}
    made = await send(wire, PYTHON, "POST", "/ojs/v1/jobs", body)
    job_id: str = made.json["job"]["id"]
    return job_id


async def run(wire: Wire, queue: str = "default") -> None:
    fetch = {"queues": [queue], "worker_id": "w"}
    fetched = await send(wire, JS, "POST", "/ojs/v1/workers/fetch", fetch)
    for job in fetched.json["jobs"]:
        await send(wire, JS, "POST", "/ojs/v1/workers/ack", {"job_id": job["id"]})


def lines_of(stream: Events) -> None:
    """Check what the line parsers of the SDKs need, which is less than the HTML standard has."""
    assert stream.headers["content-type"] == "text/event-stream"
    assert "content-encoding" not in stream.headers


# ojs-python-sdk, src/ojs/subscribe.py:56: any status of 400 or above raises; ojs-js-sdk,
# src/subscribe.ts:122: not ok.
@pytest.mark.parametrize(
    ("headers", "channel"),
    [(PYTHON_STREAM, "job:{}"), (JS_STREAM, "job%3A{}"), (RUBY_STREAM, "job%3A{}")],
    ids=["python", "js", "ruby"],
)
async def test_an_sdk_follows_a_job(wire: Wire, headers: Mapping[str, str], channel: str) -> None:
    job_id = await enqueue(wire)
    target = f"/ojs/v1/events/stream?channel={channel.format(job_id)}"
    async with events(wire.port, target, headers) as stream:
        assert stream.status == 200
        lines_of(stream)
        await run(wire)
        found = await stream.rest()  # the loop of the Python SDK ends

    assert [event.kind for event in found][-1] == "job.completed"
    changes = [event.data for event in found if event.kind == "job.state_changed"]
    assert [data["to"] for data in changes] == ["active", "completed"]  # js README: event.data?.to
    assert all(event.id for event in found)


# ojs-python-sdk, src/ojs/subscribe.py:49; ojs-js-sdk, src/subscribe.ts:66; ojs-ruby-sdk,
# lib/ojs/subscribe.rb:48: the channel of a queue.
@pytest.mark.parametrize(
    ("headers", "channel"),
    [(PYTHON_STREAM, "queue:mail"), (JS_STREAM, "queue%3Amail"), (RUBY_STREAM, "queue%3Amail")],
    ids=["python", "js", "ruby"],
)
async def test_an_sdk_follows_a_queue_before_its_first_job(
    wire: Wire, headers: Mapping[str, str], channel: str
) -> None:
    async with events(wire.port, f"/ojs/v1/events/stream?channel={channel}", headers) as stream:
        assert stream.status == 200
        job_id = await enqueue(wire, "mail")
        await run(wire, "mail")
        found = await stream.until("job.completed")
    assert found[0].kind == "job.enqueued"
    assert {event.data["job_id"] for event in found} == {job_id}


# ojs-cli, cmd/ojs/commands/events.go:93: it prints these four members of each event.
async def test_the_cli_prints_events(wire: Wire) -> None:
    target = "/ojs/v1/events/stream?types=job.completed,job.failed&queue=mail"
    async with events(wire.port, target, CLI_STREAM) as stream:
        await enqueue(wire, "other")
        await run(wire, "other")
        job_id = await enqueue(wire, "mail")
        await run(wire, "mail")
        [event] = await stream.take(1)
    shown = [event.data[name] for name in ("type", "event", "job_id", "queue")]
    assert shown == ["mail.send", "job.completed", job_id, "mail"]


# ojs-admin-ui, src/hooks/useRealtimeMetrics.ts:238: it listens to these four types.
async def test_the_admin_ui_finds_the_members_that_it_shows(wire: Wire) -> None:
    headers = {"Accept": "text/event-stream", "User-Agent": "Mozilla/5.0"}
    target = "/ojs/v1/events/stream?types=job.enqueued,job.completed,job.failed,job.cancelled"
    async with events(wire.port, target, headers) as stream:
        job_id = await enqueue(wire, "mail")
        await run(wire, "mail")
        found = await stream.take(2)
    for event in found:
        data = event.data
        assert (data["job_id"], data["type"], data["queue"]) == (job_id, "mail.send", "mail")
        assert data["timestamp"].endswith("Z")
    assert found[1].data["attempt"] == 1
    assert json.loads(found[0].raw) == found[0].data


# ojs-admin-ui, src/components/jobs/JobDetail.tsx:57: it listens to events without a name.
async def test_the_admin_ui_shows_progress(wire: Wire) -> None:
    job_id = await enqueue(wire)
    fetch = {"queues": ["default"], "worker_id": "w"}
    await send(wire, JS, "POST", "/ojs/v1/workers/fetch", fetch)
    target = f"/ojs/v1/jobs/{job_id}/progress"
    headers = {"Accept": "text/event-stream", "User-Agent": "Mozilla/5.0"}
    async with events(wire.port, f"{target}/stream", headers) as stream:
        await send(wire, JS, "PUT", target, {"progress": 0.75, "data": {"phase": "load"}})
        found = await stream.until("message")
    data = found[-1].data
    assert (data["job_id"], data["progress"], data["data"]) == (job_id, 0.75, {"phase": "load"})
    assert data["updated_at"].endswith("Z")
