"""Serve plain enqueues, fetches and acks with two functions each, and without a coroutine.

``begin`` turns the body of a request into the command for Redis. ``page`` turns the reply into the
bytes of the response. Both fill templates, which the readable path renders: a template is what the
handlers, the store and the dispatcher produce for a sample, with its values replaced by gaps. So
there is no second description of commands and responses (docs/adr/065).

``PlainVerbs.of`` decides by the head of a request whether it may be plain, and ``begin`` by its
body and by the caches of the process. Every other request takes the readable path from its start.
If the reply is not that of a plain job, the readable path resumes the request with this reply.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from functools import partial
from operator import attrgetter, itemgetter
from time import perf_counter
from typing import Any, ClassVar, Final, Literal, Protocol, cast

import msgspec
import orjson
import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.events import JOB_COMPLETED, JOB_ENQUEUED, JOB_STARTED
from ojs_cluster.core.jobs.envelope import NewJob, is_type, parse_job
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.options import is_queue, parse_options
from ojs_cluster.core.jobs.tenant import tenant_of
from ojs_cluster.core.raw_json import check_text
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http import fields
from ojs_cluster.http.admission import Admission
from ojs_cluster.http.app import App
from ojs_cluster.http.common_headers import add_common_headers
from ojs_cluster.http.fast_lane.replies import date_line, encode
from ojs_cluster.http.handlers import jobs
from ojs_cluster.http.handlers.workers import fetch, settle
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import is_json
from ojs_cluster.http.request_ids import new_request_id
from ojs_cluster.keys import Shard
from ojs_cluster.redis.client import SentScript
from ojs_cluster.redis.packed_calls import pack_call
from ojs_cluster.redis.reply_waiters import Answer
from ojs_cluster.redis.script import Script
from ojs_cluster.store.engine.enqueue.enqueue import SentEnqueue
from ojs_cluster.store.engine.enqueue.part_writer import fits_fast_path
from ojs_cluster.store.engine.fetch import fetch as store_fetch
from ojs_cluster.store.engine.fetch.fetch_script import FetchReply
from ojs_cluster.store.engine.jobs import ack as store_ack
from ojs_cluster.store.engine.placement import enqueue_one_command, place, plain_record
from ojs_cluster.store.ground.lease_ids import first_shard, needs_full_ack, new_prefix

log = logging.getLogger("ojs.http")

MAX_BODY: Final = 4096
"""Maximum size of a plain body in bytes."""
_HEADERS: Final = frozenset(
    {
        *("host", "user-agent", "accept", "accept-encoding", "accept-language", "connection"),
        *("authorization", "content-type", "content-length", "ojs-version"),
    }
)
"""The headers of plain requests. None of them changes what a handler does."""
_MAX_OPTIONS: Final = 512
"""Maximum size of plain options in bytes."""
_MAX_TEMPLATES: Final = 2048
"""Maximum number of templates of one kind, about 2 KB each. Clients choose names of queues and
types, so a full cache is emptied."""

# The values of the sample that the readable path renders.
_ID: Final = "01962222-7777-7ccc-8ddd-eeeeeeeeeeee"
_ARGS: Final = b'["sample args"]'
_REQUEST_ID: Final = "sample-request"
_QUEUE, _TYPE, _ATTEMPTS, _ATTEMPT = b"sample.queue", b"sample.type", b"71001", b"82002"
_WORKER, _LEASE, _RESULT = "sample-worker", "sample-lease", b'"sample result"'
_CREATED_MS, _STARTED_MS, _FINISHED_MS = 86_400_000, 172_800_000, 259_200_000
_PREFIX: Final = new_prefix(Shard(0, "0", 0))
_CREATED, _STARTED, _FINISHED = map(format_ms, (_CREATED_MS, _STARTED_MS, _FINISHED_MS))


class Template:
    """Bytes with gaps.

    Args:
        sample: the bytes.
        gaps: the parts of the sample that are replaced, at each place where they occur.
    """

    def __init__(self, sample: bytes, *gaps: bytes) -> None:
        pattern = re.compile(b"|".join(map(re.escape, gaps)))
        order = [gaps.index(gap) for gap in pattern.findall(sample)]
        if set(order) != set(range(len(gaps))):
            raise ValueError(f"the sample lacks a gap of {gaps!r}: {sample!r}")
        text = pattern.sub(b"%b", sample.replace(b"%", b"%%"))
        pick: Callable[[tuple[bytes, ...]], Any] = itemgetter(*order)
        self.fill: Callable[[tuple[bytes, ...]], bytes] = lambda values: text % pick(values)
        """Return the bytes with these values in the gaps, in the order of ``gaps``."""


class PlainBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a plain enqueue. Every other body takes the readable path."""

    type: str
    args: msgspec.Raw
    meta: msgspec.Raw = msgspec.Raw(b"{}")
    options: msgspec.Raw = msgspec.Raw(b"null")
    specversion: Literal["1.0"] = "1.0"


