"""Enqueue the occurrences of a cron job that a past interval has had (an extension of ojs-cron)."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_new_job
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes.crons import BackfillError, CronBackfill
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.store.features.cron import cron as store_cron
from ojs_cluster.store.features.cron.backfill import MAX_OCCURRENCES, backfill, occurrences

_MAX_ERRORS: Final = 10
Time = Annotated[str, keywords(format="date-time")]


class BackfillBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The interval: ``from`` is included, ``to`` is not. Without ``confirm`` it is only counted."""

    from_: Time = msgspec.field(name="from")
    to: Time
    confirm: bool = False


_decoder = msgspec.json.Decoder(BackfillBody)


async def run(app: App, request: Request, name: str) -> Response:
    """Count the occurrences of a past interval, or enqueue their jobs if the body confirms it.

    The interval has 500 occurrences at most. Each job has the id that the scheduler gives the job
    of the same occurrence, so an occurrence that has fired, or was backfilled before, is not
    enqueued again while its job is kept. The overlap policy does not apply. A disabled cron job
    can be backfilled, too.
    """
    body = decode(_decoder, request, app.settings.limits)
    from_ms, to_ms = fields.time_ms(body.from_, field="from"), fields.time_ms(body.to, field="to")
    cron = await store_cron.get(app.store, name)
    if request.queues is not None:
        check_new_job(request.queues, parse_job(cron.job, limits=app.settings.limits))
    times = await occurrences(cron, from_ms, to_ms, app.store.clock.now_ms())
    members: CronBackfill = {
        "name": cron.name,
        "from": replies.iso(from_ms),
        "to": replies.iso(to_ms),
        "count": len(times),
        "max": MAX_OCCURRENCES,
        "first": replies.iso(times[0]) if times else None,
        "last": replies.iso(times[-1]) if times else None,
        "confirmed": body.confirm,
    }
    if body.confirm:
        done = await backfill(app.store, cron, times)
        failed: list[BackfillError] = [
            {"scheduled_time": replies.iso(ms), "message": text} for ms, text in done.errors.items()
        ]
        members |= {"enqueued": done.enqueued, "existing": done.existing, "failed": len(failed)}
        members["errors"] = failed[:_MAX_ERRORS]
    return replies.json_response(200, members)
