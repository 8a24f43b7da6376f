"""Workers whose requests fail or get no response."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import pytest

from ojs_client import RunningJob, Worker
from tests.client_library.http.served import HangsUp, Served, Stream, reply
from tests.client_library.workers import serving_jobs, until
from tests.support.certificates import Certificates

HANGS_AFTER_S = 30
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


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


def test_requests_of_handlers_delay_no_heartbeat(run: Any) -> None:
    requests = 120

    async def scenario() -> None:
        job = {
            "id": "j",
            "type": "t",
            "queue": "q",
            "state": "active",
            "lease_id": "l",
            "attempt": 1,
        }
        fetched = [job]

        async def answer(stream: Stream, number: int) -> None:
            """Never answer the requests of the handler."""
            line = served.requests[-1]
            body: dict[str, Any] = {"results": [{"status": 200}]}
            if b"/workers/fetch " in line:
                body = {"jobs": fetched[:]}
                fetched.clear()
            elif b"/jobs/" in line:
                return
            elif b"/heartbeat " in line:
                body = {"state": "running", "jobs_extended": ["j"]}
            text = json.dumps(body).encode()
            await stream.send(HEAD % len(text) + text)

        def count(part: bytes) -> int:
            return sum(part in request for request in served.requests)

        served = Served(answer)
        async with served.running():
            worker = Worker(f"http://127.0.0.1:{served.port}", poll=1.0, heartbeat=0.05, grace=0)

            @worker.handler("t")
            async def handle(job: RunningJob) -> None:
                async with anyio.create_task_group() as group:
                    for _ in range(requests):
                        group.start_soon(job.client.get, "other")

            with anyio.fail_after(50):
                async with serving_jobs(worker):
                    await until(lambda: count(b"/jobs/other ") >= 100)
                    before = count(b"/heartbeat ")
                    await until(lambda: count(b"/heartbeat ") > before + 2)

    run(scenario)


def test_no_heartbeat_follows_the_removal_of_the_worker(run: Any) -> None:
    arrived: list[str] = []

    async def handle(request: httpx2.Request) -> httpx2.Response:
        if request.method == "DELETE":
            arrived.append("DELETE")
            await anyio.sleep(1)
        elif request.url.path.endswith("heartbeat"):
            state = json.loads(request.content)["state"]
            await anyio.sleep(0.3 if state == "quiet" else 0)
            arrived.append(state)
        else:
            await anyio.sleep(0.02)
        return httpx2.Response(200, json={"jobs": []})

    async def scenario() -> None:
        worker = Worker("http://ojs.example", transport=httpx2.MockTransport(handle))
        async with serving_jobs(worker):
            await until(lambda: arrived)

    run(scenario)
    assert arrived[-2:] == ["terminate", "DELETE"]
