"""Serve plain acks."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Final, cast

import msgspec

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.events import JOB_COMPLETED
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.raw_json import check_text
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http import fields
from ojs_cluster.http.app import App
from ojs_cluster.http.fast_lane.plain.templates import (
    ARGS,
    ATTEMPT,
    ATTEMPTS,
    CREATED,
    CREATED_MS,
    FINISHED,
    FINISHED_MS,
    ID,
    LEASE,
    QUEUE,
    RESULT,
    STARTED,
    STARTED_MS,
    TYPE,
    WORKER,
    Template,
)
from ojs_cluster.http.fast_lane.plain.verb import PlainCall, PlainVerb
from ojs_cluster.http.handlers.workers import settle
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.keys import Shard
from ojs_cluster.store.engine.jobs import ack as store_ack
from ojs_cluster.store.ground.lease_ids import first_shard, needs_full_ack

_decode_ack: Final = settle.ack_decoder.decode


class PlainAck(PlainVerb):
    """``POST /ojs/v1/workers/ack``."""

    def begin(self, body: bytes) -> PlainCall | None:
        """Implement ``PlainVerb``."""
        store = self._store
        try:
            check_text(body, self._limits)
            asked = _decode_ack(body)
            worker = fields.worker_id(asked.worker_id)
            lease = settle.lease_of(self._app, asked.lease_id)
        except (OJSError, msgspec.DecodeError):
            return None
        job_id, result = asked.job_id or asked.id, settle.raw_or_none(asked.result)
        if (
            job_id is None
            or not is_job_id(job_id)
            or needs_full_ack(lease)
            or store.webhooks.selects(JOB_COMPLETED)
            or (result is not None and len(result) > store.settings.result_max_bytes)
        ):
            return None
        shard = first_shard(store.keys, store.keys.shard_of_id(job_id), lease)
        has_result = result is not None
        key = ("ack", shard.index, has_result)
        command, answer = self._templates.template(key, partial(self._plan, shard, has_result))
        raw_id, given = job_id.encode(), ((worker or "").encode(), (lease or "").encode())
        packed = [b"$%d\r\n%b\r\n" % (len(value), value) for value in (*given, result or b"")]
        values = (job_id, raw_id, result, answer)
        return self._send(
            PlainCall(
                *(shard.slot, store.scripts["ack"], command.fill((raw_id, *packed))),
                *(self, body, values),
                idempotent=bool(worker or lease),
            )
        )

    def _plan(self, shard: Shard, has_result: bool) -> tuple[Template, Template]:
        result = RESULT if has_result else None
        command = store_ack.plain_command(self._store, shard, ID, WORKER, LEASE, result)
        reply = b"%d\n0\n%b\n%b\n%d\n%b\n%b\n%d\n%b" % (
            *(FINISHED_MS // 1000, QUEUE, TYPE, CREATED_MS, ATTEMPTS, ATTEMPT),
            *(STARTED_MS, b'"args":' + ARGS),
        )
        sample = settle.acknowledged(store_ack.plain_job(ID, reply, result)).body
        packed = [WORKER.encode(), LEASE.encode(), *([RESULT] if has_result else [])]
        gaps = [b"$%d\r\n%b\r\n" % (len(value), value) for value in packed]
        return (
            Template(command, ID.encode(), *gaps),
            Template(
                sample,
                *(ID.encode(), QUEUE, TYPE, ATTEMPTS, ATTEMPT, b'"args":' + ARGS),
                *(CREATED, STARTED, FINISHED, *([RESULT] if has_result else [])),
            ),
        )

    def page(self, call: PlainCall) -> bytes | None:
        """Implement ``PlainVerb``."""
        reply = call.answer
        if not isinstance(reply, bytes):
            return None
        _, raw_id, result, answer = call.values
        seconds, micros, queue, kind, created, attempts, attempt, started, envelope = reply.split(
            b"\n", 8
        )
        if (
            not (created.isdigit() and attempts.isdigit() and attempt.isdigit())
            or not started.isdigit()
            or envelope[:1] in (b"{", b"")
        ):
            return None
        now = int(seconds) * 1000 + int(micros) // 1000
        self._store.job_counts.note_completed(queue, kind, started, b"%d" % now)
        times = format_ms(int(created)), format_ms(int(started)), format_ms(now)
        values = (raw_id, queue, kind, attempts, attempt, envelope, *times, result)
        return self._encode(call, 200, answer.fill(values))

    def resume(self, app: App, request: Request, call: PlainCall) -> Awaitable[Response]:
        """Implement ``PlainVerb``."""
        return settle.resume_ack(app, request, call)

    def render(self, call: PlainCall) -> Response:
        """Implement ``PlainVerb``."""
        job_id, _, result, _ = call.values
        return settle.acknowledged(store_ack.plain_job(job_id, cast("bytes", call.answer), result))
