"""The routes of the registry of schemas.

Every key with a scope to read may read schemas, also one that is restricted to some queues: a
producer needs them, and they contain no data of jobs. A schema changes what is accepted in all
queues, so a restricted key may not register one.
"""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers.schemas import by_uri, by_version
from ojs_cluster.http.handlers.schemas.views import SchemaBody
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import schemas as shapes

ROUTES: Final = table(
    Route(
        "GET /ojs/v1/schemas",
        by_uri.list_schemas,
        a.READ_NO_QUEUE,
        {200: shapes.JobSchemaList},
        parameters=(p.text("type", "Only schemas of this job type."), *p.numbered_page(50)),
    ),
    Route("GET /ojs/v1/schemas/{name}", by_uri.get, a.READ_NO_QUEUE, {200: shapes.JobSchemaAnswer}),
    Route(
        "GET /ojs/v1/schemas/{type}/versions",
        by_uri.list_versions,
        a.READ_NO_QUEUE,
        {200: shapes.JobSchemaVersionList},
    ),
    Route(
        "GET /ojs/v1/schemas/{type}/{version}",
        by_uri.get_version,
        a.READ_NO_QUEUE,
        {200: shapes.JobSchemaAnswer},
    ),
    Route(
        "POST /ojs/v1/schemas",
        by_uri.register,
        a.ADMIN_WRITE,
        {201: shapes.JobSchemaAnswer},
        body=SchemaBody,
        errors=(409,),
        action="schema.register",
    ),
    Route(
        "DELETE /ojs/v1/schemas/{name}",
        by_uri.drop,
        a.ADMIN_WRITE,
        {200: shapes.JobSchemaDeleted},
        action="schema.delete",
    ),
    Route(
        "DELETE /ojs/v1/schemas/{type}/{version}",
        by_uri.drop_version,
        a.ADMIN_WRITE,
        {200: shapes.JobSchemaDeleted},
        action="schema.delete",
    ),
    Route(
        "GET /ojs/v1/admin/schemas",
        by_version.list_schemas,
        a.ADMIN_READ_NO_QUEUE,
        {200: shapes.JobSchemaTypeList},
        parameters=p.numbered_page(50),
    ),
    Route(
        "GET /ojs/v1/admin/schemas/{type}",
        by_version.get_latest,
        a.ADMIN_READ_NO_QUEUE,
        {200: shapes.LatestJobSchema},
    ),
    Route(
        "GET /ojs/v1/admin/schemas/{type}/versions",
        by_version.list_versions,
        a.ADMIN_READ_NO_QUEUE,
        {200: shapes.JobSchemaVersionList},
    ),
    Route(
        "GET /ojs/v1/admin/schemas/{type}/{version}",
        by_version.get,
        a.ADMIN_READ_NO_QUEUE,
        {200: shapes.AdminJobSchema},
    ),
    Route(
        "PUT /ojs/v1/admin/schemas/{type}",
        by_version.set_policy,
        a.ADMIN_WRITE,
        {200: shapes.JobSchemaPolicy},
        body=by_version.PolicyBody,
        errors=(409,),
        action="schema.configure",
    ),
    Route(
        "PUT /ojs/v1/admin/schemas/{type}/{version}",
        by_version.register,
        a.ADMIN_WRITE,
        {201: shapes.AdminJobSchema},
        body=SchemaBody,
        errors=(409,),
        action="schema.register",
    ),
    Route(
        "DELETE /ojs/v1/admin/schemas/{type}/{version}",
        by_version.drop,
        a.ADMIN_WRITE,
        {200: shapes.JobSchemaDeleted},
        action="schema.delete",
    ),
)
