"""Which processes of the server run, with their versions: API processes and schedulers.

Each process reports itself every ten seconds. Nothing but the pages for operators depends on it, so
a report that fails is left out.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import uuid
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson
import trio

from ojs_cluster import __version__
from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store

log = logging.getLogger("ojs.store")

REPORT_S: Final = 10.0
"""Time in seconds between two reports of a process."""
SILENT_MS: Final = 35_000
"""Time in ms since its last report after which a process counts as ended."""
_MAX_SUSPECTS: Final = 10
_LAST_REPORT_S: Final = 1.0
"""Time limit in seconds of the last report of a process that stops."""


def new_identity() -> str:
    """Return a name for this process. A restarted process gets another name."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True)
class ProcessDescription:
    """One process of the server.

    Attributes:
        kind: what it does.
        host: the name of its machine or pod.
        version: the version of the server.
        python: the version of Python.
        started_ms: when it started, in Unix milliseconds.
        clock_ahead_ms: how far its wall clock is ahead of Redis, in milliseconds; negative if it is
            behind.
        suspect_schemas: the schemas with which another process of its node ended while it
            validated, at most ``_MAX_SUSPECTS``.
    """

    kind: Literal["api", "scheduler"]
    host: str
    version: str
    python: str
    started_ms: int
    clock_ahead_ms: int = 0
    suspect_schemas: tuple[str, ...] = ()


def describe_process(store: Store, kind: Literal["api", "scheduler"]) -> ProcessDescription:
    """Return the description of this process, which has just started."""
    host = socket.gethostname()[:200]
    python, now_ms = platform.python_version(), store.clock.now_ms()
    return ProcessDescription(kind, host, __version__, python, now_ms)


async def report_process(
    store: Store, description: ProcessDescription, identity: str | None = None
) -> None:
    """Report this process until cancelled, then report that it ends.

    Args:
        store: an open store.
        description: the process.
        identity: its name, new at each start; None for a new one.
    """
    identity = identity or new_identity()
    try:
        while True:
            if store.redis.is_responsive(store.keys.meta.slot):
                present = replace(
                    description,
                    clock_ahead_ms=store.clock.process_ahead_ms,
                    suspect_schemas=tuple(store.schemas.suspect_names()[:_MAX_SUSPECTS]),
                )
                await _send(store, identity, orjson.dumps(present))
            await trio.sleep(REPORT_S)
    finally:
        with trio.move_on_after(_LAST_REPORT_S, shield=True):
            await _send(store, identity, b"")


async def _send(store: Store, identity: str, description: bytes) -> None:
    meta = store.keys.meta
    try:
        await store.run_meta(
            "process_report",
            [meta.processes, meta.process_reports],
            [identity, description, SILENT_MS],
        )
    except (BackendUnavailable, RedisReplyError) as error:
        log.debug("cannot report this process: %r", error)


async def list_processes(store: Store) -> dict[str, ProcessDescription]:
    """Return the running processes by their identity. Damaged entries are left out.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    flat: Any = await store.redis.call(meta.slot, "HGETALL", meta.processes, idempotent=True)
    items = iter(flat)
    found: dict[str, ProcessDescription] = {}
    for identity, text in zip(items, items, strict=True):
        try:
            found[identity.decode()] = _parse(orjson.loads(text))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _parse(members: Any) -> ProcessDescription:
    return ProcessDescription(
        "scheduler" if members["kind"] == "scheduler" else "api",
        str(members["host"]),
        str(members["version"]),
        str(members["python"]),
        int(members["started_ms"]),
        int(members.get("clock_ahead_ms", 0)),  # earlier versions report none
        tuple(map(str, members.get("suspect_schemas", ()))),
    )
