"""TLS at both entry points: requests over it, and the start and end of its connections."""

from __future__ import annotations

import logging
import shutil
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio

from ojs_cluster.http.app import App
from ojs_cluster.http.request_body.limits import BodyLimits
from ojs_cluster.server import tls
from ojs_cluster.server.config.load import load
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.tls import TlsFilesError, make_context
from tests.http import test_entry_points
from tests.http.api import Api, entry_points, open_app, serving, until
from tests.http.fast_lane import test_server
from tests.http.fast_lane.test_server import ENQUEUE, MANIFEST, connected, read_responses
from tests.http.push import test_sse
from tests.http.push import test_websocket as test_websockets
from tests.http.test_entry_points import request
from tests.http.test_same_answers import CORPUS, PLAIN, check
from tests.http.two_entry_points import LAST, End, TwoEntryPoints, ends_in, two_entry_points
from tests.support.certificates import Certificates, make_certificates, openssl


@pytest.fixture(autouse=True, params=["hypercorn", "lane"])
def entry_point(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[str]:
    """Each test over TLS, once to hypercorn alone and once with the fast lane before it."""
    entry_points.lane, entry_points.tls = request.param == "lane", certificates
    yield request.param
    entry_points.lane, entry_points.tls = False, None


@pytest.fixture
async def app(standalone: Embedded) -> AsyncIterator[App]:
    async with open_app(standalone, bodies=BodyLimits(linger_s=0.5)) as opened:
        yield opened


@pytest.fixture
async def port(api: Api) -> AsyncIterator[int]:
    async with serving(api.app) as number:
        yield number


served = test_server.served

# -- what holds without TLS holds with it ----------------------------------------------------

test_request_lines = test_entry_points.test_every_request_line_gets_a_json_answer
test_odd_methods = test_entry_points.test_the_connection_survives_unknown_methods_and_errors
test_head = test_entry_points.test_head_has_the_length_and_no_body
test_chunks = test_entry_points.test_a_chunked_body_is_read
test_expect = test_entry_points.test_a_client_may_send_expect_continue
test_large_bodies = test_entry_points.test_a_body_too_large_is_413_even_before_it_is_read
test_refused_bodies = (
    test_entry_points.test_a_refused_body_that_still_comes_does_not_break_the_client
)
test_stalled_bodies = test_entry_points.test_a_body_that_stalls_is_408
test_websocket = test_entry_points.test_an_unknown_websocket_gets_an_ojs_error
test_idle = test_entry_points.test_an_idle_connection_is_closed_in_time
test_leaving_a_wait = test_entry_points.test_a_client_that_disconnects_while_it_waits_gets_no_job
test_leaving_a_fetch = test_entry_points.test_jobs_fetched_for_a_disconnected_client_are_released
test_delivered = test_entry_points.test_a_delivered_job_is_not_released
test_unwritable = test_entry_points.test_jobs_that_cannot_be_sent_are_released
test_hanging_up = test_entry_points.test_clients_that_disconnect_after_the_response_keep_their_jobs
test_waiting_in_vain = test_entry_points.test_a_wait_in_vain_ends_empty
test_speaking_while_waiting = test_server.test_the_next_request_may_come_while_a_fetch_waits
test_event_stream = test_sse.test_a_client_that_leaves_is_noticed
test_end_of_a_websocket = test_websockets.test_a_shutdown_closes_the_connection
test_a_fetch_in_vain = test_server.test_an_empty_fetch_keeps_the_connection_alive


async def test_the_lane_serves_hot_routes_and_hands_over_what_it_has_read(
    port: int, entry_point: str, served: list[str]
) -> None:
    async with connected(port) as stream:
        await stream.send_all(ENQUEUE)
        await read_responses(stream, 1)
        await stream.send_all(ENQUEUE + MANIFEST + ENQUEUE)
        answers = await read_responses(stream, 3)
    assert [answer[9:12] for answer in answers] == [b"201", b"200", b"201"]
    assert served == (["/ojs/v1/jobs"] * 2 if entry_point == "lane" else [])


async def test_a_farewell_of_tls_ends_a_wait_as_well(api: Api, certificates: Certificates) -> None:
    """A client that says that it closes, and keeps the connection below open."""

    async def say_goodbye() -> None:
        with suppress(trio.BrokenResourceError):
            connection, _ = await stream.unwrap()  # waits for the other side's farewell
            await connection.aclose()

    async with serving(api.app) as number:
        with trio.fail_after(60):
            async with await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", number, ssl_context=certificates.client()
            ) as stream:
                # Far longer than this test waits: only the client's leaving can end it.
                body = {"queues": ["default"], "wait_ms": 600_000}
                await stream.send_all(request("POST", "/ojs/v1/workers/fetch", body))
                await until(lambda: _waiting(api, 1))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(say_goodbye)
                    await until(lambda: _waiting(api, 0))


