"""Ack or nack one job (spec: ojs-http-binding 7.4, 7.5)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import msgspec

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http import fields
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_job
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode_large
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.redis.client import SentScript
from ojs_cluster.store.engine.jobs import ack as store_ack
from ojs_cluster.store.engine.jobs import nack as store_nack
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.by_id import is_refusal
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.job_fields import STATE


class AckBody(msgspec.Struct, frozen=True):
    """The body of an ack. ``id`` is an alias of ``job_id``. An id in the path replaces both."""

    job_id: str | None = None
    id: str | None = None
    worker_id: str | None = None
    lease_id: str | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class NackBody(msgspec.Struct, frozen=True):
    """The body of a nack, which has an error instead of the result of an ack.

    With ``requeue`` and ``started`` false, the worker returns a job that no handler has run. The
    attempt then does not count.
    """

    job_id: str | None = None
    id: str | None = None
    worker_id: str | None = None
    lease_id: str | None = None
    error: Annotated[
        msgspec.Raw | msgspec.UnsetType, keywords(type=["object", "string", "null"])
    ] = msgspec.UNSET
    requeue: bool | None = None
    started: bool | None = None


ack_decoder = msgspec.json.Decoder(AckBody)


class _ErrorMessage(msgspec.Struct, frozen=True):
    message: str = ""


_refusal_decoder = msgspec.json.Decoder(_ErrorMessage)
_nack_decoder = msgspec.json.Decoder(NackBody)


async def ack(app: App, request: Request) -> Response:
    """Complete the job that the body names.

    (spec: ojs-http-binding 10.2)
    """
    body = await decode_large(ack_decoder, request, app.settings.limits)
    job_id = named_job(body.job_id or body.id)
    if request.is_restricted:
        await check_job(app, request, job_id)
    return await _ack(app, job_id, body)


async def resume_ack(app: App, request: Request, sent: SentScript) -> Response:
    """Answer an ack whose call is sent; otherwise as ``ack``."""
    body = ack_decoder.decode(request.body)
    return await _ack(app, named_job(body.job_id or body.id), body, sent)


async def ack_by_path(app: App, request: Request, job_id: str) -> Response:
    """Complete the job in the path. The body may be empty.

    (spec: ojs-http-binding 10.2)
    """
    return await _ack(
        app,
        fields.job_id(job_id),
        await decode_large(ack_decoder, request, app.settings.limits, optional=True),
    )


async def nack(app: App, request: Request) -> Response:
    """Fail the attempt of the job that the body names.

    The worker of the JavaScript SDK nacks a job whose ack was refused. The error of this nack is
    the message of the refusal. A 409 for the nack would end the worker's process. So the server
    ignores the nack, and returns 200 with ``ignored``, if the client sends ``OJS-Version`` and no
    lease id.

    (spec: ojs-http-binding 10.3)
    """
    body = await decode_large(_nack_decoder, request, app.settings.limits)
    job_id = named_job(body.job_id or body.id)
    await check_job(app, request, job_id)
    return await _nack(app, request, job_id, body)


async def nack_by_path(app: App, request: Request, job_id: str) -> Response:
    """Fail the attempt of the job in the path. The body may be empty.

    (spec: ojs-http-binding 10.3)
    """
    return await _nack(
        app,
        request,
        fields.job_id(job_id),
        await decode_large(_nack_decoder, request, app.settings.limits, optional=True),
    )


def raw_or_none(member: msgspec.Raw | msgspec.UnsetType) -> bytes | None:
    """Return the bytes of a member of a body as the client sent them; None if it is absent."""
    return None if isinstance(member, msgspec.UnsetType) else bytes(member)


def named_job(job_id: str | None) -> str:
    """Return the id of the job that a body names.

    Raises:
        InvalidRequest: the body names no job.
        NotFound: no job can have this id.
    """
    if job_id is None:
        raise InvalidRequest("'job_id' is required", field="job_id")
    return fields.job_id(job_id)


def lease_of(app: App, text: str | None) -> str | None:
    """Return the lease id of an ack or nack; None if it names none.

    Raises:
        InvalidRequest: the lease id is invalid, or it is absent although ``require_lease`` is set.
    """
    lease = fields.worker_id(text, field="lease_id")
    if lease is None and app.settings.require_lease:
        raise InvalidRequest(
            "'lease_id' is required: send the lease id that the fetch returned with the job",
            field="lease_id",
        )
    return lease


def releases(body: NackBody) -> bool:
    """Return whether a nack undoes the fetch of its job.

    Raises:
        InvalidRequest: the body has ``started`` false without ``requeue`` true and a lease id.
            Without a lease id, a repeated release could take back the fetch of another worker.
    """
    if body.started is not False:
        return False
    if body.requeue is not True or not body.lease_id:
        raise InvalidRequest(
            "'started' false needs 'requeue' true and the 'lease_id' of the fetch", field="started"
        )
    return True


async def _ack(app: App, job_id: str, body: AckBody, sent: SentScript | None = None) -> Response:
    job = await store_ack.ack(
        app.store,
        job_id,
        worker_id=fields.worker_id(body.worker_id),
        lease_id=lease_of(app, body.lease_id),
        result=raw_or_none(body.result),
        sent=sent,
    )
    return acknowledged(job)


def acknowledged(job: JobRecord) -> Response:
    """Return the response to the ack of a job."""
    completed_at = format_ms(job.finished_ms or 0)
    return Response(
        200, b'{"acknowledged":true,"completed_at":"%b",%b' % (completed_at, _job_members(job))
    )


async def _nack(app: App, request: Request, job_id: str, body: NackBody) -> Response:
    requeue = body.requeue is True
    error = raw_or_none(body.error)
    # The members of the body are checked here, even if the nack is ignored.
    send_nack = partial(
        store_nack.nack,
        app.store,
        job_id,
        worker_id=fields.worker_id(body.worker_id),
        lease_id=lease_of(app, body.lease_id),
        failure=parse_failure(error, max_bytes=app.settings.limits.failure_bytes),
        requeue=requeue,
        release=releases(body),
    )
    # A nack with a lease id is not ignored, because the lease id shows whether it is valid.
    if request.names_version and not (requeue or body.lease_id) and _reports_refusal(job_id, error):
        return _ignored(await read_jobs.get(app.store, job_id))
    job = await send_nack()
    extra = b'"attempt":%d,"max_attempts":%d,' % (job.attempt, job.max_attempts)
    if job.state is State.RETRYABLE:
        extra += b'"retry_delay_ms":%d,"next_attempt_at":"%b",' % (
            job.retry_delay_ms or 0,
            format_ms(job.due_ms or 0),
        )
    elif job.state is State.DISCARDED:
        discarded_at = format_ms(job.finished_ms or 0)
        extra += b'"discarded_at":"%b","completed_at":"%b",' % (discarded_at, discarded_at)
    if requeue:
        extra += b'"requeued":true,'
    return Response(200, b"{" + extra + _job_members(job))


def _reports_refusal(job_id: str, error: bytes | None) -> bool:
    """Return whether the error is the message of a refused ack of this job."""
    if error is None or job_id.encode() not in error:
        return False
    try:
        return is_refusal(job_id, _refusal_decoder.decode(error).message)
    except msgspec.DecodeError:
        return False


def _ignored(job: JobRecord) -> Response:
    """Return the response to a nack that reports a refused ack.

    It does not contain the whole job, because the client does not hold the lease.
    """
    job_id = job.id.encode()
    return Response(
        200,
        b'{"ignored":true,"attempt":%d,"max_attempts":%d,"id":"%b","job_id":"%b","state":"%b"}'
        % (job.attempt, job.max_attempts, job_id, job_id, job.fields[STATE]),
    )


def _job_members(job: JobRecord) -> bytes:
    """Return the last members of the response to an ack or nack, and the closing brace."""
    job_id = job.id.encode()
    return b'"id":"%b","job_id":"%b","state":"%b","job":%b}' % (
        job_id,
        job_id,
        job.fields[STATE],
        job.json(),
    )
