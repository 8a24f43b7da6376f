"""A validation that is slower than its estimate costs one process once.

``lying_main`` estimates that each validation is cheap. So the first one blocks its process until
the watchdog (5 s) ends it.
"""

from __future__ import annotations

import httpx
import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.server.programs import free_port, program
from tests.server.test_serve import OPEN
from tests.support.servers import observer, wait_until

ENDED = "ended while it validated args"
LATER = 8
"""Number of hostile requests after the first, so that both processes get some."""


def numbers(first: int) -> dict[str, object]:
    """Return a job that the library validates for a minute. Each has other bytes."""
    return {"type": "poison", "args": [[10**308 + first + n for n in range(3000)]]}


def test_an_estimate_that_is_wrong_costs_one_process_once(standalone: Embedded) -> None:
    port = free_port()
    variables = {
        **OPEN,
        "REDIS_URL": standalone.url,
        "OJS_PORT": str(port),
        "OJS_WORKERS": "2",
        "OJS_WATCHDOG": "5s",
    }
    base = f"http://127.0.0.1:{port}/ojs/v1"
    with program(["-m", "tests.server.lying_main", "serve"], env=variables) as running:
        running.wait_line("ready to serve")
        schema = {"schema": {"items": {"uniqueItems": True}}}
        assert httpx.put(f"{base}/admin/schemas/poison/1", json=schema).status_code == 201
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{base}/jobs", json=numbers(0), timeout=120)
        running.wait_line(ENDED)
        for number in range(1, LATER + 1):
            reply = httpx.post(f"{base}/jobs", json=numbers(number), timeout=120)
            assert reply.status_code == 201
            assert "too large to be validated" in reply.json()["warnings"][0]
        assert running.output.count(ENDED) == 1

        # The dashboard reads from the report of a process which schemas are suspect.
        with observer(standalone) as db:
            key = "ojs:{meta}:processes"
            wait_until(lambda: "poison@1" in str(db.hvals(key)), timeout_s=120)
