"""The route table that both entry points serve: the tables of ``route_tables``, joined."""

from __future__ import annotations

from functools import cache
from typing import Final

from ojs_cluster.http.routing.router import HttpRouter, Route
from ojs_cluster.http.routing.tables import (
    admin,
    crons,
    events,
    jobs,
    queues,
    system,
    webhooks,
    workers,
    workflows,
)

ROUTES: Final[tuple[Route, ...]] = (
    *system.ROUTES,
    *jobs.ROUTES,
    *workers.ROUTES,
    *queues.ROUTES,
    *workflows.ROUTES,
    *crons.ROUTES,
    *events.ROUTES,
    *webhooks.ROUTES,
    *admin.ROUTES,
)


@cache
def router_for(test_hooks: bool) -> HttpRouter:
    """Return the router of the table, with or without the routes of test hooks."""
    return HttpRouter(ROUTES, test_hooks=test_hooks)
