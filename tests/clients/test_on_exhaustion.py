"""Dead letters of the Python and Go SDKs, whose retry policies cannot ask for them.

Neither SDK sends ``on_exhaustion``, so the server or the queue decides.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground.settings import StoreSettings
from tests.clients import test_go as go
from tests.clients import test_python as python
from tests.clients.wire import Answer, Wire
from tests.http.api import open_app, serving

Call = Callable[..., Awaitable[Answer]]

# ojs-python-sdk, src/ojs/retry.py:116 (RetryPolicy.to_dict) and src/ojs/worker.py:355 (nack).
PYTHON: tuple[Call, dict[str, Any], dict[str, Any]] = (
    python.call,
    {
        "max_attempts": 1,
        "initial_interval": "PT1S",
        "backoff_coefficient": 2.0,
        "max_interval": "PT5M",
        "jitter": True,
    },
    {"code": "handler_error", "message": "boom", "retryable": True},
)
# ojs-go-sdk, retry.go:41 (toWire) and worker.go:434 (nackJob).
GO: tuple[Call, dict[str, Any], dict[str, Any]] = (
    go.call,
    {"max_attempts": 1, "initial_interval_ms": 1000, "backoff_coefficient": 2, "jitter": True},
    {"code": "handler_error", "message": "boom", "retryable": True},
)
CONFIG = "/ojs/v1/admin/queues/mail/config"

clients = pytest.mark.parametrize("client", [PYTHON, GO], ids=["python", "go"])


@pytest.fixture(params=["hypercorn", "lane"])
async def strict(request: pytest.FixtureRequest, backend: Embedded) -> AsyncIterator[Wire]:
    """Serve the API of a server with ``OJS_ON_EXHAUSTION=dead_letter``."""
    store = StoreSettings(on_exhaustion="dead_letter")
    lane = request.param == "lane"
    async with open_app(backend, store=store) as app, serving(app, lane=lane) as port:
        yield Wire(port)


async def _fail(wire: Wire, client: tuple[Call, Any, Any], **more: Any) -> str:
    """Enqueue a job with one attempt, fail it, and return its id."""
    call, retry, error = client
    options = {"queue": "mail", "retry": {**retry, **more}}
    body = {"type": "mail.send", "args": ["a"], "options": options}
    job_id = str((await call(wire, "POST", "/ojs/v1/jobs", body)).json["job"]["id"])
    fetch = {"queues": ["mail"], "count": 1, "worker_id": "worker-1"}
    fetched = (await call(wire, "POST", "/ojs/v1/workers/fetch", fetch)).json["jobs"]
    assert [job["id"] for job in fetched] == [job_id]
    nack = {"job_id": job_id, "error": error}
    answer = await call(wire, "POST", "/ojs/v1/workers/nack", nack)
    assert (answer.status, answer.json["state"]) == (200, "discarded")
    return job_id


async def _dead(wire: Wire, client: tuple[Call, Any, Any]) -> list[str]:
    answer = await client[0](wire, "GET", "/ojs/v1/dead-letter")
    assert answer.status == 200
    return [job["id"] for job in answer.json["jobs"]]


# ojs-python-sdk, src/ojs/retry.py:116; ojs-go-sdk, retry.go:41: policies without on_exhaustion.
@clients
async def test_the_server_makes_exhausted_jobs_dead_letters(strict: Wire, client: Any) -> None:
    job_id = await _fail(strict, client)
    assert await _dead(strict, client) == [job_id]
    retried = await client[0](strict, "POST", f"/ojs/v1/dead-letter/{job_id}/retry")
    assert (retried.status, retried.json["job"]["state"]) == (200, "available")


# ojs-python-sdk, src/ojs/retry.py:116: a policy without on_exhaustion.
@clients
async def test_without_the_setting_exhausted_jobs_are_discarded(wire: Wire, client: Any) -> None:
    await _fail(wire, client)
    assert await _dead(wire, client) == []


# ojs-python-sdk, src/ojs/retry.py:116: a policy without on_exhaustion.
@clients
async def test_the_configuration_of_a_queue_overrides_the_server(wire: Wire, client: Any) -> None:
    call = client[0]
    changed = await call(wire, "PUT", CONFIG, {"on_exhaustion": "dead_letter"})
    assert (changed.status, changed.json["on_exhaustion"]) == (200, "dead_letter")
    first = await _fail(wire, client)
    assert await _dead(wire, client) == [first]
    removed = await call(wire, "PUT", CONFIG, {"on_exhaustion": None})
    assert (removed.status, removed.json["config"]["on_exhaustion"]) == (200, "discard")
    await _fail(wire, client)
    assert await _dead(wire, client) == [first]


# ojs-python-sdk, src/ojs/retry.py:116: a policy without on_exhaustion.
async def test_a_queue_may_discard_what_the_server_would_keep(strict: Wire) -> None:
    await python.call(strict, "PUT", CONFIG, {"on_exhaustion": "discard"})
    await _fail(strict, PYTHON)
    assert await _dead(strict, PYTHON) == []


# No client: a policy with on_exhaustion, which these SDKs cannot send.
async def test_the_policy_of_a_job_has_priority(strict: Wire) -> None:
    await _fail(strict, PYTHON, on_exhaustion="discard")
    assert await _dead(strict, PYTHON) == []


# No client: an operator configures the queue.
async def test_an_unknown_decision_is_refused(wire: Wire) -> None:
    answer = await python.call(wire, "PUT", CONFIG, {"on_exhaustion": "keep"})
    assert (answer.status, answer.json["error"]["details"]["field"]) == (400, "on_exhaustion")
