"""The bytes of the Python SDK, which sends them with httpx."""

from __future__ import annotations

import json
from typing import Any

from tests.clients.wire import Answer, Wire

_TYPE = "application/openjobspec+json"


# ojs-python-sdk, src/ojs/transport/http.py:56 (the client's headers) and :115 (each request's).
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
    # src/ojs/transport/http.py:153: a body of another type is not read.
    assert "application/json" in answer.headers["content-type"]
    assert (answer.json["queue"], answer.json["status"]) == ("mail", "active")
    assert answer.json["stats"]["available"] == 1


# ojs-python-sdk, src/ojs/transport/http.py:64: the user's own httpx client has httpx's headers
# only, and :115 adds the id. Of a body of another type, :155 leaves no "job" for :176.
async def test_a_client_of_the_user_reads_the_job(wire: Wire) -> None:
    headers = {
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate",
        "Connection": "keep-alive",
        "User-Agent": "python-httpx/0.28.1",
        "X-Request-ID": "3e0ff3de-3a4f-4a5c-8d39-6a5a0b5b1d21",
        "Content-Type": "application/json",
    }
    body = b'{"type":"mail.send","args":["a"]}'
    answer = await wire.send("POST", "/ojs/v1/jobs", headers, body)
    assert answer.status == 201
    assert "application/json" in answer.headers["content-type"]
    assert answer.headers["content-type"].startswith("application/openjobspec+json;")
    assert answer.json["job"]["type"] == "mail.send"