_FETCH_MEMBERS: Final = ("queues", "worker_id", "wait_ms")
"""The members of a plain fetch. All others have their defaults."""
_decode_enqueue: Final = msgspec.json.Decoder(PlainBody).decode
_decode_fetch: Final = fetch.fetch_decoder.decode
_others_of_fetch: Final = attrgetter(
    *[name for name in fetch.FetchBody.__struct_fields__ if name not in _FETCH_MEMBERS]
)
_OTHER_DEFAULTS: Final = _others_of_fetch(fetch.FetchBody())
_decode_ack: Final = settle.ack_decoder.decode


class Driver(Protocol):
    """Gets the answers to plain requests."""

    def on_answer(self, call: PlainCall) -> None:
        """Continue the request of ``call``. Must not raise exceptions."""


class PlainCall(SentScript):
    """A plain request, whose command is sent.

    Attributes:
        verb: the verb.
        driver: gets the answer; None if a task waits for it instead.
        body: the body of the request.
        values: what ``verb`` needs to know of the request.
        request_id: the id of the request, once it is answered.
        began: when the request began, in seconds of ``perf_counter``.
    """

    __slots__ = ("began", "body", "driver", "request_id", "values", "verb")

    def __init__(
        self,
        slot: int,
        script: Script,
        payload: bytes,
        verb: PlainVerb,
        body: bytes,
        values: tuple[Any, ...],
        *,
        idempotent: bool,
    ) -> None:
        super().__init__(slot, script, payload, idempotent=idempotent)
        self.verb = verb
        self.body = body
        self.values = values
        self.driver: Driver | None = None
        self.request_id = ""
        self.began = perf_counter()

    @property
    def undo(self) -> object:
        """Something if an undelivered response is undone, as ``Response.undo``; None if not."""
        return self.verb.undoes or None

    @property
    def call(self) -> SentScript:
        """Implement ``SentRequest``."""
        return self

    def receive(self, answer: Answer) -> None:
        """Pass the answer to the driver, or keep it for the task."""
        super().receive(answer)
        driver, self.driver = self.driver, None
        if driver is not None:
            driver.on_answer(self)

    def resume(self, app: App, request: Request) -> Awaitable[Response]:
        """Implement ``SentRequest``."""
        return self.verb.resume(app, request, self)

    def response(self) -> Response:
        """Return what ``page`` has encoded."""
        return self.verb.complete(self.verb.render(self), self.request_id)


