"""A problem of real processes: since when it is there, its metric, its events and its mute."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx
import trio

from ojs_cluster.server.embedded.servers import Embedded
from tests.client_library.ctl.conftest import Ctl
from tests.server.programs import program
from tests.server.test_metrics import sample
from tests.server.test_serve import CLI, serve
from tests.support.receiver import Receiver, receiving
from tests.support.servers import wait_until

PROBLEMS = "/ojs/v1/admin/problems"
OPEN = {"rule": "queue_paused", "severity": "warning", "state": "open"}
SETTINGS = {"OJS_UI": "full", "OJS_WEBHOOK_ALLOW_HTTP": "true"}
SETTINGS |= {"OJS_WEBHOOK_ALLOW_CIDRS": "127.0.0.1/32"}
until = partial(wait_until, timeout_s=180)


async def test_a_problem_is_told_once_by_two_processes_until_it_ends(standalone: Embedded) -> None:
    async with receiving() as receiver:
        await trio.to_thread.run_sync(_follow_a_problem, standalone.url, receiver)


def _follow_a_problem(redis_url: str, receiver: Receiver) -> None:
    scheduler = program([*CLI, "scheduler"], env={"REDIS_URL": redis_url, **SETTINGS})
    with (
        serve(redis_url, **SETTINGS) as (first, port),
        serve(redis_url, **SETTINGS) as (second, other_port),
        scheduler,
    ):
        first.wait_line("ready to serve")
        second.wait_line("ready to serve")
        ports = (port, other_port)
        one, other = (
            httpx.Client(base_url=f"http://127.0.0.1:{each}", timeout=60) for each in ports
        )
        with one, other:
            _see_everywhere(receiver, ports, (one, other))


def _see_everywhere(
    receiver: Receiver, ports: tuple[int, int], clients: tuple[httpx.Client, httpx.Client]
) -> None:
    one, other = clients
    ctl = Ctl(str(one.base_url))

    def seen() -> list[dict[str, Any]]:
        """Return the problem as each process lists it, empty if it does not."""
        lists = [client.get(PROBLEMS).json()["items"] for client in clients]
        return [
            next((each for each in listed if each["id"] == "queue_paused"), {}) for listed in lists
        ]

    def events(kind: str) -> list[Any]:
        found = [each.event for each in receiver.received]
        named = [each for each in found if each["data"]["problem_id"] == "queue_paused"]
        return [each for each in named if each["type"] == kind]

    def counted(labels: dict[str, str]) -> list[float]:
        return [sample(port, "ojs_problem", labels) for port in ports]

    subscription = {"url": receiver.url(), "events": ["problem.*"]}
    made = one.post("/ojs/v1/webhooks/subscriptions", json=subscription)
    assert made.status_code == 201, made.text
    one.post("/ojs/v1/queues/mail/pause").raise_for_status()
    until(lambda: bool(events("problem.began")), what="the event of the beginning")
    [began] = events("problem.began")
    assert began["data"]["text"] == "Queue mail is paused"
    since = began["data"]["since"]
    until(lambda: [each.get("since") for each in seen()] == [since] * 2, what="both know it")
    until(lambda: counted(OPEN) == [1, 1], what="both count it")

    ctl.run("problem", "mute", "queue_paused", "--for", "1h", "--reason", "release")
    assert [each["state"] for each in seen()] == ["muted", "muted"], "each process says so at once"
    until(lambda: counted(OPEN) == [0, 0], what="no alert")
    assert counted(OPEN | {"state": "muted"}) == [1, 1]
    overview = other.get("/ui/").text
    assert "No open problems" in overview
    assert "Queue mail is paused" in overview
    assert seen()[0]["mute"]["reason"] == "release"
    doctor = {each["check"]: each["status"] for each in ctl.json("doctor", code=None)}
    assert doctor["queue_paused"] == "muted"

    one.post("/ojs/v1/queues/mail/resume").raise_for_status()
    until(lambda: seen() == [{}, {}], what="the lists are empty")
    until(lambda: bool(events("problem.ended")), what="the event of the end")
    until(lambda: counted({}) == [0, 0], what="no problem is counted")
    assert "queue_paused" not in ctl.names("problem", "ls")
    assert "No problems" in one.get("/ui/").text
    assert (len(events("problem.began")), len(events("problem.ended"))) == (1, 1)
