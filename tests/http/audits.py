"""Send requests over a socket, and read their audit entries."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import trio

from ojs_cluster.core.access.scopes import Keyring, Principal, QueuePatterns, Scope, digest
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.app import App
from ojs_cluster.store.operators.operations import audit
from ojs_cluster.store.operators.operations.audit import AuditFilter
from tests.http.api import OJS_TYPE, until

PRINCIPALS = {
    "root-key": Principal("root"),
    "viewer-key": Principal("viewer", frozenset({Scope.DATA_READ, Scope.ADMIN_READ})),
    "mail-key": Principal("mail", queues=QueuePatterns(["mail-*"])),
    "slow-key": Principal("slow", requests_per_second=0.01),
    "old-key": Principal("old", expires_at_s=1.0),
}


def access() -> AccessControl:
    """Return the keys of ``PRINCIPALS``."""
    return AccessControl(Keyring({digest(key): who for key, who in PRINCIPALS.items()}, {}))


async def send(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str = "root-key",
    request_id: str = "",
    lines: tuple[str, ...] = (),
    split: bool = False,
) -> int:
    """Send one request over a connection of its own; return the status.

    Args:
        port: where to.
        method: of the request.
        path: below ``/ojs/v1``.
        body: sent as JSON.
        key: sent as a Bearer token; empty for none.
        request_id: its id.
        lines: more lines of the head.
        split: send the body later than the head.
    """
    raw = b"" if body is None else json.dumps(body).encode()
    head = [f"{method} /ojs/v1{path} HTTP/1.1", "Host: x", "Connection: close", *lines]
    head += [f"Authorization: Bearer {key}"] if key else []
    head += [f"X-Request-Id: {request_id}"] if request_id else []
    head += [f"Content-Type: {OJS_TYPE}", f"Content-Length: {len(raw)}", "", ""]
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all("\r\n".join(head).encode())
        if split:
            await trio.sleep(0.05)
        await stream.send_all(raw)
        answer = b""
        with trio.fail_after(60):
            while piece := await stream.receive_some():
                answer += piece
    return int(answer.split()[1])


async def entries(app: App, **wanted: Any) -> list[dict[str, Any]]:
    """Return all entries that are stored, oldest first."""
    page = await audit.read_entries(app.store, AuditFilter(**wanted), limit=10_000)
    assert page.cursor is None
    return page.entries[::-1]


async def await_entries(app: App, count: int) -> list[dict[str, Any]]:
    """Wait until at least ``count`` entries are stored, and return all."""

    async def enough() -> list[dict[str, Any]]:
        found = await entries(app)
        return found if len(found) >= count else []

    found: list[dict[str, Any]] = await until(enough)
    return found


def lines_of(caplog: pytest.LogCaptureFixture) -> list[Mapping[str, Any]]:
    """Return the fields of the audit's log lines."""
    return [vars(record) for record in caplog.records if record.name == "ojs.audit"]


def capture_audit_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Let ``caplog`` capture the log lines of the audit."""
    caplog.set_level(logging.INFO, "ojs.audit")
