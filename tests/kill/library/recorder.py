"""Write down what a worker of the library sends, receives and runs.

Each line of the file is a JSON object. Its times are those of the monotonic clock, which all
processes of the machine share. A line is written at once, so a killed worker leaves all it knew.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import httpx2

from ojs_client.http.connections import Address, Connections, NoResponse, NotSent

JSON = dict[str, Any]


class Recorder:
    """The file of one worker, and the transport that its library sends requests through.

    Args:
        path: the file.
        lease_s: length of a lease in seconds.
    """

    def __init__(self, path: Path, lease_s: float) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._lease_s = lease_s
        self._inner = _OwnConnections()
        self._leases: dict[str, str] = {}
        """Job to its latest lease."""

    def write(self, what: str, **members: Any) -> None:
        """Write one line."""
        line = {"what": what, "at": time.monotonic(), **members}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def lease_of(self, job_id: str) -> str:
        """Return the latest lease of a job."""
        return self._leases[job_id]

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request of the library, and write down what it is about."""
        body: JSON = json.loads(request.content or b"null") or {}
        route = request.url.path.removeprefix("/ojs/v1/workers/")
        sent = time.monotonic()
        if route in ("ack/batch", "nack/batch"):
            self.write("sends", settles=_settles(body))
        response = await self._inner.send(request)
        if response.status_code == 200:
            self._note(route, body, json.loads(response.content), sent)
        return response

    def _note(self, route: str, body: JSON, reply: JSON, sent: float) -> None:
        if route == "fetch":
            for job in reply["jobs"]:
                self._leases[job["id"]] = job["lease_id"]
                names = ("attempt", "type", "args", "queue", "priority")
                kept = {name: job.get(name) for name in names}
                lease = {"job": job["id"], "lease": job["lease_id"], **kept}
                self.write("fetched", sent=sent, until=sent + self._lease_s, **lease)
        elif route == "heartbeat":
            extended = [body["leases"][id_] for id_ in reply.get("jobs_extended", ())]
            if extended:
                self.write("extended", leases=extended, until=sent + self._lease_s)
        elif route in ("ack/batch", "nack/batch"):
            outcomes = [_outcome(result) for result in reply["results"]]
            told = zip(_settles(body), outcomes, strict=True)
            self.write("settled", settles=[[*item, outcome] for item, outcome in told])

    async def aclose(self) -> None:
        await self._inner.close()

    async def __aenter__(self) -> Recorder:
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._inner.close()


class _OwnConnections:
    """The library's own connections, which a worker uses without a transport of its caller."""

    def __init__(self) -> None:
        self._connections: Connections | None = None

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        if self._connections is None:
            assert url.port is not None
            self._connections = Connections(Address(url.host, url.port), max_connections=100)
        del request.headers["accept-encoding"]
        lines = [f"{request.method} {url.raw_path.decode()} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode()
        limit_s = request.extensions["timeout"]["read"]
        try:
            response = await self._connections.exchange(head + request.content, limit_s)
        except NotSent as error:
            raise httpx2.ConnectError(str(error)) from error
        except NoResponse as error:
            raise httpx2.ReadError(str(error)) from error
        return httpx2.Response(response.status, headers=response.headers, content=response.body)

    async def close(self) -> None:
        if self._connections is not None:
            await self._connections.close()


def _settles(body: JSON) -> list[list[str]]:
    """Return kind, job and lease of each item of a batch."""
    items = [("ack", it) for it in body.get("acks", ())]
    items += [(_nack_kind(it), it) for it in body.get("nacks", ())]
    return [[kind, it["job_id"], it["lease_id"]] for kind, it in items]


def _nack_kind(item: JSON) -> str:
    if not item.get("requeue"):
        return "nack"
    return "requeue" if item.get("started", True) else "release"


def _outcome(result: JSON) -> str:
    """Return what the result of an item promises, in the words of ``chaos.history``."""
    if result["status"] == 200:
        return "done"
    if result["status"] < 500:
        return "refused"
    told = (result.get("error") or {}).get("details", {}).get("outcome")
    return {"not_applied": "refused_for_now", "stored_unconfirmed": "unconfirmed"}.get(
        told, "unknown"
    )
