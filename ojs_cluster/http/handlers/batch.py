"""Enqueue several jobs in one atomic request (spec: ojs-http-binding 7.2)."""

from __future__ import annotations

from functools import partial

import orjson

from ojs_cluster.core.errors import Duplicate, QueueFull
from ojs_cluster.core.jobs.envelope import parse_batch
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_new_job, hide_existing
from ojs_cluster.http.hooks import validate_if_marked
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import require_json
from ojs_cluster.store.engine.args_validation import check_all
from ojs_cluster.store.engine.enqueue import enqueue as store_enqueue
from ojs_cluster.store.ground.off_loop import off_loop


async def enqueue_many(app: App, request: Request) -> Response:
    """Enqueue all jobs of the body, or none of them.

    (spec: ojs-http-binding 9.2)
    """
    if request.body:
        require_json(request)
    trace = fields.trace(app, request)
    limits, tenant = app.settings.limits, request.tenant or ""
    parse = partial(parse_batch, request.body, limits=limits, trace=trace, tenant=tenant)
    new_jobs = await off_loop(parse, len(request.body))
    if request.queues is not None:
        for new_job in new_jobs:
            check_new_job(request.queues, new_job)
    if app.settings.test_hooks:
        for new_job in new_jobs:
            validate_if_marked(new_job)
    warnings = await check_all(app.store, new_jobs)
    store_jobs = partial(store_enqueue.enqueue_many, app.store, new_jobs, admitted={})
    try:
        jobs = await app.blocked.until_stored(request, new_jobs, store_jobs)
    except QueueFull as full:
        refused = (job.type for job in new_jobs if job.queue == full.details.get("queue"))
        job_type = next(refused, new_jobs[0].type)
        await app.store.rejections.report(app.store, app.store.events_arg, full, job_type)
        raise
    except Duplicate as duplicate:
        raise await hide_existing(app, request, duplicate) from None
    count = len(jobs)
    existing = [index for index, job in enumerate(jobs) if job.deduplicated]
    body = b'{"jobs":%b,"count":%d,"enqueued":%d,"failed":0%b}' % (
        replies.jobs_array(jobs),
        count,
        count - len(existing),
        b',"deduplicated":%b' % orjson.dumps(existing) if existing else b"",
    )
    pressure = next((job.pressure for job in jobs if job.pressure is not None), None)
    headers = () if pressure is None else replies.pressure_headers(*pressure)
    response = Response(
        201, body, headers, object_ids=lambda: {"job_ids": [job.id for job in jobs]}
    )
    return replies.with_warnings(response, warnings)