async def _waiting(api: Api, count: int) -> bool:
    return len(api.app.waiters) == count


async def test_http2_is_chosen_in_the_handshake(
    port: int, certificates: Certificates, served: list[str]
) -> None:
    context = certificates.client()
    async with httpx.AsyncClient(
        http2=True, verify=context, base_url=f"https://127.0.0.1:{port}", timeout=60
    ) as client:
        enqueued = await client.post("/ojs/v1/jobs", json={"type": "t", "args": []})
        fetched = await client.post("/ojs/v1/workers/fetch", json={"queues": ["default"]})
    assert (enqueued.http_version, enqueued.status_code) == ("HTTP/2", 201)
    assert fetched.json()["jobs"][0]["id"] == enqueued.json()["id"]
    assert served == []


# -- the same bytes --------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["hypercorn", "lane"])
def both(
    request: pytest.FixtureRequest,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TwoEntryPoints]:
    directory = tmp_path_factory.mktemp("entry_points")
    with two_entry_points(directory, tls=certificates, lane=request.param == "lane") as running:
        yield running


@pytest.mark.parametrize("entry_point", ["both"], indirect=True)
def test_answers_over_tls_have_the_same_bytes(both: TwoEntryPoints) -> None:
    for name, sent in {**PLAIN, **CORPUS}.items():
        # A client cannot end its side alone over TLS, and read on.
        if ends_in(sent + LAST) is End.CLOSED:
            first = check(both, sent + LAST)
            assert first.startswith(b"HTTP/1.1 "), name
            middle = len(sent) // 2
            check(both, sent[:middle], sent[middle:] + LAST)


# -- how connections begin and end -----------------------------------------------------------


async def test_a_handshake_that_stalls_is_closed_in_time_and_holds_up_nobody(api: Api) -> None:
    async with serving(api.app, listening={"read_timeout_s": 5.0}) as number:
        with trio.fail_after(60):
            async with await trio.open_tcp_stream("127.0.0.1", number) as silent:
                async with connected(number) as other:
                    await other.send_all(ENQUEUE)
                    await read_responses(other, 1)
                assert await silent.receive_some(10) == b""


