"""Every example of the reference server's README stands in our README or guide, where it is run.

`test_readme.py` executes all blocks; here is only compared which requests they make.
The one difference allowed is a job's id, which the reference leaves to the reader to fill in.
"""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from typing import Any

import pytest

from ojs_cluster.http.routes.all_routes import ROUTES
from tests.readme.test_readme import BLOCKS

V1 = "/ojs/v1"

EXAMPLES: list[tuple[str, str, Any]] = [
    ("GET", f"{V1}/health", None),
    (
        "POST",
        f"{V1}/jobs",
        {
            "type": "email.send",
            "args": [{"to": "user@example.com", "subject": "Hello"}],
            "options": {"queue": "default", "priority": 10},
        },
    ),
    ("POST", f"{V1}/workers/fetch", {"queues": ["default"], "worker_id": "worker-1"}),
    (
        "POST",
        f"{V1}/workers/ack",
        {"job_id": "<job-id>", "worker_id": "worker-1", "result": {"status": "delivered"}},
    ),
    (
        "POST",
        f"{V1}/workers/nack",
        {"job_id": "<job-id>", "worker_id": "worker-1", "error": "connection timeout"},
    ),
    (
        "POST",
        f"{V1}/cron",
        {
            "name": "daily-report",
            "schedule": "0 9 * * *",
            "timezone": "America/New_York",
            "type": "reports.generate",
            "queue": "reports",
        },
    ),
    (
        "POST",
        f"{V1}/workflows",
        {
            "type": "chain",
            "steps": [
                {"type": "extract.data", "queue": "etl"},
                {"type": "transform.data", "queue": "etl"},
                {"type": "load.data", "queue": "etl"},
            ],
        },
    ),
    (
        "POST",
        f"{V1}/jobs/batch",
        {
            "jobs": [
                {
                    "type": "email.send",
                    "args": [{"to": f"{name}@example.com"}],
                    "options": {"queue": "default"},
                }
                for name in ("a", "b")
            ]
        },
    ),
]

ENDPOINTS = """
GET /ojs/manifest, GET /ojs/v1/health, POST /ojs/v1/jobs, GET /ojs/v1/jobs/{id},
DELETE /ojs/v1/jobs/{id}, POST /ojs/v1/jobs/batch, POST /ojs/v1/workers/fetch,
POST /ojs/v1/workers/ack, POST /ojs/v1/workers/nack, POST /ojs/v1/workers/heartbeat,
GET /ojs/v1/queues, GET /ojs/v1/queues/{name}/stats, POST /ojs/v1/queues/{name}/pause,
POST /ojs/v1/queues/{name}/resume, GET /ojs/v1/dead-letter, POST /ojs/v1/dead-letter/{id}/retry,
DELETE /ojs/v1/dead-letter/{id}, GET /ojs/v1/cron, POST /ojs/v1/cron, DELETE /ojs/v1/cron/{name},
POST /ojs/v1/workflows, GET /ojs/v1/workflows/{id}, DELETE /ojs/v1/workflows/{id}
"""


def requests() -> list[tuple[str, str, Any]]:
    """Every request that a curl in our README makes: method, path, JSON body."""
    found = []
    for block in BLOCKS:
        words = shlex.split(block.replace("\\\n", " "), comments=True)
        starts = [position for position, word in enumerate(words) if word == "curl"]
        for start, end in pairwise([*starts, len(words)]):
            found.append(request(words[start:end]))
    return found


def request(words: list[str]) -> tuple[str, str, Any]:
    """The request of one curl command, split into words."""
    method = words[words.index("-X") + 1] if "-X" in words else "GET"
    url = next(word for word in words if word.startswith("http://"))
    assert "-d" not in words or "Content-Type: application/json" in words
    body = words[words.index("-d") + 1] if "-d" in words else None
    path = "/" + url.split("/", 3)[3]
    return method, path, None if body is None else json.loads(body.replace("$JOB_ID", "<job-id>"))


@pytest.mark.parametrize(("method", "path", "body"), EXAMPLES)
def test_our_readme_has_the_example(method: str, path: str, body: Any) -> None:
    assert (method, path, body) in requests()


def test_every_endpoint_of_its_table_is_served() -> None:
    listed = {tuple(line.split()) for line in ENDPOINTS.replace(",", "\n").splitlines() if line}
    assert len(listed) == 23
    assert listed <= {(route.method, route.template) for route in ROUTES}
