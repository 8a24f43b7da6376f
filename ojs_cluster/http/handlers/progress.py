"""Report and return the progress of a job (spec: ojs-progress)."""

from __future__ import annotations

from email.utils import formatdate
from typing import Annotated, Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http import fields
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_job
from ojs_cluster.http.handlers.workers.settle import lease_of, named_job, raw_or_none
from ojs_cluster.http.messages import Headers, Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes.keywords import between, keywords
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.progress.progress import Report, report_progress

_NO_CACHE: Final = ("Cache-Control", "no-cache")


class ProgressBody(msgspec.Struct, frozen=True):
    """The body of a report.

    ``progress`` is from 0 to 1. ``percentage`` may replace it, from 0 to 100. ``id`` is an alias of
    ``job_id``.
    """

    job_id: str | None = None
    id: str | None = None
    worker_id: str | None = None
    lease_id: str | None = None
    progress: Annotated[float, between(0, 1)] | None = None
    percentage: Annotated[float, between(0, 100)] | None = None
    message: str | None = None
    data: Annotated[msgspec.Raw | msgspec.UnsetType, keywords(type=["object", "null"])] = (
        msgspec.UNSET
    )


_decoder = msgspec.json.Decoder(ProgressBody)


async def report(app: App, request: Request) -> Response:
    """Store the progress of the job that the body names."""
    body = decode(_decoder, request, app.settings.limits)
    job_id = named_job(body.job_id or body.id)
    await check_job(app, request, job_id)
    return await _report(app, job_id, body)


async def report_by_path(app: App, request: Request, job_id: str) -> Response:
    """Store the progress of the job in the path.

    (spec: ojs-progress 6.1)
    """
    fields.job_id(job_id)
    return await _report(app, job_id, decode(_decoder, request, app.settings.limits))


async def get(app: App, _request: Request, job_id: str) -> Response:
    """Return the progress of a job; its members are null if none was reported.

    (spec: ojs-progress 7.1)
    """
    job = await store_jobs.get(app.store, fields.job_id(job_id))
    return Response(200, body_of(job), _headers(job))


async def _report(app: App, job_id: str, body: ProgressBody) -> Response:
    data = raw_or_none(body.data) or b"null"
    if data == b"null":
        data = b""
    elif data[:1] != b"{":
        raise InvalidRequest("'data' must be an object", field="data")
    value = body.progress
    if value is None and body.percentage is not None:
        value = round(body.percentage / 100, 12)
    if value is None and not data:
        raise InvalidRequest("'progress' or 'data' is required", field="progress")
    job = await report_progress(
        app.store,
        job_id,
        Report(value, body.message or "", data),
        worker_id=fields.worker_id(body.worker_id),
        lease_id=lease_of(app, body.lease_id),
    )
    return Response(200, body_of(job))


def body_of(job: JobRecord) -> bytes:
    """Return the progress of a job as JSON."""
    progress = job.progress
    value = message = data = updated = b"null"
    if progress is not None:
        value = progress.value or value
        message = progress.message or message
        data = progress.data or data
        updated = b'"%b"' % format_ms(progress.updated_ms)
    return b'{"job_id":"%b","state":"%b","progress":%b,"message":%b,"data":%b,"updated_at":%b}' % (
        job.id.encode(),
        job.state.value.encode(),
        value,
        message,
        data,
        updated,
    )


def _headers(job: JobRecord) -> Headers:
    progress = job.progress
    if progress is None:
        return (_NO_CACHE,)
    modified = ("Last-Modified", formatdate(progress.updated_ms // 1000, usegmt=True))
    if not progress.value:
        return (_NO_CACHE, modified)
    return (_NO_CACHE, modified, ("X-OJS-Progress", progress.value.decode()))