async def test_a_plain_client_is_closed_and_not_worth_a_line(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for sent in (ENQUEUE, b"\x00" * 100, ENQUEUE[:3]):
        with trio.fail_after(60):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(sent)
                if len(sent) < 5:  # less than the head of a record says nothing yet
                    await stream.send_eof()
                answer = b""
                with suppress(trio.BrokenResourceError):
                    while piece := await stream.receive_some(100):
                        answer += piece
                assert b"HTTP" not in answer
    async with connected(port) as other:
        await other.send_all(ENQUEUE)
        (served,) = await read_responses(other, 1)
    assert served.startswith(b"HTTP/1.1 201 ")
    # Other servers live in this process, whose connections to Redis a stall may cost a line.
    assert not [r for r in caplog.records if r.name != "ojs.redis"]


async def test_a_drain_closes_who_has_not_shaken_hands(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    stop = trio.Event()
    async with (
        serving(api.app, stop=stop, listening={"read_timeout_s": 3600}) as number,
        await trio.open_tcp_stream("127.0.0.1", number) as silent,
        connected(number) as idle,  # accepted later: the other is there by now
    ):
        await idle.send_all(request("GET", "/health"))
        await read_responses(idle, 1)
        stop.set()
        with trio.fail_after(60):
            assert await silent.receive_some(10) == b""
            assert await idle.receive_some(10) == b""
    assert "were cut" not in caplog.text  # nor did it last as long as requests may


@pytest.mark.parametrize("entry_point", ["either"], indirect=True)
def test_versions_before_1_2_are_not_spoken(certificates: Certificates) -> None:
    # Current versions of OpenSSL have no older protocol, so no client can try one.
    context = make_context(load(certificates.env).listen)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


# -- the files -------------------------------------------------------------------------------


async def test_clients_must_show_a_certificate_when_a_ca_for_them_is_named(
    api: Api, certificates: Certificates
) -> None:
    ca = str(certificates.files / "ca.crt")
    async with serving(api.app, listening={"tls_client_ca": ca}) as number:
        address = f"https://127.0.0.1:{number}/health"
        known = certificates.client(certificate="client")
        async with httpx.AsyncClient(verify=known, timeout=60) as client:
            assert (await client.get(address)).status_code == 200
        for wrong in (certificates.client(), certificates.client(certificate="stranger")):
            async with httpx.AsyncClient(verify=wrong, timeout=60) as client:
                with pytest.raises(httpx.TransportError):
                    await client.get(address)


async def test_a_renewed_certificate_is_shown_without_a_restart(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "CHECK_FILES_S", 0.0)
    now, later = Certificates(tmp_path / "now"), Certificates(tmp_path / "later")
    for made in (now, later):
        made.files.mkdir()
        make_certificates(made.files)
    files = {"tls_cert": str(now.files / "server.crt"), "tls_key": str(now.files / "server.key")}

    async def health(trusting: Certificates) -> int:
        async with httpx.AsyncClient(verify=trusting.client(), timeout=60) as client:
            return (await client.get(f"https://127.0.0.1:{number}/health")).status_code

    async with serving(api.app, listening=files) as number:
        before = Certificates(tmp_path / "before")
        shutil.copytree(now.files, before.files)
        assert await health(before) == 200
        # The certificate first: until its key is there, the old pair holds.
        shutil.copy(later.files / "server.crt", now.files)
        assert await health(before) == 200
        assert "the previous one stays" in caplog.text
        shutil.copy(later.files / "server.key", now.files)
        assert await health(later) == 200
        with pytest.raises(httpx.ConnectError):
            await health(before)


@pytest.mark.parametrize("entry_point", ["either"], indirect=True)
def test_files_that_cannot_be_used_are_named_with_the_reason(
    certificates: Certificates, tmp_path: Path
) -> None:
    def problem(**named: str) -> str:
        env = {f"OJS_TLS_{name}": path for name, path in named.items()}
        with pytest.raises(TlsFilesError) as caught:
            make_context(load({**certificates.env, **env}).listen)
        return str(caught.value)

    cert, key = certificates.env["OJS_TLS_CERT"], certificates.env["OJS_TLS_KEY"]
    other = str(certificates.files / "client.key")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    locked = tmp_path / "locked.key"
    openssl(
        certificates.files, "pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", str(locked)
    )

    assert problem(CERT="/no/such.pem") == (
        "OJS_TLS_CERT='/no/such.pem': cannot be read (No such file or directory)"
    )
    assert problem(KEY=str(tmp_path)).startswith(f"OJS_TLS_KEY={str(tmp_path)!r}: cannot be read")
    for wrong, reason in ((other, "KEY_VALUES_MISMATCH"), (str(locked), "passphrase")):
        said = problem(KEY=wrong)
        assert cert in said
        assert wrong in said
        assert reason in said
    assert "not a PEM certificate" in problem(CERT=str(nonsense))
    assert "OJS_TLS_CLIENT_CA" in problem(CLIENT_CA=str(nonsense))
