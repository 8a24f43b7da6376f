"""The password in an address of a server is sent to the server, and appears in no message."""

from __future__ import annotations

import logging
import sys
from base64 import b64encode
from typing import Any

import httpx2
import pytest

from ojs_client import ApiError, Client, SyncClient, Worker
from ojs_client.errors import ConnectionFailed
from ojs_client.http.addresses import shown_address

SECRET = "a-secret"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://a:8080/path", "http://a:8080/path"),
        ("https://a/@b", "https://a/@b"),
        (f"https://user:{SECRET}@a:8080/@b", "https://a:8080/@b"),
        (f"https://{SECRET}@[::1]/", "https://[::1]/"),
        (f"https://user:{SECRET}@{SECRET}@a", "https://a"),
        (f"https://user:{SECRET}/{SECRET}@a", "https://***@a"),
        (f"https://user:{SECRET}#{SECRET}@a", "https://***@a"),
        (f"https://user:{SECRET}@a:port", "https://***@a:port"),
        (f"https://user:{SECRET}@[a", "https://***@[a"),
        (f"ftp://user:{SECRET}@a", "ftp://***@a"),
        (f"user:{SECRET}@a", "***@a"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert shown_address(url) == shown


@pytest.mark.parametrize("kind", [Client, SyncClient, Worker])
def test_the_refusal_of_an_address_has_no_password(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OJS_URL", f"user:{SECRET}@a")
    with pytest.raises(ValueError, match=r"^'\*\*\*@a' is no address of a server"):
        kind()


def test_a_worker_sends_the_password_and_logs_the_address_without_it(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    sent: set[str] = set()

    def refuse(request: httpx2.Request) -> httpx2.Response:
        sent.add(request.headers["authorization"])
        return httpx2.Response(401, json={"error": {"code": "unauthorized", "message": "no"}})

    monkeypatch.setenv("OJS_URL", f"https://user:{SECRET}%40@jobs.example.com/")
    worker = Worker(worker_id="w-7", transport=httpx2.MockTransport(refuse))
    with pytest.raises(ApiError) as refused:
        worker.run()
    sys.excepthook(ApiError, refused.value, refused.tb)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("https://jobs.example.com refuses this worker: 401")
    assert "worker w-7 starts: queues default, server https://jobs.example.com" in caplog.messages
    assert any(record.name == "httpx2" for record in caplog.records)
    assert SECRET not in line + caplog.text
    assert sent == {"Basic " + b64encode(f"user:{SECRET}@".encode()).decode()}


async def test_the_error_of_a_lost_connection_has_no_password() -> None:
    def lose(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("lost", request=request)

    url = f"https://user:{SECRET}@jobs.example.com"
    client = Client(url, transport=httpx2.MockTransport(lose), retry_for_s=0)
    async with client:
        with pytest.raises(ConnectionFailed, match=r"from https://jobs\.example\.com: lost"):
            await client.get("some-id")
    assert client.url == "https://jobs.example.com"
    assert SECRET not in repr(client)
