"""Describe what a request did to jobs, as the name, attributes and links of a span.

``request_spans`` writes the span.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.routing.router import V1

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_MAX_JOBS: Final = 128  # OpenTelemetry's SDK keeps at most 128 events and 128 links of a span
_MAX_TEXT: Final = 500  # characters of a text that a client has sent, and of an error message

Attributes = dict[str, str | int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route does to jobs.

    Attributes:
        name: the name of the operation.
        type: the type of the operation in OpenTelemetry's messaging conventions.
        kind: the kind of the span about the operation.
        many: whether a request may be about more than one job.
    """

    name: str
    type: str
    kind: SpanKind
    many: bool = False


_ENQUEUE: Final = Operation("enqueue", "publish", SpanKind.PRODUCER)
_FETCH: Final = Operation("fetch", "receive", SpanKind.CONSUMER, many=True)
_ACK: Final = Operation("ack", "settle", SpanKind.INTERNAL)
_NACK: Final = Operation("nack", "settle", SpanKind.INTERNAL)

OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("POST", f"{V1}/jobs"): _ENQUEUE,
    ("POST", f"{V1}/jobs/batch"): Operation("enqueue", "publish", SpanKind.PRODUCER, many=True),
    ("POST", f"{V1}/jobs/fetch"): _FETCH,
    ("POST", f"{V1}/workers/fetch"): _FETCH,
    ("POST", f"{V1}/jobs/{{id}}/ack"): _ACK,
    ("POST", f"{V1}/workers/ack"): _ACK,
    ("POST", f"{V1}/workers/ack/batch"): Operation("ack", "settle", SpanKind.INTERNAL, many=True),
    ("POST", f"{V1}/jobs/{{id}}/nack"): _NACK,
    ("POST", f"{V1}/workers/nack"): _NACK,
    ("POST", f"{V1}/workers/nack/batch"): Operation("nack", "settle", SpanKind.INTERNAL, many=True),
}
"""The operations by method and template of their route."""
STABLE_OPERATIONS: Final = {
    route: replace(operation, type="send") if operation.type == "publish" else operation
    for route, operation in OPERATIONS.items()
}
"""The same by OpenTelemetry's conventions, which have ``send`` for OJS's ``publish``."""


@dataclass(slots=True)
class JobSpan:
    """The content of a span about jobs. If there is more than one job, each is an event."""

    name: str
    attributes: Attributes
    links: list[Link] = field(default_factory=list)
    events: list[Attributes] = field(default_factory=list)
    error: str | None = None


class _JobMeta(msgspec.Struct):
    traceparent: Any = None
    tracestate: Any = None


class _JobMembers(msgspec.Struct):
    id: str
    type: str
    queue: str
    state: str
    attempt: int = 0
    priority: int = 0
    scheduled_at: str | None = None
    meta: _JobMeta | None = None


class _ErrorMembers(msgspec.Struct):
    code: str
    message: str


class _ResponseBody(msgspec.Struct):
    job: _JobMembers | None = None
    jobs: list[_JobMembers] | None = None
    results: list[msgspec.Raw] | None = None
    failed: int = 0
    error: _ErrorMembers | None = None


class _EnqueueMembers(msgspec.Struct):
    queue: str | None = None


class _RequestBody(msgspec.Struct):
    worker_id: str | None = None
    job_id: str | None = None
    id: str | None = None
    queues: list[str] = msgspec.field(default_factory=list)
    options: _EnqueueMembers | None = None


_response_decoder: Final = msgspec.json.Decoder(_ResponseBody)
_request_decoder: Final = msgspec.json.Decoder(_RequestBody)


def describe_jobs(operation: Operation, request: Request, response: Response) -> JobSpan:
    """Return the content of the span about the jobs of a request and its response."""
    request_body = _read(_request_decoder, request.body, _RequestBody())
    response_body = _read(_response_decoder, response.body, _ResponseBody())
    jobs = response_body.jobs or ([] if response_body.job is None else [response_body.job])
    attributes: Attributes = {
        "messaging.system": "ojs",
        "messaging.operation.name": operation.name,
        "messaging.operation.type": operation.type,
    }
    span = JobSpan(operation.name, attributes)
    queue = _single_queue({job.queue for job in jobs} or _requested_queues(operation, request_body))
    if queue is not None:
        span.name = f"{queue} {operation.name}"
        attributes["messaging.destination.name"] = queue
    if request_body.worker_id:
        attributes["ojs.worker.id"] = request_body.worker_id[:_MAX_TEXT]
    if operation.many:
        attributes["messaging.batch.message_count"] = len(response_body.results or jobs)
    elif operation.name == "enqueue":
        attributes["messaging.message.body.size"] = len(request.body)
    if len(jobs) == 1:
        attributes.update(_job_attributes(jobs[0]))
    elif request_body.job_id or request_body.id:
        attributes["ojs.job.id"] = (request_body.job_id or request_body.id or "")[:_MAX_TEXT]
    if len(jobs) > 1:
        span.events = [_job_attributes(job) for job in jobs[:_MAX_JOBS]]
    span.links = [link for job in jobs[:_MAX_JOBS] if (link := _link(job)) is not None]
    _add_error(span, response_body, response.status)
    return span


def _read(decoder: msgspec.json.Decoder[T], body: bytes, default: T) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return default  # there is no body, or the handler rejected it


def _requested_queues(operation: Operation, body: _RequestBody) -> set[str]:
    """Return the queues that a request names; used when its response contains no job."""
    if operation.name == "fetch":
        return set(body.queues)
    if operation.name != "enqueue" or operation.many:
        return set()
    return {(body.options and body.options.queue) or "default"}


def _single_queue(queues: set[str]) -> str | None:
    """Return the queue if ``queues`` has exactly one, with a valid name; otherwise None."""
    if len(queues) != 1:
        return None
    (queue,) = queues
    try:
        return check_queue(queue)
    except OJSError:
        return None


def _job_attributes(job: _JobMembers) -> Attributes:
    attributes: Attributes = {
        "messaging.message.id": job.id,
        "ojs.job.id": job.id,
        "ojs.job.type": job.type,
        "ojs.job.queue": job.queue,
        "ojs.job.state": job.state,
        "ojs.job.attempt": job.attempt,
        "ojs.job.priority": job.priority,
    }
    if job.scheduled_at is not None:
        attributes["ojs.job.scheduled_at"] = job.scheduled_at
    return attributes


def _link(job: _JobMembers) -> Link | None:
    """Return a link to the span of the job's producer; None if ``meta`` does not name one.

    See the sections 5.1 and 6.2 of the observability specification.
    """
    if job.meta is None:
        return None
    values = {"traceparent": job.meta.traceparent, "tracestate": job.meta.tracestate}
    carrier = {name: text for name, text in values.items() if isinstance(text, str)}
    context = get_current_span(_PROPAGATOR.extract(carrier, context=Context())).get_span_context()
    return Link(context, {"ojs.job.id": job.id}) if context.is_valid else None


def _add_error(span: JobSpan, body: _ResponseBody, status: int) -> None:
    if body.error is not None:
        span.error = body.error.message[:_MAX_TEXT]
        span.attributes["error.type"] = body.error.code
        span.attributes["error.message"] = span.error
    elif status >= 400:
        span.error = str(status)
        span.attributes["error.type"] = span.error
    elif body.failed:
        span.error = f"{body.failed} refused"
        span.attributes["error.type"] = "refused"
