"""The route table that both entry points serve: the tables of ``routes``, joined.

The document of the API describes all of them. So its route is added here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Final

from ojs_cluster.http.openapi.document import Family, build_document
from ojs_cluster.http.openapi.endpoint import DocumentEndpoint
from ojs_cluster.http.openapi.parameters import IF_NONE_MATCH
from ojs_cluster.http.routes import (
    admin,
    agents,
    crons,
    dashboard,
    events,
    jobs,
    pools,
    queues,
    schemas,
    system,
    tenants,
    webhooks,
    workers,
    workflows,
)
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.described import Answer
from ojs_cluster.http.routing.router import HttpRouter, Route

_TABLES: Final = (
    *(system, jobs, workers, queues, workflows, crons, events, webhooks, schemas, pools, admin),
    *(agents, tenants, dashboard),
)
DOCUMENT_ROUTE: Final = Route(
    "GET /ojs/openapi.json",
    DocumentEndpoint(lambda: build_document(FAMILIES)).get,
    a.READ_NO_QUEUE,
    {
        200: Answer(
            dict,
            "The document.",
            "application/json",
            {"ETag": "The entity tag of the document.", "Cache-Control": "Always `no-cache`."},
        ),
        304: Answer(description="The copy of the client is current."),
    },
    parameters=(IF_NONE_MATCH,),
)


def _family(table: ModuleType) -> Family:
    routes: tuple[Route, ...] = table.ROUTES
    if table is system:
        routes = (*routes, DOCUMENT_ROUTE)
    return Family(inspect.getdoc(table) or "", routes)


FAMILIES: Final[Mapping[str, Family]] = {
    table.__name__.rpartition(".")[2]: _family(table) for table in _TABLES
}
"""The routes by the name of their table, which is their tag in the document."""
ROUTES: Final = tuple(route for family in FAMILIES.values() for route in family.routes)


@cache
def router_for(test_hooks: bool) -> HttpRouter:
    """Return the router of the table, with or without the routes of test hooks."""
    return HttpRouter(ROUTES, test_hooks=test_hooks)
