"""Schemas under ``/ojs/v1/admin/schemas``, by type and version (spec: ojs-job-versioning 6.1)."""

from __future__ import annotations

from typing import Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.schemas.compatibility import Compatibility
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.cursor_kinds import SCHEMA_TYPES
from ojs_cluster.http.handlers.schemas import views
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import schemas as shapes
from ojs_cluster.store.features.schemas import registry
from ojs_cluster.store.ground import listed
from ojs_cluster.store.ground.process_state.schema_index import TypePolicy


class PolicyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a type is validated. A member that is absent keeps its value."""

    mode: str | None = None
    compatibility: Compatibility | None = None


_decoder: Final = msgspec.json.Decoder(PolicyBody)
MODES: Final = ("strict", "warn", "off")


async def list_schemas(app: App, request: Request) -> Response:
    """List the latest schema of each type."""
    page = query.numbered_page(
        query.parameters(request.query), SCHEMA_TYPES, default=50, max_limit=100
    )
    await app.store.schemas.read(app.store)
    found = sorted(app.store.schemas.types.items())
    part, follows = listed.cut(
        found,
        lambda item: (item[0],),
        limit=page.limit,
        offset=page.offset,
        after=page.after,
    )
    shown: list[shapes.JobSchemaType] = [
        {
            **views.members(schemas.schemas[0]),
            **views.policy(app, schemas),
            "version_count": len(schemas.schemas),
        }
        for _, schemas in part
    ]
    last = (part[-1][0],) if follows else None
    pages = query.pagination(page, len(shown), len(found), last)
    members = shapes.JobSchemaTypeList(
        schemas=shown, items=shown, total=len(found), pagination=pages
    )
    return replies.json_response(200, members)


async def register(app: App, request: Request, job_type: str, version: str) -> Response:
    """Register a schema. A version that exists is never replaced.

    (spec: ojs-job-versioning 6.1)
    """
    made = await views.register(app, request, (job_type, version))
    return replies.json_response(201, views.members(made), audit_object=made.name)


async def get_latest(app: App, _request: Request, job_type: str) -> Response:
    """Return the latest schema of a type."""
    found = await views.read_type(app, job_type)
    latest = shapes.LatestJobSchema(**views.members(found.schemas[0]), **views.policy(app, found))
    return replies.json_response(200, latest)


async def list_versions(app: App, _request: Request, job_type: str) -> Response:
    """List the versions of a type, newest first."""
    found = await views.read_type(app, job_type)
    return replies.json_response(200, views.versions(app, found, text_version=False))


async def get(app: App, _request: Request, job_type: str, version: str) -> Response:
    """Return one version."""
    return replies.json_response(
        200, views.members(await views.read_version(app, job_type, version))
    )


async def drop(app: App, _request: Request, job_type: str, version: str) -> Response:
    """Delete one version."""
    record = await views.delete_version(app, job_type, version)
    shown = record.parsed_version.shown
    return replies.json_response(
        200,
        shapes.JobSchemaDeleted(deleted=True, type=record.type, version=shown),
        audit_object=f"{record.type}@{record.version}",
    )


async def set_policy(app: App, request: Request, job_type: str) -> Response:
    """Choose how a type is validated, and which changes a further version may make.

    ``mode`` is ``strict``, ``warn`` or ``off``, or empty for ``OJS_SCHEMA_MODE``.
    """
    body = decode(_decoder, request, app.settings.limits)
    if body.mode not in (None, "", *MODES):
        raise InvalidRequest(f"mode must be one of {', '.join(MODES)}", field="mode")

    replaced: dict[str, str] = {}

    def edit(old: TypePolicy) -> TypePolicy:
        replaced.update(mode=old.mode, compatibility=old.compatibility)
        return TypePolicy(
            mode=old.mode if body.mode is None else body.mode,
            compatibility=body.compatibility or old.compatibility,
        )

    await registry.set_policy(app.store, job_type, edit)
    found = await views.read_type(app, job_type)
    return replies.json_response(
        200,
        shapes.JobSchemaPolicy(type=job_type, **views.policy(app, found)),
        audit_object=job_type,
        audit_old={name: replaced[name] for name in replaced if getattr(body, name) is not None},
    )
