"""The bytes of the JavaScript SDK, which sends them with the fetch of Node."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from tests.clients.wire import Answer, Wire

_TYPE = "application/openjobspec+json"


# ojs-js-sdk, src/transport/http.ts:34: the headers of every request; the rest is Node's.
async def call(wire: Wire, method: str, path: str, body: Any = None) -> Answer:
    headers = {
        "connection": "keep-alive",
        "content-type": _TYPE,
        "accept": _TYPE,
        "ojs-version": "1.0",
        "x-request-id": str(uuid4()),
        "accept-language": "*",
        "sec-fetch-mode": "cors",
        "user-agent": "node",
        "accept-encoding": "gzip, deflate",
    }
    encoded = None if body is None else json.dumps(body, separators=(",", ":")).encode()
    return await wire.send(method, path, headers, encoded)


def _report(number: int, asked_by: str) -> dict[str, Any]:
    # ojs-js-sdk, README.md:103 and src/job.ts:199 (toWireUnique).
    unique = {"key": ["id"], "period": "PT1H"}
    return {
        "type": "report.generate",
        "args": [{"id": number, "by": asked_by}],
        "options": {"queue": "reports", "retry": {"max_attempts": 5}, "unique": unique},
    }


# ojs-js-sdk, README.md:107: unique: { key: ['id'], period: 'PT1H' }.
async def test_the_key_of_a_unique_job_names_arguments(wire: Wire) -> None:
    first = await call(wire, "POST", "/ojs/v1/jobs", _report(42, "ada"))
    assert (first.status, first.json["job"]["queue"]) == (201, "reports")
    second = await call(wire, "POST", "/ojs/v1/jobs", _report(42, "bob"))
    assert (second.status, second.json["error"]["code"]) == (409, "duplicate")
    assert second.json["error"]["details"]["existing_job_id"] == first.json["job"]["id"]
    assert (await call(wire, "POST", "/ojs/v1/jobs", _report(43, "ada"))).status == 201
