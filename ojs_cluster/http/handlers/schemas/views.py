"""Requests and responses that the views of the registry share."""

from __future__ import annotations

from typing import Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.jobs.envelope import is_type
from ojs_cluster.core.raw_json import string
from ojs_cluster.core.schemas.versions import SchemaVersion
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import schemas as shapes
from ojs_cluster.store.features.schemas import registry
from ojs_cluster.store.features.schemas.registry import NewSchema
from ojs_cluster.store.ground.process_state.schema_index import SchemaIndex, SchemaRecord, field_of
from ojs_cluster.store.ground.process_state.schema_table import StoredSchema, TypeSchemas


class SchemaBody(msgspec.Struct, frozen=True):
    """A schema as clients send it. The documents name some members differently."""

    type: str | None = None
    job_type: str | None = None
    uri: str | None = None
    version: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    args_schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decoder: Final = msgspec.json.Decoder(SchemaBody)


async def register(app: App, request: Request, path: tuple[str, str] | None) -> StoredSchema:
    """Register the schema of a request.

    Args:
        app: the state of the process.
        request: the request.
        path: the type and the version in the path; None if the body has them.

    Raises:
        InvalidRequest: a member is missing or has a wrong form.
        OJSError: as ``registry.register``.
    """
    body = decode(_decoder, request, app.settings.limits)
    document = body.args_schema if body.schema is msgspec.UNSET else body.schema
    if document is msgspec.UNSET or bytes(document) == b"null":
        raise InvalidRequest("'schema' is required: a JSON Schema document", field="schema")
    if path is None:
        job_type, version = body.type or body.job_type, _version(body.version)
    else:
        job_type, version = path
    if not job_type:
        raise InvalidRequest("'type' is required", field="type")
    if body.uri is not None and not 0 < len(body.uri) <= registry.MAX_URI_CHARACTERS:
        raise InvalidRequest(
            f"must have 1 to {registry.MAX_URI_CHARACTERS} characters", field="uri"
        )
    new = NewSchema(
        type=checked_type(job_type),
        version=SchemaVersion.parse(version),
        document=registry.check_document(bytes(document)),
        uri=body.uri,
    )
    record = await registry.register(app.store, new)
    await app.store.schemas.try_read(app.store)
    return StoredSchema(record, new.document)


def _version(raw: msgspec.Raw | msgspec.UnsetType) -> str:
    """Return the version of a body, which may be a number; 1.0.0 if there is none."""
    if raw is msgspec.UNSET or bytes(raw) == b"null":
        return "1.0.0"
    text = string(raw)
    return bytes(raw).decode(errors="replace") if text is None else text


def checked_type(job_type: str) -> str:
    """Return a job type.

    Raises:
        InvalidRequest: no job can have this type.
    """
    if not is_type(job_type):
        raise InvalidRequest("no job can have this type", field="type")
    return job_type


async def read_type(app: App, job_type: str) -> TypeSchemas:
    """Return the schemas of a type, as they are in Redis now.

    Raises:
        NotFound: the type has no schema.
        BackendUnavailable: Redis did not answer in time.
    """
    await app.store.schemas.read(app.store)
    found = app.store.schemas.types.get(job_type)
    if found is None:
        raise NotFound("schema", job_type[:300])
    return found


async def read_version(app: App, job_type: str, version: str) -> StoredSchema:
    """Return one schema, as it is in Redis now.

    Raises:
        NotFound: there is no such schema.
        BackendUnavailable: Redis did not answer in time.
    """
    await app.store.schemas.read(app.store)
    parsed = SchemaVersion.find(version)
    found = parsed and app.store.schemas.find(field_of(job_type, parsed))
    if not found:
        raise NotFound("schema", f"{job_type}@{version}"[:300])
    return found


async def delete_version(app: App, job_type: str, version: str) -> SchemaRecord:
    """Delete one schema.

    Raises:
        NotFound: there is no such schema.
        BackendUnavailable: Redis did not answer in time.
    """
    parsed = SchemaVersion.find(version)

    def choose(index: SchemaIndex) -> SchemaRecord | None:
        return None if parsed is None else index.records.get(field_of(job_type, parsed))

    record = await registry.delete(app.store, choose, f"{job_type}@{version}")
    await app.store.schemas.try_read(app.store)
    return record


def text_members(schema: StoredSchema) -> shapes.JobSchema:
    """Return the members of a schema; ``version`` is always a text, as the SDKs decode it."""
    return {**members(schema), "version": schema.record.version}


def members(schema: StoredSchema) -> shapes.AdminJobSchema:
    """Return the members of a schema under the names that all documents use."""
    record = schema.record
    created_at = replies.iso(record.created_ms)
    return {
        "type": record.type,
        "job_type": record.type,
        "version": schema.version.shown,
        "uri": record.uri,
        "schema": replies.encoded(schema.document),
        "created_at": created_at,
        "updated_at": created_at,  # a schema is never changed
    }


def versions(app: App, found: TypeSchemas, *, text_version: bool) -> shapes.JobSchemaVersionList:
    """Return the versions of a type, newest first, and how the type is validated."""
    return {
        "type": found.schemas[0].record.type,
        "versions": [
            {
                "version": each.record.version if text_version else each.version.shown,
                "uri": each.record.uri,
                "created_at": replies.iso(each.record.created_ms),
                "is_latest": index == 0,
            }
            for index, each in enumerate(found.schemas)
        ],
        **policy(app, found),
    }


def policy(app: App, found: TypeSchemas) -> shapes.ShownPolicy:
    """Return how a type is validated."""
    return {
        "mode": found.policy.mode or app.store.settings.schema_mode,
        "compatibility": found.policy.compatibility,
    }
