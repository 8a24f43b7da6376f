"""Change the priority of a job (spec: ojs-priority)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ojs_cluster.core.jobs.options import check_priority
from ojs_cluster.http import fields, replies
from ojs_cluster.http.access.principals import cause_of
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.openapi.keywords import keywords
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.store.jobs.change_priority import change_priority
from ojs_cluster.store.jobs.record import JobRecord


class PriorityBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body. The priority is the only member of a job that can be changed."""

    priority: Annotated[Any, keywords(type="integer", minimum=-100, maximum=100)]


_decoder = msgspec.json.Decoder(PriorityBody)


async def change(app: App, request: Request, job_id: str) -> Response:
    """Change the priority of a job that waits.

    ``PATCH /ojs/v1/jobs/{id}``
    """
    return replies.job_response(200, await _changed(app, request, job_id))


async def change_as_admin(app: App, request: Request, job_id: str) -> Response:
    """Change the priority of a job that waits. The members of the job are at the top level.

    ``PATCH /ojs/v1/admin/jobs/{id}``
    """
    return Response(200, (await _changed(app, request, job_id)).json())


async def _changed(app: App, request: Request, job_id: str) -> JobRecord:
    body = decode(_decoder, request, app.settings.limits)
    priority = check_priority(body.priority, field="priority")
    return await change_priority(app.store, fields.job_id(job_id), priority, cause_of(app, request))
