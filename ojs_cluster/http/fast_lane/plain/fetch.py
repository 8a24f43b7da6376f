"""Serve plain fetches of one job of one queue."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from operator import attrgetter
from typing import Any, Final, TypeGuard

import msgspec
import orjson
import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.events import JOB_STARTED
from ojs_cluster.core.jobs.options import is_queue
from ojs_cluster.core.raw_json import check_text
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http import fields
from ojs_cluster.http.app import App
from ojs_cluster.http.fast_lane.plain.templates import (
    ARGS,
    ATTEMPTS,
    CREATED,
    CREATED_MS,
    ID,
    PREFIX,
    QUEUE,
    STARTED,
    STARTED_MS,
    TYPE,
    WORKER,
    Template,
)
from ojs_cluster.http.fast_lane.plain.verb import PlainCall, PlainVerb
from ojs_cluster.http.handlers.workers import fetch
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.keys import Shard
from ojs_cluster.redis.script import Script
from ojs_cluster.store.engine.fetch import fetch as store_fetch
from ojs_cluster.store.engine.fetch.fetch_script import NO_JOB, PLAIN_JOB, FetchReply
from ojs_cluster.store.ground.lease_ids import new_prefix

_MAX_TYPES: Final = 2048
"""Maximum size of the job types of a plain fetch."""
_FETCH_MEMBERS: Final = ("queues", "worker_id", "wait_ms", "types")
"""The members of a plain fetch. All others have their defaults."""
_decode_fetch: Final = fetch.fetch_decoder.decode
_others_of_fetch: Final = attrgetter(
    *[name for name in fetch.FetchBody.__struct_fields__ if name not in _FETCH_MEMBERS]
)
_OTHER_DEFAULTS: Final = _others_of_fetch(fetch.FetchBody())


class PlainFetch(PlainVerb):
    """``POST /ojs/v1/workers/fetch`` for one job of one queue."""

    undoes = True

    def begin(self, body: bytes) -> PlainCall | None:
        """Implement ``PlainVerb``."""
        store, settings = self._store, self._app.settings
        try:
            check_text(body, self._limits)
            asked = _decode_fetch(body)
            worker = fields.worker_id(asked.worker_id) or ""
            types = "" if asked.types is None else fetch.packed_types(tuple(asked.types))
        except (OJSError, msgspec.DecodeError):
            return None
        queues, wait_ms, now = asked.queues, asked.wait_ms or 0, trio.current_time()
        if (
            isinstance(queues, msgspec.UnsetType)
            or len(queues) != 1
            or _others_of_fetch(asked) != _OTHER_DEFAULTS
            or wait_ms < 0
            or len(types) > _MAX_TYPES
            or not store.partitions.is_fresh(now)
            or not store.fetch_touches.is_recent(worker, now)
            or store.webhooks.selects(JOB_STARTED)
        ):
            return None
        queue = queues[0]
        key = ("fetch", queue, not worker, types)
        plan = self._templates.get(key)
        if plan is None:
            if not is_queue(queue):
                return None
            plan = self._templates.template(
                key, partial(self._plan, queue, WORKER if worker else "", types)
            )
        shard, script, command, answer = plan
        if store.partitions.layout(queue).open_count != 1 or store.limited_queues.contains(
            shard, queues
        ):
            return None
        prefix, raw_worker = new_prefix(shard), worker.encode()
        packed_worker = b"$%d\r\n%b\r\n" % (len(raw_worker), raw_worker)
        payload = command.fill((prefix, packed_worker) if worker else (prefix,))
        wait_ms = min(wait_ms, settings.max_wait_ms)
        since = self._app.waiters.position(queues, wait_ms)  # as in ``SentFetch``
        values = shard, prefix, worker, wait_ms, since, answer
        return self._send(
            PlainCall(shard.slot, script, payload, self, body, values, idempotent=False)
        )

    def _plan(
        self, queue: str, worker: str, types: str
    ) -> tuple[Shard, Script, Template, Template]:
        store = self._store
        [shard] = store.keys.partitions(queue, 1)
        gaps = [b"$%d\r\n%b\r\n" % (len(worker), worker.encode())] if worker else []
        command = store_fetch.plain_command(store, shard, queue, worker, types, PREFIX)
        reply = b"%b%d\n0\n%b\n%b\n%b\n%d\n%b\n%b" % (
            *(PLAIN_JOB, STARTED_MS // 1000, ID.encode(), QUEUE, TYPE, CREATED_MS, ATTEMPTS),
            b'"args":' + ARGS,
        )
        sample = self._response(reply, worker, PREFIX).body
        names = [orjson.dumps(worker)] if worker else []
        return (
            shard,
            store.scripts["fetch"],
            Template(command, PREFIX, *gaps),
            Template(
                sample,
                *(ID.encode(), QUEUE, TYPE, ATTEMPTS, b'"args":' + ARGS),
                *(CREATED, STARTED, PREFIX, *names),
            ),
        )

    def page(self, call: PlainCall) -> bytes | None:
        """Implement ``PlainVerb``."""
        reply = call.answer
        _, prefix, worker, wait_ms, _, answer = call.values
        if reply == NO_JOB and not wait_ms:
            return self._encode(call, 200, fetch.EMPTY.body)
        if not _has_plain_job(reply):
            return None
        _, seconds, micros, job_id, queue, kind, created, attempts, envelope = reply.split(b"\n", 8)
        if not (created.isdigit() and attempts.isdigit()) or envelope[:1] in (b"{", b""):
            return None
        now = int(seconds) * 1000 + int(micros) // 1000
        self._store.job_counts.note_start(queue, kind, created, now)
        names = (orjson.dumps(worker),) if worker else ()
        times = format_ms(int(created)), format_ms(now)
        values = (job_id, queue, kind, attempts, envelope, *times, prefix, *names)
        return self._encode(call, 200, answer.fill(values))

    def resume(self, app: App, request: Request, call: PlainCall) -> Awaitable[Response]:
        """Implement ``PlainVerb``."""
        shard, prefix, _, _, since, _ = call.values
        sent = store_fetch.SentFetch(call, shard, prefix, since)
        return fetch.fetch_or_resume(app, request, sent)

    def render(self, call: PlainCall) -> Response:
        """Implement ``PlainVerb``."""
        reply = call.answer
        if not _has_plain_job(reply):
            return fetch.EMPTY
        return self._response(reply, call.values[2], call.values[1])

    def _response(self, reply: bytes, worker: str, prefix: bytes) -> Response:
        parsed = FetchReply.of_plain_job(reply, self._store.settings.visibility_timeout_ms)
        leased = parsed.records(worker, prefix)
        return fetch.response_with(self._app, leased, [job.json(lease=True) for job in leased])


def _has_plain_job(reply: Any) -> TypeGuard[bytes]:
    """Return whether a reply of ``fetch.lua`` is the text with one job."""
    return isinstance(reply, bytes) and reply.startswith(PLAIN_JOB)
