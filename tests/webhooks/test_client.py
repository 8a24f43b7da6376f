"""The HTTP client of webhooks, against a real receiver."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_network
from itertools import count
from math import inf

import pytest
import trio
import trio.testing

from ojs_cluster.outgoing import exchange as module
from ojs_cluster.outgoing import kept_connections
from ojs_cluster.outgoing.kept_connections import KeptConnections
from ojs_cluster.webhooks.addresses import parse_url
from ojs_cluster.webhooks.client import MAX_RESPONSE, AttemptResult, WebhookClient
from ojs_cluster.webhooks.settings import WebhookSettings
from tests.support.certificates import Certificates
from tests.support.receiver import OK, Received, Receiver, receiving, status

LOOPBACK = WebhookSettings(allow_cidrs=(ip_network("127.0.0.1/32"),), allow_http=True)


class Names:
    """Resolves every name; each look-up gets the next of several answers."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


async def post(
    url: str, names: Names | None = None, settings: WebhookSettings = LOOPBACK
) -> AttemptResult:
    client = WebhookClient(settings, names)
    headers = [("Content-Type", "application/json")]
    return await client.post(parse_url(url, allow_http=True), headers, b'{"a":1}')


async def test_a_delivery_reaches_the_receiver_under_its_name() -> None:
    async with receiving() as receiver:
        names = Names(["127.0.0.1"])
        answer = await post(receiver.url("hooks.example", "/a?b=c"), names)
    assert (answer.status, answer.body, answer.error) == (200, b"OK", "")
    [got] = receiver.received
    assert (got.target, got.body) == ("/a?b=c", b'{"a":1}')
    assert got.headers["host"] == f"hooks.example:{receiver.port}"
    assert got.headers["connection"] == "close"
    assert names.asked == ["hooks.example"]


async def post_all(receiver: Receiver, names: Names, count: int, max_idle: int) -> None:
    client = WebhookClient(LOOPBACK, names, max_idle=max_idle)
    with closing(client):
        for _ in range(count):
            url = parse_url(receiver.url("hooks.example"), allow_http=True)
            answer = await client.post(url, [], b"{}")
            assert (answer.status, answer.body) == (200, b"OK"), answer.error


async def test_requests_to_a_receiver_share_a_connection() -> None:
    async with receiving(Receiver(keep_alive=True)) as receiver:
        names = Names(["127.0.0.1"])
        await post_all(receiver, names, 5, max_idle=1)
    assert (len(receiver.received), receiver.connections) == (5, 1)
    assert names.asked == ["hooks.example"]


async def test_a_request_gets_a_new_connection_if_the_receiver_has_closed_the_old_one() -> None:
    async with receiving() as receiver:
        await post_all(receiver, Names(["127.0.0.1"]), 5, max_idle=1)
    assert (len(receiver.received), receiver.connections) == (5, 5)


