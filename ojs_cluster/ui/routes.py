"""The addresses of the pages. A page that the menu lists has an entry in ``navigation``, too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.pages import (
    audit,
    bulk,
    cluster,
    completion,
    dead,
    edit_job,
    errors,
    events,
    job,
    jobs,
    limits,
    new_job,
    operations,
    overview,
    pools,
    tenants,
    types,
    webhooks,
    workers,
    workflows,
)
from ojs_cluster.ui.pages.crons import changes as cron_changes
from ojs_cluster.ui.pages.crons import lists as crons
from ojs_cluster.ui.pages.crons import preview as cron_preview
from ojs_cluster.ui.pages.queues import changes as queue_changes
from ojs_cluster.ui.pages.queues import lists as queues
from ojs_cluster.ui.pages.shared import language, marks, problems, times
from ojs_cluster.ui.visit import Answer

Handler = Callable[..., Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class PageRoute:
    """One address.

    Attributes:
        method: GET for a page, POST for an action, whose response sends the browser to a page.
        rule: the path below the dashboard, in Quart's syntax.
        handler: called with the ``Visit`` and the parameters of the path as keywords.
        scopes: the scopes without which the user gets an error page. The API checks them again.
        is_form: whether the page is a form only, so that a read-only dashboard does not have it.
        is_own: whether the action changes only what this browser shows, so that a read-only
            dashboard has it, too.
    """

    method: str
    rule: str
    handler: Handler
    scopes: tuple[Scope, ...] = (Scope.ADMIN_READ,)
    is_form: bool = False
    is_own: bool = False


PAGES: Final = (
    PageRoute("GET", "/", overview.show),
    PageRoute("POST", "/times", times.choose, (), is_own=True),
    PageRoute("POST", "/language", language.choose, (), is_own=True),
    PageRoute("POST", "/marks", marks.add, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/marks/<mark_id>/delete", marks.delete, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/problems/mute", problems.mute, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/problems/unmute", problems.unmute, (Scope.ADMIN_WRITE,)),
    PageRoute("GET", "/queues", queues.show_all),
    PageRoute("POST", "/queues", queues.change_many, (Scope.ADMIN_WRITE,)),
    PageRoute("GET", "/queues/<name>", queues.show_one),
    PageRoute("POST", "/queues/<name>/pause", queues.pause, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/queues/<name>/resume", queues.resume, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/queues/<name>/limits", queue_changes.set_limits, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/queues/<name>/config", queue_changes.configure, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/queues/<name>/defaults", queue_changes.set_defaults, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/queues/<name>/purge", queue_changes.purge, (Scope.ADMIN_PURGE,)),
    PageRoute(
        "POST",
        "/queues/<name>/delete",
        queue_changes.delete,
        (Scope.ADMIN_READ, Scope.ADMIN_WRITE),
    ),
    PageRoute("GET", "/jobs", jobs.show_all),
    PageRoute("GET", "/jobs/values.json", completion.values),
    PageRoute("GET", "/jobs/new", new_job.show, (Scope.ADMIN_READ, Scope.DATA_WRITE), True),
    PageRoute("POST", "/jobs/new", new_job.create, (Scope.ADMIN_READ, Scope.DATA_WRITE)),
    PageRoute("GET", "/jobs/<job_id>", job.show),
    PageRoute("GET", "/jobs/<job_id>.json", job.download),
    PageRoute("POST", "/jobs/<job_id>/retry", job.retry, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/jobs/<job_id>/cancel", job.cancel, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/jobs/<job_id>/cancel-run", job.cancel_run, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/jobs/<job_id>/activate", job.activate, (Scope.DATA_WRITE,)),
    PageRoute(
        "GET", "/jobs/<job_id>/edit", edit_job.show, (Scope.ADMIN_READ, Scope.ADMIN_WRITE), True
    ),
    PageRoute("POST", "/jobs/<job_id>/edit", edit_job.save, (Scope.ADMIN_READ, Scope.ADMIN_WRITE)),
    PageRoute("POST", "/jobs/<job_id>/priority", job.change_priority, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/jobs/<job_id>/move", job.move, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/jobs/<job_id>/copy", job.copy, (Scope.ADMIN_READ, Scope.DATA_WRITE)),
    PageRoute("GET", "/dead", dead.show_all),
    PageRoute("POST", "/dead/<job_id>/retry", dead.retry, (Scope.ADMIN_WRITE,)),
    PageRoute(
        "GET",
        "/dead/<job_id>/delete",
        dead.ask_to_delete,
        (Scope.ADMIN_READ, Scope.ADMIN_WRITE),
        True,
    ),
    PageRoute("POST", "/dead/<job_id>/delete", dead.delete, (Scope.ADMIN_WRITE,)),
    PageRoute("GET", "/errors", errors.show_all),
    PageRoute("GET", "/types", types.show_all),
    PageRoute("GET", "/types/<path:name>", types.show_one),
    PageRoute("GET", "/workers", workers.show_all),
    PageRoute("GET", "/workers/<path:worker_id>", workers.show_one),
    PageRoute(
        "POST",
        "/workers/<path:worker_id>/direct/<directive>",
        workers.direct,
        (Scope.ADMIN_WRITE,),
    ),
    PageRoute(
        "POST", "/workers/<path:worker_id>/deregister", workers.deregister, (Scope.ADMIN_WRITE,)
    ),
    PageRoute("GET", "/cron", crons.show_all, (Scope.DATA_READ,)),
    # Names of cron jobs do not begin with "_".
    PageRoute("GET", "/cron/_new", cron_changes.show_new, (Scope.DATA_WRITE,), True),
    PageRoute("POST", "/cron/_new", cron_changes.create, (Scope.DATA_WRITE,)),
    PageRoute("GET", "/cron/_preview", cron_preview.show, (Scope.DATA_READ,)),
    PageRoute("GET", "/cron/<name>", crons.show_one, (Scope.DATA_READ,)),
    PageRoute("GET", "/cron/<name>/edit", cron_changes.show_edit, (Scope.DATA_WRITE,), True),
    PageRoute("POST", "/cron/<name>/edit", cron_changes.edit, (Scope.DATA_WRITE,)),
    PageRoute("POST", "/cron/<name>/trigger", crons.trigger, (Scope.DATA_WRITE,)),
    PageRoute("POST", "/cron/<name>/backfill", crons.backfill, (Scope.DATA_WRITE,)),
    PageRoute("POST", "/cron/<name>/pause", crons.pause, (Scope.DATA_WRITE,)),
    PageRoute("POST", "/cron/<name>/resume", crons.resume, (Scope.DATA_WRITE,)),
    PageRoute("POST", "/cron/<name>/delete", crons.delete, (Scope.DATA_WRITE,)),
    PageRoute("GET", "/workflows", workflows.show_all, (Scope.DATA_READ,)),
    PageRoute("GET", "/workflows/<workflow_id>", workflows.show_one, (Scope.DATA_READ,)),
    PageRoute("POST", "/workflows/<workflow_id>/cancel", workflows.cancel, (Scope.DATA_WRITE,)),
    PageRoute(
        "POST",
        "/workflows/<workflow_id>/copy",
        workflows.copy,
        (Scope.DATA_READ, Scope.DATA_WRITE),
    ),
    PageRoute("GET", "/pools", pools.show_all),
    # Names of pools do not begin with "_".
    PageRoute("GET", "/pools/_new", pools.show_new, (Scope.ADMIN_READ, Scope.ADMIN_WRITE), True),
    PageRoute("POST", "/pools/_new", pools.create, (Scope.ADMIN_READ, Scope.ADMIN_WRITE)),
    PageRoute("GET", "/pools/<name>", pools.show_one),
    PageRoute("POST", "/pools/<name>", pools.change, (Scope.ADMIN_READ, Scope.ADMIN_WRITE)),
    PageRoute("POST", "/pools/<name>/delete", pools.delete, (Scope.ADMIN_WRITE,)),
    PageRoute("GET", "/tenants", tenants.show_all),
    PageRoute("GET", "/tenants/<tenant>", tenants.show_one),
    PageRoute("POST", "/tenants/<tenant>/limits", tenants.set_limits, (Scope.ADMIN_WRITE,)),
    PageRoute("GET", "/limits", limits.show_all),
    PageRoute("GET", "/limits/<key>", limits.show_one),
    PageRoute("POST", "/limits/<key>/override", limits.override, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/limits/<key>/clear", limits.clear, (Scope.ADMIN_WRITE,)),
    PageRoute("GET", "/webhooks", webhooks.show_all),
    *(
        PageRoute("POST", f"/webhooks/<subscription_id>/{name}", handler, (Scope.ADMIN_WRITE,))
        for name, handler in (
            ("test", webhooks.test),
            ("activate", webhooks.activate),
            ("deactivate", webhooks.deactivate),
        )
    ),
    PageRoute(
        "POST", "/webhooks/deliveries/<delivery_id>/retry", webhooks.retry, (Scope.ADMIN_WRITE,)
    ),
    PageRoute("GET", "/events", events.show_all, events.SCOPES),
    PageRoute("GET", "/events/stream", events.stream, events.SCOPES),
    PageRoute("GET", "/audit", audit.show),
    PageRoute("GET", "/operations", operations.show),
    PageRoute("POST", "/operations/maintenance", operations.set_maintenance, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/operations/outbox", operations.retry_outbox, (Scope.ADMIN_WRITE,)),
    PageRoute("GET", "/bulk", bulk.show_all),
    PageRoute("POST", "/bulk", bulk.create, (Scope.ADMIN_WRITE,)),
    PageRoute("GET", "/bulk/<operation_id>", bulk.show_one),
    PageRoute("POST", "/bulk/<operation_id>/run", bulk.run, (Scope.ADMIN_WRITE,)),
    PageRoute("POST", "/bulk/<operation_id>/stop", bulk.stop, (Scope.ADMIN_WRITE,)),
    PageRoute("GET", "/cluster", cluster.show),
)