class PlainVerb:
    """One verb, for all requests with the same head.

    Attributes:
        admission: the admission of the head.
        undoes: whether what the request has done is undone if its response is not delivered.
    """

    undoes: ClassVar[bool] = False

    def __init__(
        self, verbs: PlainVerbs, request: Request, admission: Admission, *, closes: bool
    ) -> None:
        self.admission = admission
        self._app = verbs.app
        self._store = verbs.app.store
        self._limits = verbs.app.settings.limits
        self._verbs = verbs
        self._request = request
        self._closes = closes
        self._head: Template | None = None

    def begin(self, body: bytes) -> PlainCall | None:
        """Send the command of a request; return None if the readable path has to serve it."""
        raise NotImplementedError

    def page(self, call: PlainCall) -> bytes | None:
        """Return the response to a request, and count it; None if it has to be resumed."""
        raise NotImplementedError

    def resume(self, app: App, request: Request, call: PlainCall) -> Awaitable[Response]:
        """Answer a request on the readable path, beginning with the reply to its call."""
        raise NotImplementedError

    def render(self, call: PlainCall) -> Response:
        """Return the response of the readable path to a request that ``page`` has answered."""
        raise NotImplementedError

    def complete(self, response: Response, request_id: str) -> Response:
        """Return the response with the headers that every response has."""
        return add_common_headers(
            *(self._request, response, request_id, perf_counter()),
            *(self._app, self.admission.principal.name),
        )

    def _send(self, call: PlainCall) -> PlainCall | None:
        return call if self._store.redis.begin(call) else None

    def _encode(self, call: PlainCall, status: int, body: bytes, job_id: bytes = b"") -> bytes:
        head = self._head
        if head is None:
            head = self._head = self._head_of(status)
        call.request_id = new_request_id()
        self._app.traffic.count(self.admission.route, status, perf_counter() - call.began)
        date = date_line().encode()
        return head.fill((call.request_id.encode(), b"%d" % len(body), date, job_id)) + body

    def _head_of(self, status: int) -> Template:
        """Return the head of the responses with a status, which connections share."""
        headers = (("Location", f"/ojs/v1/jobs/{_ID}"),) if status == 201 else ()
        sample = self.complete(Response(status, b"", headers), _REQUEST_ID)

        def render() -> Template:
            raw = encode(sample, draining=False, asked_to_close=self._closes)
            raw = re.sub(rb"(?<=content-length: )0", b"sample length", raw)
            raw = re.sub(rb"date: [^\r]*\r\n", b"sample date", raw)
            gaps = [_REQUEST_ID.encode(), b"sample length", b"sample date"]
            return Template(raw, *gaps, *([_ID.encode()] if status == 201 else []))

        found: Template = self._verbs.template(
            ("head", status, self._closes, sample.headers), render
        )
        return found


class PlainVerbs:
    """The templates of one process, and the decision about heads."""

    def __init__(self, app: App) -> None:
        """Create no templates yet."""
        self.app = app
        settings = app.settings
        self.max_body = min(MAX_BODY, settings.limits.envelope_bytes, settings.bodies.max_bytes)
        self._templates: dict[tuple[Any, ...], Any] = {}
        self._possible = not (
            settings.cors_origins
            or app.tracing is not None
            or app.store.settings.search_index
            or app.store.settings.max_queue_depth
            or app.store.redis.durability
        )

    def of(
        self, request: Request, admission: Admission, *, closes: bool = False, repeats: bool = False
    ) -> PlainVerb | None:
        """Return the verb of the requests with the head of this one; None if they are not plain.

        Args:
            request: the request.
            admission: the admission of its head.
            closes: as ``RequestHead.closes``.
            repeats: as ``RequestHead.repeats``.
        """
        route = admission.route
        verb = _VERBS.get(route.handler)
        if (
            verb is None
            or not (self._possible and route.fast)
            or route.action
            or not admission.cacheable
            or repeats
            or request.query
            or not _HEADERS.issuperset(request.headers)
            or not is_json(request.headers.get("content-type", ""))
            or admission.principal.queues is not None
            or admission.tenant is not None
            or admission.forbids_body
        ):
            return None
        sample = Request(request.method, request.path, "", request.headers)
        return verb(self, sample, admission, closes=closes)

    def serves(self, verb: PlainVerb) -> bool:
        """Return whether the process may serve a plain request now."""
        app = self.app
        return (
            verb.admission.keyring is app.access.keyring
            and not app.maintenance.refused
            and not log.isEnabledFor(logging.DEBUG)  # add_common_headers writes the line
        )

    def template(self, key: tuple[Any, ...], render: Callable[[], Any]) -> Any:
        """Return the templates of this key, which ``render`` returns when there are none yet."""
        found = self._templates.get(key)
        if found is None:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            found = self._templates[key] = render()
        return found

    def get(self, key: tuple[Any, ...]) -> Any:
        """Return the templates of this key; None if there are none yet."""
        return self._templates.get(key)


