"""Edit a job that waits (spec: ojs-priority for the priority, the rest is an extension)."""

from __future__ import annotations

from functools import partial

from ojs_cluster.core.jobs.edit import parse_edit
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import cause_of
from ojs_cluster.http.authorization.queue_scope import check_read_job
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import require_json
from ojs_cluster.store.engine.changes.edit import edit
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.off_loop import off_loop


async def change(app: App, request: Request, job_id: str) -> Response:
    """Change members of a job that waits.

    The body names the members to change. The others keep their values. ``null`` removes
    ``timeout_ms``, ``expires_at`` or ``tags``. Only a scheduled job can get another
    ``scheduled_at``. A unique job keeps its args and meta, because they identify it.
    """
    job, warnings = await _changed(app, request, job_id)
    response = replies.job_response(200, job)
    return replies.with_warnings(response, warnings) if warnings else response


async def change_as_admin(app: App, request: Request, job_id: str) -> Response:
    """Change members of a job that waits. The members of the job are at the top level.

    The body is that of ``PATCH /ojs/v1/jobs/{id}``.
    """
    job, _warnings = await _changed(app, request, job_id)
    return Response(200, job.json())


async def _changed(app: App, request: Request, job_id: str) -> tuple[JobRecord, list[str]]:
    if request.body:
        require_json(request)
    parse = partial(parse_edit, request.body, app.settings.limits)
    change = await off_loop(parse, len(request.body))
    check = partial(check_read_job, request) if request.is_restricted else None
    return await edit(app.store, fields.job_id(job_id), change, cause_of(app, request), check)
