"""What a span says of the jobs that a request was about. See `tracing`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.routes import V1

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_MOST_SHOWN: Final = 128  # as many events and links as the SDK keeps of a span
_LONGEST: Final = 500  # characters of what a client has sent, and of an error's message

Attributes = dict[str, str | int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route does to jobs.

    ``type`` is what OpenTelemetry calls it. ``many`` routes take or give more than one job.
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


@dataclass(slots=True)
class Found:
    """A span's content. ``events`` are jobs, when there is more than one."""

    name: str
    attributes: Attributes
    links: list[Link] = field(default_factory=list)
    events: list[Attributes] = field(default_factory=list)
    error: str | None = None


class _Meta(msgspec.Struct):
    traceparent: Any = None
    tracestate: Any = None


class _Job(msgspec.Struct):
    id: str
    type: str
    queue: str
    state: str
    attempt: int = 0
    priority: int = 0
    scheduled_at: str | None = None
    meta: _Meta | None = None


class _Error(msgspec.Struct):
    code: str
    message: str


class _Answer(msgspec.Struct):
    job: _Job | None = None
    jobs: list[_Job] | None = None
    results: list[msgspec.Raw] | None = None
    failed: int = 0
    error: _Error | None = None


class _Options(msgspec.Struct):
    queue: str | None = None


class _Asked(msgspec.Struct):
    worker_id: str | None = None
    job_id: str | None = None
    id: str | None = None
    queues: list[str] = msgspec.field(default_factory=list)
    options: _Options | None = None


_answers: Final = msgspec.json.Decoder(_Answer)
_questions: Final = msgspec.json.Decoder(_Asked)


def operate(operation: Operation, request: Request, response: Response) -> Found:
    """What there is to say of a request that was answered."""
    asked = _read(_questions, request.body, _Asked())
    answer = _read(_answers, response.body, _Answer())
    jobs = answer.jobs or ([] if answer.job is None else [answer.job])
    attributes: Attributes = {
        "messaging.system": "ojs",
        "messaging.operation.name": operation.name,
        "messaging.operation.type": operation.type,
    }
    found = Found(operation.name, attributes)
    queue = _only({job.queue for job in jobs} or _queues_asked(operation, asked))
    if queue is not None:
        found.name = f"{queue} {operation.name}"
        attributes["messaging.destination.name"] = queue
    if asked.worker_id:
        attributes["ojs.worker.id"] = asked.worker_id[:_LONGEST]
    if operation.many:
        attributes["messaging.batch.message_count"] = len(answer.results or jobs)
    elif operation.name == "enqueue":
        attributes["messaging.message.body.size"] = len(request.body)
    if len(jobs) == 1:
        attributes.update(_described(jobs[0]))
    elif asked.job_id or asked.id:
        attributes["ojs.job.id"] = (asked.job_id or asked.id or "")[:_LONGEST]
    if len(jobs) > 1:
        found.events = [_described(job) for job in jobs[:_MOST_SHOWN]]
    found.links = [link for job in jobs[:_MOST_SHOWN] if (link := _link(job)) is not None]
    _tell_error(found, answer, response.status)
    return found


def _read(decoder: msgspec.json.Decoder[T], body: bytes, nothing: T) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return nothing  # a body that is refused, or none


def _queues_asked(operation: Operation, asked: _Asked) -> set[str]:
    """The queues that a request is about which gave no job, because it failed or found none."""
    if operation.name == "fetch":
        return set(asked.queues)
    if operation.name != "enqueue" or operation.many:
        return set()
    return {(asked.options and asked.options.queue) or "default"}


def _only(queues: set[str]) -> str | None:
    """The one queue, if it is one and can be one: nonsense makes no name of a span."""
    if len(queues) != 1:
        return None
    (queue,) = queues
    try:
        return check_queue(queue)
    except OJSError:
        return None


def _described(job: _Job) -> Attributes:
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


def _link(job: _Job) -> Link | None:
    """Where the job came from: its producer's span, as ``meta`` carries it (5.1, 6.2)."""
    if job.meta is None:
        return None
    carried = {"traceparent": job.meta.traceparent, "tracestate": job.meta.tracestate}
    carrier = {name: text for name, text in carried.items() if isinstance(text, str)}
    context = get_current_span(_PROPAGATOR.extract(carrier, context=Context())).get_span_context()
    return Link(context, {"ojs.job.id": job.id}) if context.is_valid else None


def _tell_error(found: Found, answer: _Answer, status: int) -> None:
    if answer.error is not None:
        found.error = answer.error.message[:_LONGEST]
        found.attributes["error.type"] = answer.error.code
        found.attributes["error.message"] = found.error
    elif status >= 400:
        found.error = str(status)
        found.attributes["error.type"] = found.error
    elif answer.failed:
        found.error = f"{answer.failed} refused"
        found.attributes["error.type"] = "refused"
