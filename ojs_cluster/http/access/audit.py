"""The audit: administrative changes, refused requests, and reloads of the API keys.

Each is one log line and one entry of a stream in Redis (``store/operations/audit.py``). The line is
written at once, by the logger ``ojs.audit``. The entry waits in a bounded queue for a task of the
process that writes what has come, at most a few times a second: no request waits for it, and the
master that has the stream gets a bounded number of calls whatever happens. When that master is away
for long the queue is full, and further entries are counted as dropped; their lines are in the log.

Entries name jobs, queues, workers and keys, those that a request's body names included, cut to a
few. They hold no header but the request's id, nothing else of a body, and no secret.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from itertools import islice
from math import inf
from typing import Any, Final
from uuid import uuid4

import orjson
import trio

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.core.errors import BackendUnavailable, OJSError, PermissionDenied, Unauthenticated
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http.access.refusals import INTERVAL_S, Fields, Refusals
from ojs_cluster.http.errors import entry_for
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.router import Route
from ojs_cluster.http.traffic import Event, Traffic
from ojs_cluster.redis.errors import RedisReplyError, ReplyTooLarge
from ojs_cluster.store.context import Store
from ojs_cluster.store.operations.audit import MAX_BATCH, AuditStream, append_entries

log = logging.getLogger("ojs.audit")
_problems = logging.getLogger("ojs.http")

MOST_QUEUED: Final = 1000
"""Entries of a stream that wait in a process at most."""
_PAUSE_S: Final = 0.25
"""Pause after each write: what comes meanwhile is written together."""
_AWAY_PAUSE_S: Final = 2.0
_FINISH_S: Final = 0.5
_LONGEST_NAME: Final = 256
_REFUSED: Final = frozenset({401, 403, 429})


class Audit:
    """The audit of one process. `run` writes entries to Redis; without it only the log has them."""

    def __init__(
        self,
        proxies: TrustedProxies | None = None,
        traffic: Traffic | None = None,
        *,
        process: str = "",
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Begin with no entries.

        Args:
            proxies: whose ``X-Forwarded-For`` says who the client is.
            traffic: where entries are counted.
            process: name of the process, for its entries.
            interval_s: for how long refusals are counted before they become an entry.
        """
        self._proxies = proxies or TrustedProxies()
        self._traffic = traffic or Traffic()
        self._process = process
        self._unknown = Refusals(interval_s=interval_s)
        self._forbidden = Refusals(interval_s=interval_s)
        """Of clients whose key is known. A flood without a key leaves room for them."""
        self._queues = {stream: _Queue() for stream in AuditStream}
        self._wake = trio.Event()
        self._one_writer = trio.Lock()

    def client_of(self, request: Request) -> str:
        """Return the address of the client of a request, empty when it is gone already."""
        return self._proxies.client_of(request.peer, request.headers.get("x-forwarded-for"))

    def answered(
        self,
        request: Request,
        request_id: str,
        route: Route,
        params: tuple[str, ...],
        principal: Principal,
        response: Response,
    ) -> None:
        """Record how a request for a route with an action was answered."""
        outcome = response.code or ("ok" if response.status < 400 else "error")
        fields = {
            "action": route.action,
            "object": response.about or (params[0] if params else ""),
            "outcome": outcome,
            "status": response.status,
            **self._origin(request, request_id, principal.name),
        }
        if response.status in _REFUSED:
            self._refuse(self._forbidden, (principal.name, route.method, route.template), fields)
        else:
            self._record(AuditStream.CHANGES, fields)

    def interrupted(
        self,
        request: Request,
        request_id: str,
        route: Route,
        params: tuple[str, ...],
        principal: Principal,
    ) -> None:
        """Record that a handler was cut off: what it changes may be done, or a part of it."""
        cut = Response(503, b"", code="interrupted")
        self.answered(request, request_id, route, params, principal, cut)

    def refused(
        self,
        request: Request,
        request_id: str,
        error: OJSError,
        status: int,
        *,
        route: Route | None = None,
        params: tuple[str, ...] = (),
        principal: Principal | None = None,
    ) -> None:
        """Record a request that was refused before its handler, if it is one to be recorded.

        Those without a valid key are, those whose key lacks a scope, and all for a route with an
        action.

        Args:
            request: the request.
            request_id: its id.
            error: why it was refused.
            status: what it was answered with.
            route: the route that it was for, None for none.
            params: of the route.
            principal: whose request it is, if that is known.
        """
        code, name = entry_for(error).code, error.details.get("principal")
        if isinstance(error, Unauthenticated):
            fields = {"action": "authenticate", "object": "", "outcome": code, "status": status}
            fields |= self._origin(request, request_id, name)
            self._refuse(self._unknown, (name,), fields)
            return
        if route is None or principal is None:
            return
        if not route.action and not isinstance(error, PermissionDenied):
            return
        fields = {
            "action": route.action or f"{route.method} {route.template}",
            "object": params[0] if params else "",
            "outcome": code,
            "status": status,
            **self._origin(request, request_id, principal.name),
        }
        if "required_scope" in error.details:
            fields["missing_scope"] = error.details["required_scope"]
        if status in _REFUSED:
            self._refuse(self._forbidden, (principal.name, route.method, route.template), fields)
        else:
            self._record(AuditStream.CHANGES, fields)

    def reloaded(self, outcome: str, changes: Mapping[str, Any]) -> None:
        """Record that the process has read its API keys again.

        Args:
            outcome: ``ok``, or why the keys stay as they were.
            changes: names of keys that were added, removed or changed.
        """
        fields = {"action": "keys.reload", "object": "OJS_API_KEYS_FILE", "outcome": outcome}
        self._record(AuditStream.CHANGES, {**fields, "principal": None, "address": None, **changes})

    async def run(self, store: Store) -> None:
        """Write entries to Redis as they come; runs until cancelled."""
        while True:
            due_s = min(self._unknown.next_due, self._forbidden.next_due) - time.monotonic()
            with trio.move_on_after(inf if due_s == inf else max(0.0, due_s)):
                await self._wake.wait()
            self._wake = trio.Event()
            self._take_due(time.monotonic())
            written = await self._write(store)
            await trio.sleep(_PAUSE_S if written else _AWAY_PAUSE_S)
            if any(queue.entries for queue in self._queues.values()):
                self._wake.set()

    async def finish(self, store: Store) -> None:
        """Write what is left, for half a second at most, when no more requests come."""
        self._take_due(inf)
        with trio.move_on_after(_FINISH_S):
            while any(queue.entries for queue in self._queues.values()):
                if not await self._write(store):
                    break
        for queue in self._queues.values():
            self._traffic.add("audit_dropped", len(queue.entries))
            queue.entries.clear()

    def _origin(self, request: Request, request_id: str, principal: str | None) -> Fields:
        return {
            "principal": principal,
            "address": self.client_of(request),
            "request_id": request_id,
        }

    def _refuse(self, refusals: Refusals, source: tuple[str | None, ...], fields: Fields) -> None:
        entry = refusals.note((fields["address"], *source), fields, time.monotonic())
        if entry is not None:
            self._record(AuditStream.REFUSALS, entry)

    def _take_due(self, now: float) -> None:
        for refusals in (self._unknown, self._forbidden):
            for entry in refusals.take_due(now):
                self._record(AuditStream.REFUSALS, entry)

    def _record(self, stream: AuditStream, fields: Fields) -> None:
        fields = {
            name: _bounded(value) if isinstance(value, str) else value
            for name, value in fields.items()
        }
        log.info("%s %s: %s", fields["action"], fields["object"], fields["outcome"], extra=fields)
        queue = self._queues[stream]
        if len(queue.entries) >= MOST_QUEUED:
            self._traffic.add("audit_dropped", 1)
            return
        now = format_ms(time.time_ns() // 1_000_000).decode()
        queue.entries.append(orjson.dumps({"time": now, **fields, "process": self._process}))
        self._wake.set()

    async def _write(self, store: Store) -> bool:
        """Write a batch of each stream; return whether Redis has answered."""
        async with self._one_writer:
            return all([await self._write_one(store, *each) for each in self._queues.items()])

    async def _write_one(self, store: Store, stream: AuditStream, queue: _Queue) -> bool:
        if not queue.entries:
            return True
        entries = list(islice(queue.entries, queue.sent or MAX_BATCH))
        again, queue.sent = bool(queue.sent), len(entries)
        if not again:
            queue.batch = uuid4().hex
        outcome: Event = "audit_written"
        try:
            await append_entries(store, stream, entries, queue.batch, again=again)
        except BackendUnavailable:
            return False
        except (RedisReplyError, ReplyTooLarge) as error:
            _problems.warning("audit entries cannot be written to Redis: %s", error)
            outcome = "audit_dropped"
        queue.sent = 0
        for _ in entries:
            queue.entries.popleft()
        self._traffic.add(outcome, len(entries))
        return True


class _Queue:
    """Entries that wait to be written to one stream, the oldest first."""

    __slots__ = ("batch", "entries", "sent")

    def __init__(self) -> None:
        self.entries: deque[bytes] = deque()
        self.batch = ""
        self.sent = 0
        """Of the first entries, how many were sent as ``batch`` without an answer."""


def _bounded(text: str) -> str:
    """Return a text as one short line, whatever is in it: a name of a path may be anything."""
    if not text.isprintable():
        text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"
