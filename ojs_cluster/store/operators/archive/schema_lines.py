"""Export and import the schemas of job args, and how their types are validated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, get_args

from ojs_cluster.core import raw_json
from ojs_cluster.core.errors import Duplicate, InvalidRequest, OJSError, SchemaRefused
from ojs_cluster.core.jobs.envelope import is_type
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.core.schemas.compatibility import Compatibility
from ojs_cluster.core.schemas.versions import SchemaVersion
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.schemas import registry
from ojs_cluster.store.ground.process_state.schema_index import (
    TypePolicy,
    read_changed,
    read_documents,
)
from ojs_cluster.store.operators.archive.line_values import (
    InvalidLine,
    SchemaLine,
    dump,
    number,
    text,
)

_MODES: Final = ("", "strict", "warn", "off")


async def export_schemas(store: Store, put: Callable[[str, SchemaLine], None]) -> None:
    """Write a line for each schema.

    A schema that is registered or deleted at that time may be missing.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    index = await read_changed(store, b"")
    if index is None:
        return
    for record in index.records.values():
        document = (await read_documents(store, [record])).get(record.field)
        if document is not None:
            policy = index.policies.get(record.type)
            line = SchemaLine(
                *(record.type, record.version, record.uri, document, record.created_ms), policy
            )
            put("schemas", line)


def schema_pieces(line: SchemaLine) -> dict[str, Raw]:
    """Return the members of the line of a schema."""
    pieces = {
        "type": dump(line.type),
        "version": dump(line.version),
        "uri": dump(line.uri),
        "schema": Raw(line.document),
        "created_ms": dump(line.created_ms),
    }
    if line.policy is not None:
        pieces |= {
            "mode": dump(line.policy.mode),
            "compatibility": dump(line.policy.compatibility),
        }
    return pieces


def parse_schema_line(members: Mapping[str, Raw]) -> SchemaLine:
    """Return the schema with the members of a line.

    Raises:
        InvalidLine: a member is missing or not valid.
    """
    job_type, uri = text(members, "type"), text(members, "uri")
    if not is_type(job_type):
        raise InvalidLine(f"{raw_json.show(job_type)} is not a job type")
    try:
        version = SchemaVersion.parse(text(members, "version"))
        document = registry.check_document(bytes(members.get("schema", b"null")))
    except OJSError as error:
        raise InvalidLine(f"the schema is not valid: {error.message}") from None
    if not 0 < len(uri) <= registry.MAX_URI_CHARACTERS:
        raise InvalidLine("'uri' has a wrong length")
    policy = None
    if "mode" in members:
        mode, compatibility = text(members, "mode"), text(members, "compatibility")
        for known in get_args(Compatibility):
            if known == compatibility and mode in _MODES:
                policy = TypePolicy(mode, known)
        if policy is None:
            raise InvalidLine(f"{raw_json.show(mode)} or {raw_json.show(compatibility)} is unknown")
    created_ms = number(members, "created_ms")
    return SchemaLine(job_type, version.text, uri, document, created_ms, policy)


async def restore_schema(store: Store, line: SchemaLine) -> bool:
    """Register a schema without a comparison with other versions; return False if it exists.

    The policy of its type is restored unless the type has a schema or a policy already.

    Raises:
        InvalidLine: the schema cannot be registered.
        BackendUnavailable: Redis did not answer in time.
    """
    version = SchemaVersion.parse(line.version)
    new = registry.NewSchema(line.type, version, line.document, line.uri)
    try:
        await registry.restore(store, new, line.created_ms, line.policy)
    except Duplicate:
        return False
    except (InvalidRequest, SchemaRefused) as error:
        raise InvalidLine(f"the schema cannot be registered: {error.message}") from None
    return True
