"""Workers whose requests fail or get no response."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from ojs_client import Worker
from tests.client_library.http.served import HangsUp, reply
from tests.client_library.workers import serving_jobs, until
from tests.support.certificates import Certificates

HANGS_AFTER_S = 30


def completes(function: Callable[[], None]) -> bool:
    """Call the function, and return whether it ends without an error.

    It runs in a thread, because the tasks of a worker that hangs are shielded from cancellation.
    """
    ended: list[bool] = []

    def call() -> None:
        function()
        ended.append(True)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(HANGS_AFTER_S)
    return bool(ended)


def test_an_unknown_error_of_a_request_ends_the_worker(run: Any) -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise RuntimeError("a defect of the library")

    async def scenario() -> None:
        with pytest.raises(BaseExceptionGroup) as raised:
            await Worker("http://ojs.example", transport=httpx2.MockTransport(fail)).serve()
        assert raised.value.subgroup(RuntimeError) is not None

    assert completes(lambda: run(scenario))


def test_a_worker_survives_tls_handshakes_that_the_server_ends(
    run: Any, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpx2, "create_ssl_context", certificates.client)

    async def scenario() -> None:
        served = HangsUp(reply)
        async with served.running():
            url = f"https://127.0.0.1:{served.port}"
            async with serving_jobs(Worker(url, poll=0.1, heartbeat=0.05, lease=0.1)):
                await until(lambda: served.connected >= 4)

    assert completes(lambda: run(scenario))
