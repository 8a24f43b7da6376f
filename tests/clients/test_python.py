"""The bytes of the Python SDK, which sends them with httpx."""

from __future__ import annotations

import json
from typing import Any

from tests.clients.wire import Answer, Wire

_TYPE = "application/openjobspec+json"


# ojs-python-sdk, src/ojs/transport/http.py:59 (the client's headers) and :119 (each request's).
async def call(wire: Wire, method: str, path: str, body: Any = None) -> Answer:
    headers = {
        "Accept-Encoding": "gzip, deflate",
        "Connection": "keep-alive",
        "User-Agent": "python-httpx/0.28.1",
        "Content-Type": _TYPE,
        "Accept": _TYPE,
        "OJS-Version": "1.0",
        "X-Request-ID": "3e0ff3de-3a4f-4a5c-8d39-6a5a0b5b1d21",
    }
    encoded = None if body is None else json.dumps(body, separators=(",", ":")).encode()
    return await wire.send(method, path, headers, encoded)


# ojs-python-sdk, src/ojs/queue.py:48 (QueueStats.from_dict): queue is used as the name.
async def test_the_statistics_of_a_queue_are_read(wire: Wire) -> None:
    body = {"type": "mail.send", "args": ["a"], "options": {"queue": "mail"}}
    assert (await call(wire, "POST", "/ojs/v1/jobs", body)).json["job"]["queue"] == "mail"
    answer = await call(wire, "GET", "/ojs/v1/queues/mail/stats")
    # src/ojs/transport/http.py:148: a body of another type is not read.
    assert "application/json" in answer.headers["content-type"]
    assert (answer.json["queue"], answer.json["status"]) == ("mail", "active")
    assert answer.json["stats"]["available"] == 1
