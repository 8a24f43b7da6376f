"""The audit under attack: floods of bad keys, forged addresses, secrets."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from typing import Any

import pytest
import trio
import trio.testing

from ojs_cluster.core.access.client_address import TrustedProxies, parse_network
from ojs_cluster.http.access.audit import Audit
from ojs_cluster.http.access.refusals import MAX_SOURCES
from ojs_cluster.http.traffic import Traffic
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.http.connections import ConnectionLimits, Connections
from tests.http.api import Api, open_app, serving
from tests.http.audits import access, await_entries, capture_audit_lines, entries, lines_of, send
from tests.support.servers import observer

LOCAL = TrustedProxies([parse_network("127.0.0.0/8")])
JOB = {"type": "t", "args": []}

each_entry_point = pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])


def behind_a_proxy(**more: Any) -> tuple[Audit, Traffic]:
    """Return an audit that takes this machine for a trusted proxy, and its counters."""
    traffic = Traffic()
    return Audit(LOCAL, traffic, **more), traffic


@each_entry_point
@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
async def test_a_refused_key_is_one_line_and_one_entry(
    standalone: Embedded, caplog: pytest.LogCaptureFixture, lane: bool, split: bool
) -> None:
    capture_audit_lines(caplog)
    async with open_app(standalone, access=access()) as app, serving(app, lane=lane) as port:
        status = await send(port, "POST", "/jobs", JOB, key="wrong", split=split, request_id="mine")
        assert status == 401
        [entry] = await await_entries(app, 1)
    [line] = lines_of(caplog)
    for each in (entry, line):
        assert (each["action"], each["outcome"]) == ("authenticate", "unauthenticated")
        assert (each["status"], each["count"]) == (401, 1)
        assert (each["principal"], each["address"]) == (None, "127.0.0.1")
        assert (each["object"], each["request_id"]) == ("", "mine")


@each_entry_point
async def test_a_flood_of_bad_keys_is_two_entry_points_for_each_address(
    standalone: Embedded, caplog: pytest.LogCaptureFixture, lane: bool
) -> None:
    capture_audit_lines(caplog)
    async with open_app(standalone, access=access()) as app, serving(app, lane=lane) as port:
        for number in range(30):
            key, path = ("", f"wrong-{number}")[number % 2], ("/jobs", "/admin/x")[number % 3 == 0]
            assert await send(port, "POST", path, JOB, key=key) == 401
        assert await send(port, "POST", "/jobs", JOB, key="old-key") == 401
        await app.audit.finish(app.store)
        found = await await_entries(app, 3)
    counted = sorted((each["principal"] or "", each["count"]) for each in found)
    assert counted == [("", 1), ("", 29), ("old", 1)]  # that of an expired key is known by its name
    assert len(lines_of(caplog)) == 3


async def test_a_flood_from_many_addresses_costs_bounded_memory_lines_and_calls(
    standalone: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    """The bound is for any number of addresses. An administrative change in the flood is kept."""
    capture_audit_lines(caplog)
    audit, traffic = behind_a_proxy()
    async with open_app(standalone, access=access(), audit=audit) as app:
        api = Api(app)

        async def refused(numbers: range) -> None:
            for number in numbers:
                address = f"2001:db8::{number:x}"
                headers = {"X-Forwarded-For": address, "Authorization": f"Bearer {number}"}
                request = api.get("/ojs/manifest", headers=headers, peer="127.0.0.1")
                assert (await request).status == 401

        await api.post("/ojs/v1/queues/q/pause", headers={"Authorization": "Bearer root-key"})
        await refused(range(1, MAX_SOURCES + 50))
        await await_entries(app, MAX_SOURCES + 2)
        with observer(standalone) as db:
            calls = db.info("stats")["total_commands_processed"]
            gc.collect()
            tracemalloc.start()
            try:
                before = tracemalloc.get_traced_memory()[0]
                await refused(range(10_000, 11_000))
                gc.collect()
                grown = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
            assert db.info("stats")["total_commands_processed"] - calls < 50
        assert grown < 500_000
        assert len(lines_of(caplog)) == MAX_SOURCES + 2
        await audit.finish(app.store)
        found = await entries(app)
    refusals = [each for each in found if each["action"] == "authenticate"]
    assert len(refusals) <= 2 * (MAX_SOURCES + 1)
    assert sum(each["count"] for each in refusals) == MAX_SOURCES + 49 + 1000
    [others] = [each for each in refusals if each["count"] > 1]
    assert (others["address"], others["request_id"]) == (None, None)
    assert [each["action"] for each in found if each not in refusals] == ["queue.pause"]
    assert traffic.total("audit_dropped") == 0


async def test_the_entry_of_an_interval_is_written_without_another_request(
    standalone: Embedded,
) -> None:
    audit, _ = behind_a_proxy(interval_s=0.2)
    async with open_app(standalone, access=access(), audit=audit) as app:
        for _ in range(5):
            await Api(app).get("/ojs/manifest")
        found = await await_entries(app, 2)
        assert sum(each["count"] for each in found) == 5


# -- forged addresses -----------------------------------------------------------------------------


@each_entry_point
async def test_a_client_cannot_choose_its_address(standalone: Embedded, lane: bool) -> None:
    """Without a trusted proxy every header is ignored."""
    async with open_app(standalone, access=access()) as app, serving(app, lane=lane) as port:
        names = ("X-Forwarded-For: ", "X-Real-IP: ", "Forwarded: for=", "True-Client-IP: ")
        forged = tuple(f"{name}203.0.113.9" for name in names)
        await send(port, "POST", "/jobs", JOB, key="wrong", lines=forged)
        await send(port, "POST", "/queues/q/pause", lines=forged)
        assert {each["address"] for each in await await_entries(app, 2)} == {"127.0.0.1"}


@each_entry_point
async def test_behind_a_trusted_proxy_only_what_it_has_appended_counts(
    standalone: Embedded, lane: bool
) -> None:
    audit, _ = behind_a_proxy()
    told = {
        ("X-Forwarded-For: 203.0.113.1",): "203.0.113.1",
        ("X-Forwarded-For: 10.0.0.1, 198.51.100.1, 203.0.113.2",): "203.0.113.2",
        ("X-Forwarded-For: 203.0.113.3, 127.0.0.9",): "203.0.113.3",
        # Repeated headers are one list, in their order.
        ("X-Forwarded-For: 10.0.0.1", "X-Forwarded-For: 203.0.113.4"): "203.0.113.4",
        ("x-forwarded-for: 203.0.113.5", "X-FORWARDED-FOR: 127.0.0.2"): "203.0.113.5",
        ("X-Forwarded-For: 203.0.113.6, <script>",): "127.0.0.1",
        ("X-Forwarded-For: ::ffff:203.0.113.7",): "203.0.113.7",
        ("X-Forwarded-For: [2001:db8::8]:4711",): "2001:db8::8",
        ("X-Forwarded-For: " + ", ".join(["127.0.0.3"] * 500),): "127.0.0.3",
    }
    async with (
        open_app(standalone, access=access(), audit=audit) as app,
        serving(app, lane=lane) as port,
    ):
        for number, lines in enumerate(told):
            await send(port, "GET", "/queues", key="", lines=lines, request_id=str(number))
        found = await await_entries(app, len(told))
    named = {each["request_id"]: each["address"] for each in found}
    assert named == {str(n): address for n, address in enumerate(told.values())}


async def test_connections_of_a_trusted_proxy_are_not_those_of_one_client() -> None:
    """Their clients are not known when they are accepted; together they have a bound."""
    for proxies, may in ((TrustedProxies(), False), (LOCAL, True)):
        connections = Connections(ConnectionLimits(max_per_client=1, proxies=proxies))
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        async with listener, await trio.testing.open_stream_to_socket_listener(listener):
            accepted = await listener.accept()
            with connections.admit(accepted) as first, connections.admit(accepted) as second:
                assert (first, second) == (True, may)
            await accepted.aclose()


# -- secrets --------------------------------------------------------------------------------------


@each_entry_point
async def test_no_secret_no_args_and_no_header_is_in_lines_or_entries(
    standalone: Embedded, caplog: pytest.LogCaptureFixture, lane: bool
) -> None:
    capture_audit_lines(caplog)
    caplog.set_level(logging.DEBUG, "ojs.http")
    secrets = ("S3CRET-KEY", "S3CRET-ARG", "S3CRET-HEADER", "root-key", "viewer-key")
    header = ("X-Other: S3CRET-HEADER", "Cookie: S3CRET-HEADER")
    async with open_app(standalone, access=access()) as app, serving(app, lane=lane) as port:
        job = {"type": "t", "args": ["S3CRET-ARG"], "meta": {"m": "S3CRET-ARG"}}
        for key in ("root-key", "viewer-key", "S3CRET-KEY"):
            await send(port, "POST", "/jobs", job, key=key, lines=header)
            for path in ("/queues/q/pause", "/queues/q/purge", "/admin/jobs/bulk/retry"):
                body = {"confirm": True, "args": ["S3CRET-ARG"]}
                await send(port, "POST", f"{path}?token=S3CRET-ARG", body, key=key, lines=header)
        await await_entries(app, 3 + 4 + 1)
        with observer(standalone) as db:
            meta = app.store.keys.meta
            stored = [db.xrange(key) for key in (meta.audit, meta.audit_refused)]
    assert all(stored)
    for secret in secrets:
        assert secret not in str(stored)
        assert all(secret not in str(line) for line in lines_of(caplog))
        assert secret not in caplog.text
