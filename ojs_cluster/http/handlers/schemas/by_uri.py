"""Schemas under ``/ojs/v1/schemas``, as the SDKs and ojs-schema-registry use them.

The SDKs address a schema by its URI, the document by its type. A job type has no colon and no
slash, so a path is a type if it can be one and has a schema, and otherwise a URI.
"""

from __future__ import annotations

from collections.abc import Sequence

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.schemas.versions import SchemaVersion
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.cursor_kinds import SCHEMAS
from ojs_cluster.http.handlers.schemas import views
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes import schemas as shapes
from ojs_cluster.store.features.schemas import registry
from ojs_cluster.store.ground.listed import Position
from ojs_cluster.store.ground.process_state.schema_table import StoredSchema


async def list_schemas(app: App, request: Request) -> Response:
    """List all schemas by type, newest version first."""
    given = query.parameters(request.query)
    page = query.numbered_page(given, SCHEMAS, default=50, max_limit=100)
    await app.store.schemas.read(app.store)
    wanted = given.get("type")
    found = [each for each in app.store.schemas.all() if wanted in (None, "", each.record.type)]
    start = page.offset if page.after is None else _index_after(found, page.after)
    part = found[start : start + page.limit]
    shown = [views.text_members(each) for each in part]
    last = (
        (part[-1].record.type, part[-1].version.text) if start + page.limit < len(found) else None
    )
    pages = query.pagination(page, len(shown), len(found), last)
    members = shapes.JobSchemaList(schemas=shown, total=len(found), pagination=pages)
    return replies.json_response(200, members)


def _index_after(found: Sequence[StoredSchema], position: Position) -> int:
    """Return the index of the first schema after a position, whose schema may be deleted.

    Raises:
        InvalidRequest: the position has no version.
    """
    job_type, version = str(position[0]), SchemaVersion.find(str(position[1]))
    if version is None:
        raise InvalidRequest("this cursor belongs to another list", field="cursor")
    return sum(
        each.record.type < job_type
        or (each.record.type == job_type and each.version.place >= version.place)
        for each in found
    )


async def register(app: App, request: Request) -> Response:
    """Register a schema.

    (spec: ojs-schema-registry 4.1)
    """
    made = await views.register(app, request, None)
    value = shapes.JobSchemaAnswer(schema=views.text_members(made))
    return replies.json_response(201, value, audit_object=made.name)


async def get(app: App, _request: Request, name: str) -> Response:
    """Return the schema with a URI, or the latest schema of a type.

    (spec: ojs-schema-registry 4.2)
    """
    await app.store.schemas.read(app.store)
    table = app.store.schemas
    found = table.types[name].schemas[0] if name in table.types else table.with_uri(name)
    if found is None:
        raise NotFound("schema", name[:300])
    return replies.json_response(200, shapes.JobSchemaAnswer(schema=views.text_members(found)))


async def drop(app: App, _request: Request, uri: str) -> Response:
    """Delete the schema with a URI. A type is no URI: its versions are deleted one by one."""
    record = await registry.delete(
        app.store, lambda index: index.records.get(index.uris.get(uri, "")), uri
    )
    await app.store.schemas.try_read(app.store)
    return replies.json_response(
        200,
        shapes.JobSchemaDeleted(
            deleted=True, uri=record.uri, type=record.type, version=record.version
        ),
        audit_object=f"{record.type}@{record.version}",
    )


async def list_versions(app: App, _request: Request, job_type: str) -> Response:
    """List the versions of a type, newest first.

    (spec: ojs-schema-registry 4.3)
    """
    found = await views.read_type(app, job_type)
    return replies.json_response(200, views.versions(app, found, text_version=True))


async def get_version(app: App, _request: Request, job_type: str, version: str) -> Response:
    """Return one version."""
    found = await views.read_version(app, job_type, version)
    return replies.json_response(200, shapes.JobSchemaAnswer(schema=views.text_members(found)))


async def drop_version(app: App, _request: Request, job_type: str, version: str) -> Response:
    """Delete one version.

    (spec: ojs-schema-registry 4.4)
    """
    record = await views.delete_version(app, job_type, version)
    return replies.json_response(
        200,
        shapes.JobSchemaDeleted(deleted=True, type=record.type, version=record.version),
        audit_object=f"{record.type}@{record.version}",
    )
