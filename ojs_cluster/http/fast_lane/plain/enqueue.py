"""Serve plain enqueues."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Final, Literal, cast

import msgspec
import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.events import JOB_ENQUEUED
from ojs_cluster.core.jobs.envelope import NewJob, is_type, parse_job
from ojs_cluster.core.jobs.options import parse_options
from ojs_cluster.core.jobs.tenant import tenant_of
from ojs_cluster.core.raw_json import check_text
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http.app import App
from ojs_cluster.http.fast_lane.plain.templates import (
    ARGS,
    CREATED,
    CREATED_MS,
    ID,
    Template,
)
from ojs_cluster.http.fast_lane.plain.verb import PlainCall, PlainVerb
from ojs_cluster.http.handlers import jobs
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.keys import Shard
from ojs_cluster.redis.packed_calls import pack_call
from ojs_cluster.redis.script import Script
from ojs_cluster.store.engine.enqueue.enqueue import SentEnqueue
from ojs_cluster.store.engine.enqueue.part_writer import fits_fast_path
from ojs_cluster.store.engine.placement import enqueue_one_command, place, plain_record

_MAX_OPTIONS: Final = 512
"""Maximum size of plain options in bytes."""


class PlainBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a plain enqueue. Every other body takes the readable path."""

    type: str
    args: msgspec.Raw
    meta: msgspec.Raw = msgspec.Raw(b"{}")
    options: msgspec.Raw = msgspec.Raw(b"null")
    specversion: Literal["1.0"] = "1.0"


_decode_enqueue: Final = msgspec.json.Decoder(PlainBody).decode


class PlainEnqueue(PlainVerb):
    """``POST /ojs/v1/jobs``."""

    def begin(self, body: bytes) -> PlainCall | None:
        """Implement ``PlainVerb``."""
        store, limits = self._store, self._limits
        try:
            check_text(body, limits)
            job = _decode_enqueue(body)
            args, meta, options = bytes(job.args), bytes(job.meta), bytes(job.options)
            key = ("enqueue", job.type, options)
            plan = self._templates.get(key)
            if plan is None:
                if not is_type(job.type) or len(options) > _MAX_OPTIONS:
                    return None
                plan = self._templates.template(key, partial(self._plan, job.type, options))
        except (OJSError, msgspec.DecodeError):
            return None
        if (
            not plan
            or args[:1] != b"["
            or meta[:1] != b"{"
            or len(meta) > limits.meta_bytes
            or tenant_of(meta)
            or (self._app.settings.test_hooks and meta != b"{}")  # it may ask for a check
        ):
            return None
        sample, suffix, job_type = plan
        queue, now = sample.queue, trio.current_time()
        defaults = store.queue_defaults
        if (
            defaults.policy is not None
            or queue in defaults.by_queue
            or sample.type in store.schemas.validated
            or store.webhooks.selects(JOB_ENQUEUED)
            or not store.queues.is_current(queue, now)
            or not store.partitions.is_fresh(now)
        ):
            return None
        shard = store.partitions.choose_shard(store, queue)
        if store.bounded_queues.contains(shard, [queue]):
            return None
        shard_key = ("stored", shard.index, *key)
        templates = self._templates.template(shard_key, partial(self._templates_of, shard, sample))
        if not templates:
            return None
        script, command, answer = templates
        job_id = store.ids.new(shard.index, store.clock.now_ms())
        raw_id, stored = job_id.encode(), b'"args":%b,"meta":%b%b' % (args, meta, suffix)
        payload = command.fill((raw_id, b"$%d\r\n%b\r\n" % (len(stored), stored)))
        values = (shard, job_id, raw_id, stored, queue, job_type, answer)
        return self._send(
            PlainCall(shard.slot, script, payload, self, body, values, idempotent=True)
        )

    def _plan(self, job_type: str, options: bytes) -> tuple[NewJob, bytes, bytes] | tuple[()]:
        """Return a sample job, what follows the meta in its body, and its type; () if not plain.

        Raises:
            OJSError: the options are invalid.
        """
        if parse_options(msgspec.Raw(options), {}).metadata is not None:
            return ()
        if ID in job_type or ID.encode() in options:  # the id of each job would replace it
            return ()
        raw = b'{"type":"%b","args":%b,"options":%b}' % (job_type.encode(), ARGS, options)
        job = parse_job(raw, limits=self._limits)
        start = b'"args":%b,"meta":{}' % ARGS
        is_plain = job.body.startswith(start) and not (
            job.unique
            or job.rate_limit
            or job.scheduled
            or job.expires
            or job.pending
            or job.warnings
        )
        return (job, job.body[len(start) :], job_type.encode()) if is_plain else ()

    def _templates_of(
        self, shard: Shard, job: NewJob
    ) -> tuple[Script, Template, Template] | tuple[()]:
        placed = place(ID, job)
        if not fits_fast_path(self._store, shard, [placed]):
            return ()
        script = self._store.scripts["enqueue_one"]
        command = pack_call(script, *enqueue_one_command(self._store, shard, placed))
        response = jobs.created(plain_record(placed, CREATED_MS))
        raw_id = ID.encode()
        return (
            script,
            Template(command, raw_id, b"$%d\r\n%b\r\n" % (len(job.body), job.body)),
            Template(response.body, raw_id, job.body, CREATED),
        )

    def page(self, call: PlainCall) -> bytes | None:
        """Implement ``PlainVerb``."""
        now = call.answer
        if not isinstance(now, int):
            return None
        shard, _, raw_id, stored, queue, job_type, answer = call.values
        store = self._store
        store.depth_cache.mark_filled(store.keys, shard, (queue,))
        store.job_counts.count_enqueued(queue, job_type)
        return self._encode(call, 201, answer.fill((raw_id, stored, format_ms(now))), raw_id)

    def resume(self, app: App, request: Request, call: PlainCall) -> Awaitable[Response]:
        """Implement ``PlainVerb``."""
        shard, job_id, *_ = call.values
        return jobs.enqueue_or_resume(app, request, SentEnqueue(call, shard, job_id))

    def render(self, call: PlainCall) -> Response:
        """Implement ``PlainVerb``."""
        job = parse_job(call.body, limits=self._limits)
        placed = place(call.values[1], job)
        return jobs.created(plain_record(placed, cast("int", call.answer)))
