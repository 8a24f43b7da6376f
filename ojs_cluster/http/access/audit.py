"""The audit of administrative changes, refused requests, and reloads of the API keys.

Each event is one log line and one entry of a stream in Redis (``operators/operations/audit.py``).
The logger ``ojs.audit`` writes the line at once. The entry waits in a bounded queue, and a task of
the process writes the queue a few times per second. So no request waits for the audit, and the
master of the stream gets a bounded number of calls. If that master is unavailable for long, the
queue fills. Further entries are then counted as dropped, but the log still has their lines.

Entries name the jobs, queues, workers and API keys of a request, and the members of a setting that
it changes (``audit_details``). Entries contain no other part of a body, no header except the
request's id, and no secret.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
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
from ojs_cluster.http.access.audit_details import details_of
from ojs_cluster.http.access.refusals import INTERVAL_S, Fields, RefusalCounter
from ojs_cluster.http.errors import entry_for
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.routing.router import Route
from ojs_cluster.http.traffic import Traffic, TrafficEvent
from ojs_cluster.redis.errors import RedisReplyError, ReplyTooLarge
from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.operations.audit import MAX_BATCH, AuditStream, append_entries
from ojs_cluster.wall_clock import wall_s

log = logging.getLogger("ojs.audit")
_http_log = logging.getLogger("ojs.http")

MAX_QUEUED: Final = 1000
"""Maximum number of entries of a stream that wait in a process."""
_PAUSE_S: Final = 0.25
"""Pause after each write, in seconds. Entries that arrive during the pause are written together."""
_UNAVAILABLE_PAUSE_S: Final = 2.0
"""Pause after a write that failed because Redis is not available, in seconds."""
_FINISH_S: Final = 0.5
_MAX_TEXT: Final = 256  # characters
_REFUSAL_STATUSES: Final = frozenset({401, 403, 429})


class Audit:
    """The audit of one process. Only while ``run`` runs are entries written to Redis."""

    def __init__(
        self,
        proxies: TrustedProxies | None = None,
        traffic: Traffic | None = None,
        *,
        process: str = "",
        interval_s: float = INTERVAL_S,
    ) -> None:
        """Create an audit without entries.

        Args:
            proxies: the proxies whose ``X-Forwarded-For`` is trusted.
            traffic: counts the written and the dropped entries.
            process: the name of the process, which each entry contains.
            interval_s: how long refusals are counted before they become an entry, in seconds.
        """
        self._proxies = proxies or TrustedProxies()
        self._traffic = traffic or Traffic()
        self._process = process
        self._unauthenticated = RefusalCounter(interval_s=interval_s)
        self._forbidden = RefusalCounter(interval_s=interval_s)
        """Counts refusals of requests with a valid API key.

        These refusals have a counter of their own, so that a flood of requests without an API key
        cannot displace them.
        """
        self._queues = {stream: _EntryQueue() for stream in AuditStream}
        self._wake = trio.Event()
        self._write_lock = trio.Lock()
        self.now_s: Callable[[], float] = wall_s
        """The clock of the entries: that of Redis as soon as the store is open."""

    def client_of(self, request: Request) -> str:
        """Return the address of the client of a request, empty if it has disconnected."""
        return self._proxies.client_of(request.peer, request.headers.get("x-forwarded-for"))

    def record_response(
        self,
        request: Request,
        request_id: str,
        route: Route,
        params: tuple[str, ...],
        principal: Principal,
        response: Response,
    ) -> None:
        """Record the response to an administrative change, whose route has an ``action``."""
        outcome = response.code or ("ok" if response.status < 400 else "error")
        fields = {
            "action": route.action,
            "object": response.audit_object or (params[0] if params else ""),
            "outcome": outcome,
            "status": response.status,
            **self._origin(request, request_id, principal.name),
        }
        if response.status < 400 or response.status >= 500:  # a refused request has changed nothing
            details = details_of(route.action, request.body, response.audit_old)
            fields |= {"details": details} if details else {}
        self._record_change(response.status, principal, route, fields)

    def record_interruption(
        self,
        request: Request,
        request_id: str,
        route: Route,
        params: tuple[str, ...],
        principal: Principal,
    ) -> None:
        """Record that a handler was cancelled, which may have made none, some or all changes."""
        interrupted = Response(503, b"", code="interrupted")
        self.record_response(request, request_id, route, params, principal, interrupted)

    def record_refusal(
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
        """Record a request that was refused before its handler, if the audit covers it.

        The audit covers requests without a valid API key, requests whose API key lacks a scope, and
        all requests for a route with an action.

        Args:
            request: the request.
            request_id: the id of the request.
            error: the reason of the refusal.
            status: the status of the response.
            route: the route of the request; None if there is none.
            params: the parameters in the path.
            principal: the client's API key; None if it is not known.
        """
        code, name = entry_for(error).code, error.details.get("principal")
        if isinstance(error, Unauthenticated):
            fields = {"action": "authenticate", "object": "", "outcome": code, "status": status}
            fields |= self._origin(request, request_id, name)
            self._count_refusal(self._unauthenticated, (name,), fields)
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
        self._record_change(status, principal, route, fields)

    def record_reload(self, outcome: str, changes: Mapping[str, Any]) -> None:
        """Record that the process has reloaded its API keys.

        Args:
            outcome: ``ok``, or why the API keys are unchanged.
            changes: the names of the API keys that were added, removed or changed.
        """
        fields = {"action": "keys.reload", "object": "OJS_API_KEYS_FILE", "outcome": outcome}
        self._record(AuditStream.CHANGES, {**fields, "principal": None, "address": None, **changes})

    async def run(self, store: Store) -> None:
        """Write entries to Redis until cancelled."""
        while True:
            due_s = min(self._unauthenticated.next_due, self._forbidden.next_due) - time.monotonic()
            with trio.move_on_after(inf if due_s == inf else max(0.0, due_s)):
                await self._wake.wait()
            self._wake = trio.Event()
            self._record_due(time.monotonic())
            written = await self._write(store)
            await trio.sleep(_PAUSE_S if written else _UNAVAILABLE_PAUSE_S)
            if any(queue.entries for queue in self._queues.values()):
                self._wake.set()

    async def finish(self, store: Store) -> None:
        """Write the remaining entries, for at most half a second, after the last request."""
        self._record_due(inf)
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

    def _record_change(
        self, status: int, principal: Principal, route: Route, fields: Fields
    ) -> None:
        if status in _REFUSAL_STATUSES:
            source = (principal.name, route.method, route.template)
            self._count_refusal(self._forbidden, source, fields)
        else:
            self._record(AuditStream.CHANGES, fields)

    def _count_refusal(
        self, counter: RefusalCounter, source: tuple[str | None, ...], fields: Fields
    ) -> None:
        entry = counter.count((fields["address"], *source), fields, time.monotonic())
        if entry is not None:
            self._record(AuditStream.REFUSALS, entry)

    def _record_due(self, now: float) -> None:
        for counter in (self._unauthenticated, self._forbidden):
            for entry in counter.pop_due(now):
                self._record(AuditStream.REFUSALS, entry)

    def _record(self, stream: AuditStream, fields: Fields) -> None:
        fields = {
            name: _shortened(value) if isinstance(value, str) else value
            for name, value in fields.items()
        }
        log.info("%s %s: %s", fields["action"], fields["object"], fields["outcome"], extra=fields)
        queue = self._queues[stream]
        if len(queue.entries) >= MAX_QUEUED:
            self._traffic.add("audit_dropped", 1)
            return
        now = format_ms(int(self.now_s() * 1000)).decode()
        queue.entries.append(orjson.dumps({"time": now, **fields, "process": self._process}))
        self._wake.set()

    async def _write(self, store: Store) -> bool:
        """Write a batch to each stream; return whether Redis has responded to all writes."""
        # The list is complete before ``all`` reads it, so a failed write does not skip the others.
        async with self._write_lock:
            return all([await self._write_one(store, *each) for each in self._queues.items()])

    async def _write_one(self, store: Store, stream: AuditStream, queue: _EntryQueue) -> bool:
        if not queue.entries:
            return True
        entries = list(islice(queue.entries, queue.unconfirmed or MAX_BATCH))
        again, queue.unconfirmed = bool(queue.unconfirmed), len(entries)
        if not again:
            queue.batch = uuid4().hex
        outcome: TrafficEvent = "audit_written"
        try:
            await append_entries(store, stream, entries, queue.batch, again=again)
        except BackendUnavailable:
            return False
        except (RedisReplyError, ReplyTooLarge) as error:
            _http_log.warning(
                "%d audit entries are dropped, because Redis rejects them: %s", len(entries), error
            )
            outcome = "audit_dropped"
        queue.unconfirmed = 0
        for _ in entries:
            queue.entries.popleft()
        self._traffic.add(outcome, len(entries))
        return True


class _EntryQueue:
    """Entries that wait to be written to one stream, the oldest first."""

    __slots__ = ("batch", "entries", "unconfirmed")

    def __init__(self) -> None:
        self.entries: deque[bytes] = deque()
        self.batch = ""
        """The id of the batch that was sent last."""
        self.unconfirmed = 0
        """How many of the oldest entries were sent as this batch but are not confirmed by Redis."""


def _shortened(text: str) -> str:
    """Return a text as one short printable line, because a path may contain any characters."""
    if not text.isprintable():
        text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
