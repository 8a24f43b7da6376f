"""Requests that schemathesis generates from the document get only answers that it describes.

The server runs as in an API process, behind both entry points, on a Redis of its own. Half of the
paths name jobs, queues and other objects that exist.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any, Final

import httpx
import pytest
import schemathesis
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from ojs_cluster.http.messages import Response
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.routing.router import Route
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import open_app, serving
from tests.http.openapi.answers import check_response, document
from tests.support.servers import own_server

_START_S: Final = 120.0
_QUEUES: Final = ["default", "mail"]


def _is_finite(route: Route) -> bool:
    """Streams of events have no end: ``tests/http/push`` reads them."""
    answers = document()["paths"][route.template][route.method.lower()]["responses"]
    return "text/event-stream" not in answers.get("200", {}).get("content", {})


FINITE: Final = [route for route in ROUTES if not route.test_hook and _is_finite(route)]


@dataclass(frozen=True, slots=True)
class Served:
    """A server, the operations of its document, and objects that exist, by parameter of a path."""

    url: str
    operations: Mapping[tuple[str, str], Any]
    existing: Mapping[tuple[str, str], Sequence[str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory: Path = tmp_path_factory.mktemp("generated")
    with own_server(directory, cluster=False) as backend:
        started: Queue[tuple[int, trio.lowlevel.TrioToken, trio.Event] | BaseException] = Queue()
        thread = threading.Thread(target=_run, args=(backend, started), daemon=True)
        thread.start()
        found = started.get(timeout=_START_S)
        if isinstance(found, BaseException):
            raise found
        port, token, stop = found
        try:
            yield _prepared(f"http://127.0.0.1:{port}")
        finally:
            token.run_sync_soon(stop.set)
            thread.join(_START_S)
            assert not thread.is_alive()


def _run(backend: Embedded, started: Queue[Any]) -> None:
    async def main() -> None:
        # Requests do not wait for jobs and results, so that many of them take little time.
        async with (
            open_app(backend, max_wait_ms=20, max_result_wait_s=0.02) as app,
            serving(app, lane=True) as port,
        ):
            stop = trio.Event()
            started.put((port, trio.lowlevel.current_trio_token(), stop))
            await stop.wait()

    try:
        trio.run(main)
    except BaseException as error:
        started.put(error)
        raise


def _prepared(url: str) -> Served:
    """Create objects of each kind, and read the document from the server."""
    # ``from_url`` would leave out the operation that returns the document.
    served_document = httpx.get(f"{url}/ojs/openapi.json", timeout=60).json()
    schema = schemathesis.openapi.from_dict(served_document)
    operations = {}
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        operations[operation.method.upper(), operation.path] = operation
    with httpx.Client(base_url=f"{url}/ojs/v1", timeout=60) as client:

        def post(path: str, body: object) -> Any:
            response = client.post(path, json=body)
            assert response.status_code < 300, response.text
            return response.json()

        def job(queue: str, **options: Any) -> str:
            options = {"queue": queue, "retry": {"max_attempts": 1}, **options}
            found: str = post("/jobs", {"type": "a.b", "args": [], "options": options})["id"]
            return found

        ids = [job(queue) for queue in _QUEUES * 4]
        ids += [job("default", pending=True), job("default", scheduled_at="+PT1H")]
        policy = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
        dead = [job("dead", retry=policy) for _ in range(4)]
        post("/workers/fetch", {"queues": ["dead", "mail"], "count": 6, "worker_id": "w1"})
        for each in dead:
            post("/workers/nack", {"job_id": each, "error": {"message": "no"}})
        post("/workers/heartbeat", {"worker_id": "w1"})
        limited = {"rate_limit": {"key": "k1", "concurrency": 1}}
        ids.append(job("default", **limited))
        chain = {"type": "chain", "steps": [{"type": "a.b", "args": []}] * 2}
        cron = {"name": "nightly", "expression": "0 3 * * *", "type": "a.b", "args": []}
        post("/cron", cron)
        hook = {"url": "https://receiver.invalid/hook", "events": ["job.completed"]}
        bulk = {"action": "cancel", "filter": {"queue": "none"}, "dry_run": True}
        client.put("/admin/tenants/acme", json={"limits": {}}).raise_for_status()
        client.put("/admin/pools/shared", json={"queues": list(_QUEUES)}).raise_for_status()
        existing = {
            "jobs": ids,
            "checkpoints": ids,
            "dead-letter": dead,
            "queues": [*_QUEUES, "dead"],
            "workers": ["w1"],
            "workflows": [post("/workflows", chain)["id"]],
            "cron": ["nightly"],
            "crons": ["nightly"],
            "rate-limits": ["k1"],
            "subscriptions": [post("/webhooks/subscriptions", hook)["id"]],
            "pools": ["shared"],
            "tenants": ["acme"],
            "agents": ids,
            "bulk": [post("/admin/bulk", bulk)["id"]],
        }
    by_template = {}
    for route in FINITE:
        before, _, rest = route.template.partition("/{")
        kind, name = before.rpartition("/")[2], rest.partition("}")[0]
        if kind in existing:
            by_template[route.template, name] = existing[kind]
    return Served(url, operations, by_template)


def _send_generated(served: Served, route: Route, examples: int) -> None:
    operation = served.operations[route.method, route.template]
    modes = [GenerationMode.POSITIVE]
    if operation.body or operation.query:
        modes.append(GenerationMode.NEGATIVE)

    @settings(
        max_examples=examples,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data(), mode=st.sampled_from(modes))
    def send(data: st.DataObject, mode: GenerationMode) -> None:
        case: Case[Any] = data.draw(operation.as_strategy(generation_mode=mode))
        for name in dict(case.path_parameters or {}):
            known = served.existing.get((route.template, name))
            if known and data.draw(st.booleans()):
                case.path_parameters[name] = data.draw(st.sampled_from(known))
        _check(served, route, case)

    send()


def _check(served: Served, route: Route, case: Case[Any]) -> None:
    answer = case.call(base_url=served.url, timeout=60)
    content = answer.content or b""
    described = document()["paths"][route.template][route.method.lower()]["responses"]
    is_error = "$ref" in described.get(str(answer.status_code), {"$ref": ""})
    assert answer.status_code < 500 or not is_error, (case.as_curl_command(), content)
    kind = answer.headers.get("content-type", [""])[0]
    check_response(route, Response(answer.status_code, content, (("Content-Type", kind),)))
    if route.template.endswith("/maintenance"):
        off = httpx.post(f"{served.url}{route.template}", json={"enabled": False}, timeout=60)
        assert off.status_code == 200


@pytest.mark.parametrize("route", FINITE, ids=lambda route: f"{route.method} {route.template}")
def test_generated_requests_get_described_answers(served: Served, route: Route) -> None:
    _send_generated(served, route, examples=3)


@pytest.mark.soak
@pytest.mark.parametrize("route", FINITE, ids=lambda route: f"{route.method} {route.template}")
def test_many_generated_requests_get_described_answers(served: Served, route: Route) -> None:
    _send_generated(served, route, examples=300)
