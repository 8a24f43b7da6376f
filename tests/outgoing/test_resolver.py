"""Look-ups of names whose name servers are silent."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest
import trio
import trio.testing

from ojs_cluster.outgoing import resolver as module
from ojs_cluster.outgoing.resolver import Resolver
from ojs_cluster.webhooks.addresses import parse_url
from ojs_cluster.webhooks.client import AttemptResult, WebhookClient
from ojs_cluster.webhooks.settings import WebhookSettings
from tests.redis.helpers import eventually
from tests.support.receiver import receiving

SETTINGS = WebhookSettings(
    allow_cidrs=(ip_network("127.0.0.1/32"),), allow_http=True, timeout_s=60.0
)


@dataclass
class NameServers:
    """Stands for the resolver of the machine: names that begin with ``silent`` get no answer."""

    asked: Counter[str] = field(default_factory=Counter)
    answers: threading.Event = field(default_factory=threading.Event)

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked[host] += 1
        if host.startswith("silent"):
            assert self.answers.wait(120)
        if host.startswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(0, 0, 0, "", ("127.0.0.1", port))]


@pytest.fixture
def servers() -> Iterator[NameServers]:
    made = NameServers()
    yield made
    made.answers.set()


async def test_names_without_an_answer_delay_no_other_receiver(servers: NameServers) -> None:
    client = WebhookClient(SETTINGS, Resolver(servers))
    async with receiving() as receiver, trio.open_nursery() as nursery:

        async def post(host: str) -> AttemptResult:
            url = parse_url(receiver.url(host), allow_http=True)
            return await client.post(url, [], b"{}")

        for number in range(100):
            for _ in range(8):
                nursery.start_soon(post, f"silent{number}.example")
        await eventually(lambda: len(servers.asked) == 100)
        with trio.fail_after(50):
            assert (await post("quick.example")).status == 200
        assert set(servers.asked.values()) == {1}
        nursery.cancel_scope.cancel()


async def test_requests_to_a_host_share_one_look_up_that_outlives_them(
    servers: NameServers,
) -> None:
    resolver = Resolver(servers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver, "silent.example", 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    found: list[Any] = []

    async def look_up() -> None:
        found.append(await resolver("silent.example", 1))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(look_up)
        await trio.testing.wait_all_tasks_blocked()
        servers.answers.set()
    assert found == [["127.0.0.1"]] * 3
    assert servers.asked == {"silent.example": 1}
    assert await resolver("silent.example", 1) == ["127.0.0.1"]
    assert servers.asked == {"silent.example": 2}


async def test_the_number_of_threads_is_bounded_and_an_end_lets_others_begin(
    servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LOOKUPS", 2)
    resolver = Resolver(servers)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(resolver, f"silent{number}.example", 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(resolver._running) == 2
        servers.answers.set()
    assert len(servers.asked) == 5
    assert not resolver._running


async def test_a_look_up_without_a_thread_fails_and_the_next_one_does_not(
    servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    resolver = Resolver(servers)
    with monkeypatch.context() as patch:
        patch.setattr(trio.lowlevel, "start_thread_soon", fail)
        with pytest.raises(OSError, match="no thread"):
            await resolver("a.example", 1)
    with trio.fail_after(50):
        assert await resolver("a.example", 1) == ["127.0.0.1"]


async def test_an_unknown_name_is_an_error_of_every_request(servers: NameServers) -> None:
    resolver = Resolver(servers)
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await resolver("unknown.example", 1)
    url = parse_url("http://unknown.example/", allow_http=True)
    answer = await WebhookClient(SETTINGS, resolver).post(url, [], b"")
    assert (answer.status, answer.error) == (0, "the host name cannot be resolved")