class _Enqueue(PlainVerb):
    """``POST /ojs/v1/jobs``."""

    def begin(self, body: bytes) -> PlainCall | None:
        store, limits = self._store, self._limits
        try:
            check_text(body, limits)
            job = _decode_enqueue(body)
            args, meta, options = bytes(job.args), bytes(job.meta), bytes(job.options)
            key = ("enqueue", job.type, options)
            plan = self._verbs.get(key)
            if plan is None:
                if not is_type(job.type) or len(options) > _MAX_OPTIONS:
                    return None
                plan = self._verbs.template(key, partial(self._plan, job.type, options))
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
        templates = self._verbs.template(shard_key, partial(self._templates, shard, sample))
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
        if _ID in job_type or _ID.encode() in options:  # the id of each job would replace it
            return ()
        raw = b'{"type":"%b","args":%b,"options":%b}' % (job_type.encode(), _ARGS, options)
        job = parse_job(raw, limits=self._limits)
        start = b'"args":%b,"meta":{}' % _ARGS
        is_plain = job.body.startswith(start) and not (
            job.unique
            or job.rate_limit
            or job.scheduled
            or job.expires
            or job.pending
            or job.warnings
        )
        return (job, job.body[len(start) :], job_type.encode()) if is_plain else ()

    def _templates(
        self, shard: Shard, job: NewJob
    ) -> tuple[Script, Template, Template] | tuple[()]:
        placed = place(_ID, job)
        if not fits_fast_path(self._store, shard, [placed]):
            return ()
        script = self._store.scripts["enqueue_one"]
        command = pack_call(script, *enqueue_one_command(self._store, shard, placed))
        response = jobs.created(plain_record(placed, _CREATED_MS))
        raw_id = _ID.encode()
        return (
            script,
            Template(command, raw_id, b"$%d\r\n%b\r\n" % (len(job.body), job.body)),
            Template(response.body, raw_id, job.body, _CREATED),
        )

    def page(self, call: PlainCall) -> bytes | None:
        now = call.answer
        if not isinstance(now, int):
            return None
        shard, _, raw_id, stored, queue, job_type, answer = call.values
        store = self._store
        store.depth_cache.mark_filled(store.keys, shard, (queue,))
        store.job_counts.count_enqueued(queue, job_type)
        return self._encode(call, 201, answer.fill((raw_id, stored, format_ms(now))), raw_id)

    def resume(self, app: App, request: Request, call: PlainCall) -> Awaitable[Response]:
        shard, job_id, *_ = call.values
        return jobs.enqueue_or_resume(app, request, SentEnqueue(call, shard, job_id))

    def render(self, call: PlainCall) -> Response:
        job = parse_job(call.body, limits=self._limits)
        placed = place(call.values[1], job)
        return jobs.created(plain_record(placed, cast("int", call.answer)))