async def test_a_connection_that_ends_with_a_request_is_replaced() -> None:
    """The receiver closes its side when it reads the request: nothing shows it before."""
    ended: list[Received] = []

    async def answer(got: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        if len(receiver.received) == 2:
            ended.append(got)
            return b""
        return OK

    receiver = Receiver(keep_alive=True, answer=answer)
    async with receiving(receiver):
        await post_all(receiver, Names(["127.0.0.1"]), 3, max_idle=1)
    assert (len(receiver.received), receiver.connections, len(ended)) == (4, 2, 1)


async def test_idle_connections_are_bounded_and_old_ones_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = parse_url("http://hooks.example/", allow_http=True)
    other = parse_url("http://other.example/", allow_http=True)
    async with receiving(Receiver(keep_alive=True)) as receiver:
        here = parse_url(receiver.url(), allow_http=True)

        async def opened() -> module.OutgoingConnection:
            return await module.OutgoingConnection.open(here, ["127.0.0.1"])

        kept = KeptConnections(2)
        with closing(kept):
            one, two, three = [await opened() for _ in range(3)]
            for connection in (one, two, three):
                kept.keep(url, connection)
            assert one._socket.fileno() == -1
            assert kept.pop(other) is None
            assert kept.pop(url) is three
            monkeypatch.setattr(kept_connections, "_MAX_IDLE_S", 0.0)
            assert kept.pop(url) is None
            assert two._socket.fileno() == -1
            monkeypatch.setattr(kept_connections, "_MAX_AGE_S", 0.0)
            kept.keep(url, three)
            assert three._socket.fileno() == -1


async def test_a_name_that_changes_after_the_check_gains_nothing() -> None:
    """DNS rebinding: the first answer is allowed, later ones are not."""
    async with receiving() as receiver, receiving(host="127.0.0.2") as inside:
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        inside_port = replace_port(receiver)
        assert (await post(inside_port, names)).status == 200
        assert names.asked == ["rebind.example"]  # one look-up, and its address was connected to
        refused = await post(inside_port, names)
    assert (refused.status, refused.error) == (0, "the host has an address that is not public")
    assert (len(receiver.received), inside.connections) == (1, 0)


def replace_port(receiver: Receiver) -> str:
    return receiver.url("rebind.example")


@pytest.mark.parametrize(
    "addresses",
    [
        *(["127.0.0.2"], ["127.0.0.1", "127.0.0.2"], ["::ffff:127.0.0.2"], ["::1"]),
        *(["64:ff9b::7f00:2"], ["2002:7f00:2::"], ["169.254.169.254"], ["fe80::1%1"]),
    ],
)
async def test_no_connection_is_made_if_one_address_is_not_allowed(addresses: list[str]) -> None:
    async with receiving() as receiver, receiving(Receiver(receiver.port), "127.0.0.2") as inside:
        answer = await post(receiver.url("a.example"), Names(addresses))
    assert (answer.status, answer.error) == (0, "the host has an address that is not public")
    assert (receiver.connections, inside.connections) == (0, 0)


async def test_a_mapped_address_of_an_open_network_is_reached() -> None:
    async with receiving() as receiver:
        answer = await post(receiver.url("a.example"), Names(["::ffff:127.0.0.1"]))
    assert answer.status in (0, 200)  # 0 on a machine without IPv6
    assert answer.error != "the host has an address that is not public"


async def test_redirects_are_not_followed() -> None:
    async with receiving() as target, receiving() as receiver:

        async def redirect(_: Received) -> bytes:
            return status(302, f"Location: {target.url()}")

        receiver.answer = redirect
        answer = await post(receiver.url())
    assert (answer.status, answer.delivered) == (302, False)
    assert target.connections == 0


async def test_a_second_address_is_tried_when_the_first_refuses() -> None:
    opened = replace(LOOPBACK, allow_cidrs=(ip_network("127.0.0.0/8"),))
    async with receiving() as receiver:
        names = Names(["127.0.0.9", "127.0.0.1"])
        answer = await post(receiver.url("a.example"), names, opened)
    assert answer.status == 200


@pytest.mark.parametrize("timeout_s", [10, 30, inf])
async def test_a_second_address_is_tried_when_the_first_does_not_answer(
    timeout_s: float, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected, _ = trio.testing.memory_stream_pair()

    async def connect(address: str, _: int) -> trio.abc.Stream:
        await trio.sleep(0 if address == "127.0.0.1" else inf)
        return connected

    monkeypatch.setattr(trio, "open_tcp_stream", connect)
    with trio.fail_after(timeout_s):
        silent = ["127.0.0.8", "127.0.0.9"]
        for addresses in ([*silent, "127.0.0.1"], ["127.0.0.1"]):
            found: object = await module._connect(addresses, 1)
            assert found is connected


async def test_tls_is_checked_against_the_name(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    files = certificates.files
    context.load_cert_chain(files / "server.crt", files / "server.key")
    monkeypatch.setattr(module, "_tls_context", certificates.client)
    async with receiving(tls=context) as receiver:
        url = f"https://127.0.0.1:{receiver.port}/x"
        assert (await post(url)).status == 200
        wrong = await post(f"https://a.example:{receiver.port}/x", Names(["127.0.0.1"]))
        assert wrong.error == "TLS: CERTIFICATE_VERIFY_FAILED"
        monkeypatch.setattr(module, "_tls_context", ssl.create_default_context)
        assert (await post(url)).error == "TLS: CERTIFICATE_VERIFY_FAILED"
    assert len(receiver.received) == 1


async def test_a_receiver_that_is_down_is_an_answer_without_status() -> None:
    async with receiving() as receiver:
        pass
    answer = await post(receiver.url())
    assert (answer.status, answer.error) == (0, "connection failed: Connection refused")


async def test_a_receiver_that_never_answers_costs_the_timeout(autojump_clock: object) -> None:
    gone = trio.Event()

    async def never(_: Received) -> bytes:
        await gone.wait()
        return b""

    async with receiving(Receiver(answer=never)) as receiver:
        began = trio.current_time()
        answer = await post(receiver.url())
        assert (answer.status, answer.error) == (0, "no response in time")
        assert trio.current_time() - began == pytest.approx(30, abs=5)
        gone.set()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", "the response is not HTTP/1.1"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the response is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "the response is not HTTP/1.1"),
    ],
)
async def test_what_is_not_http_is_an_answer_without_status(reply: bytes, error: str) -> None:
    async def other(_: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return reply

    async with receiving(Receiver(answer=other)) as receiver:
        answer = await post(receiver.url())
    assert (answer.status, answer.error) == (0, error)


async def test_a_body_is_read_up_to_a_bound_and_the_status_decides() -> None:
    numbers = count()

    async def large(_: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        body = b"x" * 1_000_000
        if next(numbers):
            return b"HTTP/1.1 201 OK\r\nContent-Length: 9999999\r\n\r\n" + body[:10]  # cut short
        return b"HTTP/1.1 201 OK\r\nContent-Length: 1000000\r\n\r\n" + body

    async with receiving(Receiver(answer=large)) as receiver:
        answer = await post(receiver.url())
        assert (answer.status, len(answer.body)) == (201, MAX_RESPONSE)
        answer = await post(receiver.url())
        assert (answer.status, answer.body) == (201, b"x" * 10)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("120", 120.0), ("0", 0.0), ("-1", None), ("soon", None), ("9" * 12, None)),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
    ],
)
async def test_retry_after_is_read_in_both_forms(value: str, seconds: float | None) -> None:
    date = "Date: Wed, 21 Oct 2015 07:27:30 GMT"  # of the receiver, whose clock alone matters

    async def later(_: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return status(429, f"Retry-After: {value}", date)

    async with receiving(Receiver(answer=later)) as receiver:
        answer = await post(receiver.url())
    assert (answer.status, answer.retry_after_s) == (429, seconds)


async def test_an_informational_response_is_skipped() -> None:
    async def hints(_: Received) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"HTTP/1.1 103 Hints\r\n\r\n" + status(204)

    async with receiving(Receiver(answer=hints)) as receiver:
        assert (await post(receiver.url())).status == 204
