"""Schemas of job args."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers.schemas import by_uri, by_version
from ojs_cluster.http.handlers.schemas.views import SchemaBody
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import schemas as shapes

_DELETED: Final = OperationDetails({200: shapes.JobSchemaDeleted})
_VERSIONS: Final = OperationDetails({200: shapes.JobSchemaVersionList})

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    by_uri.list_schemas: OperationDetails(
        {200: shapes.JobSchemaList},
        parameters=(p.text("type", "Only schemas of this job type."), *p.numbered_page(50)),
    ),
    by_uri.register: OperationDetails(
        {201: shapes.JobSchemaAnswer}, body=SchemaBody, errors=(409,)
    ),
    by_uri.get: OperationDetails({200: shapes.JobSchemaAnswer}),
    by_uri.get_version: OperationDetails({200: shapes.JobSchemaAnswer}),
    by_uri.list_versions: _VERSIONS,
    by_uri.drop: _DELETED,
    by_uri.drop_version: _DELETED,
    by_version.list_schemas: OperationDetails(
        {200: shapes.JobSchemaTypeList}, parameters=p.numbered_page(50)
    ),
    by_version.register: OperationDetails(
        {201: shapes.AdminJobSchema}, body=SchemaBody, errors=(409,)
    ),
    by_version.get_latest: OperationDetails({200: shapes.LatestJobSchema}),
    by_version.get: OperationDetails({200: shapes.AdminJobSchema}),
    by_version.list_versions: _VERSIONS,
    by_version.drop: _DELETED,
    by_version.set_policy: OperationDetails(
        {200: shapes.JobSchemaPolicy}, body=by_version.PolicyBody, errors=(409,)
    ),
}