class _Fetch(PlainVerb):
    """``POST /ojs/v1/workers/fetch`` for one job of one queue."""

    undoes = True

    def begin(self, body: bytes) -> PlainCall | None:
        store, settings = self._store, self._app.settings
        try:
            check_text(body, self._limits)
            asked = _decode_fetch(body)
            worker = fields.worker_id(asked.worker_id) or ""
        except (OJSError, msgspec.DecodeError):
            return None
        queues, wait_ms, now = asked.queues, asked.wait_ms or 0, trio.current_time()
        if (
            isinstance(queues, msgspec.UnsetType)
            or len(queues) != 1
            or _others_of_fetch(asked) != _OTHER_DEFAULTS
            or wait_ms < 0
            or not store.partitions.is_fresh(now)
            or not store.fetch_touches.is_recent(worker, now)
            or store.webhooks.selects(JOB_STARTED)
        ):
            return None
        queue = queues[0]
        key = ("fetch", queue, not worker)
        plan = self._verbs.get(key)
        if plan is None:
            if not is_queue(queue):
                return None
            plan = self._verbs.template(
                key, partial(self._plan, queue, "" if not worker else _WORKER)
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
        values = (
            shard,
            prefix,
            worker,
            wait_ms,
            self._app.waiters.position(queues, wait_ms),
            answer,
        )
        return self._send(
            PlainCall(shard.slot, script, payload, self, body, values, idempotent=False)
        )

    def _plan(self, queue: str, worker: str) -> tuple[Shard, Script, Template, Template]:
        store = self._store
        [shard] = store.keys.partitions(queue, 1)
        gaps = [b"$%d\r\n%b\r\n" % (len(worker), worker.encode())] if worker else []
        command = store_fetch.plain_command(store, shard, queue, worker, _PREFIX)
        reply = b"%d\n0\n%b\n%b\n%b\n%d\n%b\n%b" % (
            *(_STARTED_MS // 1000, _ID.encode(), _QUEUE, _TYPE, _CREATED_MS, _ATTEMPTS),
            b'"args":' + _ARGS,
        )
        sample = self._response(reply, worker, _PREFIX).body
        names = [orjson.dumps(worker)] if worker else []
        return (
            shard,
            store.scripts["fetch"],
            Template(command, _PREFIX, *gaps),
            Template(
                sample,
                *(_ID.encode(), _QUEUE, _TYPE, _ATTEMPTS, b'"args":' + _ARGS),
                *(_CREATED, _STARTED, _PREFIX, *names),
            ),
        )

    def page(self, call: PlainCall) -> bytes | None:
        reply = call.answer
        _, prefix, worker, wait_ms, _, answer = call.values
        if isinstance(reply, int) and not wait_ms:
            return self._encode(call, 200, fetch.EMPTY.body)
        if not isinstance(reply, bytes):
            return None
        seconds, micros, job_id, queue, kind, created, attempts, envelope = reply.split(b"\n", 7)
        if not (created.isdigit() and attempts.isdigit()) or envelope[:1] in (b"{", b""):
            return None
        now = int(seconds) * 1000 + int(micros) // 1000
        self._store.job_counts.note_start(queue, kind, created, now)
        names = (orjson.dumps(worker),) if worker else ()
        times = format_ms(int(created)), format_ms(now)
        values = (job_id, queue, kind, attempts, envelope, *times, prefix, *names)
        return self._encode(call, 200, answer.fill(values))

    def resume(self, app: App, request: Request, call: PlainCall) -> Awaitable[Response]:
        shard, prefix, _, _, since, _ = call.values
        sent = store_fetch.SentFetch(call, shard, prefix, since)
        return fetch.fetch_or_resume(app, request, sent)

    def render(self, call: PlainCall) -> Response:
        reply = call.answer
        if not isinstance(reply, bytes):
            return fetch.EMPTY
        return self._response(reply, call.values[2], call.values[1])

    def _response(self, reply: bytes, worker: str, prefix: bytes) -> Response:
        parsed = FetchReply.of_plain_job(reply, self._store.settings.visibility_timeout_ms)
        leased = parsed.records(worker, prefix)
        return fetch.response_with(self._app, leased, [job.json(lease=True) for job in leased])


class _Ack(PlainVerb):
    """``POST /ojs/v1/workers/ack``."""

    def begin(self, body: bytes) -> PlainCall | None:
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
        command, answer = self._verbs.template(key, partial(self._plan, shard, has_result))
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
        result = _RESULT if has_result else None
        command = store_ack.plain_command(self._store, shard, _ID, _WORKER, _LEASE, result)
        reply = b"%d\n0\n%b\n%b\n%d\n%b\n%b\n%d\n%b" % (
            *(_FINISHED_MS // 1000, _QUEUE, _TYPE, _CREATED_MS, _ATTEMPTS, _ATTEMPT),
            *(_STARTED_MS, b'"args":' + _ARGS),
        )
        sample = settle.acknowledged(store_ack.plain_job(_ID, reply, result)).body
        packed = [_WORKER.encode(), _LEASE.encode(), *([_RESULT] if has_result else [])]
        gaps = [b"$%d\r\n%b\r\n" % (len(value), value) for value in packed]
        return (
            Template(command, _ID.encode(), *gaps),
            Template(
                sample,
                *(_ID.encode(), _QUEUE, _TYPE, _ATTEMPTS, _ATTEMPT, b'"args":' + _ARGS),
                *(_CREATED, _STARTED, _FINISHED, *([_RESULT] if has_result else [])),
            ),
        )

    def page(self, call: PlainCall) -> bytes | None:
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
        return settle.resume_ack(app, request, call)

    def render(self, call: PlainCall) -> Response:
        job_id, _, result, _ = call.values
        return settle.acknowledged(store_ack.plain_job(job_id, cast("bytes", call.answer), result))


_VERBS: Final[dict[Any, type[PlainVerb]]] = {
    jobs.enqueue: _Enqueue,
    fetch.fetch: _Fetch,
    settle.ack: _Ack,
}
