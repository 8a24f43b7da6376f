"""Register, delete and configure schemas (spec: ojs-schema-registry 4 and 8).

Each change is written only if the index is still the one that was checked. Otherwise the change is
checked again with the new index. So no limit is exceeded and no check is outdated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from ojs_cluster.core.errors import Conflict, Duplicate, InvalidRequest, NotFound, SchemaRefused
from ojs_cluster.core.schemas.compatibility import breaking_changes
from ojs_cluster.core.schemas.compiled import CompiledSchema
from ojs_cluster.core.schemas.versions import SchemaVersion
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.store.ground.process_state.schema_index import (
    URI,
    SchemaIndex,
    SchemaRecord,
    TypePolicy,
    encode,
    read_changed,
    read_documents,
)
from ojs_cluster.store.ground.runtime import Arg, Runtime

MAX_VERSIONS: Final = 100
"""Maximum number of versions of a job type."""
MAX_URI_CHARACTERS: Final = 500
_ATTEMPTS: Final = 20


class NewSchema(msgspec.Struct, frozen=True):
    """A schema to register.

    Args:
        type: the job type.
        version: the version.
        document: the JSON of the schema.
        uri: the URI; None for the one that the server makes.
    """

    type: str
    version: SchemaVersion
    document: bytes
    uri: str | None = None

    @property
    def chosen_uri(self) -> str:
        """The URI of the schema."""
        return self.uri or f"urn:ojs:schema:{self.type}:{self.version.key}"


async def register(store: Runtime, new: NewSchema) -> SchemaRecord:
    """Store a new schema.

    Raises:
        SchemaRefused: the schema is not valid, not supported, or breaks what the versions before it
            allow.
        Duplicate: the type has this version, or another schema has the URI.
        InvalidRequest: there are too many schemas.
        BackendUnavailable: Redis did not answer in time.
    """
    # Always in a thread: patterns make the time independent of the size.
    await off_loop(lambda: CompiledSchema(new.document), len(new.document), large=0)
    record: SchemaRecord | None = None
    for _ in range(_ATTEMPTS):
        index = await _read(store)
        wanted = SchemaRecord(
            type=new.type,
            version=new.version.text,
            uri=new.chosen_uri,
            size=len(new.document),
            created_ms=record.created_ms if record else index.now_ms,
        )
        if record is not None and index.records.get(record.field) == record:
            return record  # an earlier attempt has stored it, and another client changed more
        record = wanted
        _check_room(store, index, record)
        await _check_compatible(store, index, record, new.document)
        total = index.total_bytes + record.size
        further = [f"{URI}{record.uri}", record.field]
        written = await _write(
            store, index, record.field, encode(record), new.document, total, further
        )
        if written:
            return record
    raise _changed_by_others()


async def restore(
    store: Runtime, new: NewSchema, created_ms: int, policy: TypePolicy | None
) -> None:
    """Store a schema of an export. It was compared with other versions when it was registered.

    Args:
        store: the store.
        new: the schema.
        created_ms: Unix time in ms of its registration.
        policy: how its type is validated, unless the type has a schema or a policy already.

    Raises:
        SchemaRefused: the schema is not valid or not supported.
        Duplicate: the type has this version, or another schema has the URI.
        InvalidRequest: there are too many schemas.
        BackendUnavailable: Redis did not answer in time.
    """
    await off_loop(lambda: CompiledSchema(new.document), len(new.document), large=0)
    record = SchemaRecord(
        type=new.type,
        version=new.version.text,
        uri=new.chosen_uri,
        size=len(new.document),
        created_ms=created_ms,
    )
    for _ in range(_ATTEMPTS):
        index = await _read(store)
        _check_room(store, index, record)
        further: list[Arg] = [f"{URI}{record.uri}", record.field]
        if policy is not None and not index.of_type(new.type) and new.type not in index.policies:
            further += [new.type, encode(policy)]
        total = index.total_bytes + record.size
        if await _write(store, index, record.field, encode(record), new.document, total, further):
            return
    raise _changed_by_others()


async def delete(
    store: Runtime, choose: Callable[[SchemaIndex], SchemaRecord | None], name: str
) -> SchemaRecord:
    """Delete a schema, and the policy of its type together with the last version.

    Args:
        store: the store.
        choose: returns the schema, given the index; None if it does not exist.
        name: what the client calls the schema, for the error.

    Raises:
        NotFound: there is no such schema.
        BackendUnavailable: Redis did not answer in time.
    """
    deleted: SchemaRecord | None = None
    for _ in range(_ATTEMPTS):
        index = await _read(store)
        record = choose(index)
        if record is None:
            if deleted is not None:
                return deleted  # the reply to an earlier attempt was lost
            raise NotFound("schema", name[:300])
        deleted = record
        further: list[Arg] = [f"{URI}{record.uri}", ""]
        if len(index.of_type(record.type)) == 1:
            further += [record.type, ""]
        total = max(0, index.total_bytes - record.size)
        if await _write(store, index, record.field, b"", b"", total, further):
            return record
    raise _changed_by_others()


async def set_policy(
    store: Runtime, job_type: str, edit: Callable[[TypePolicy], TypePolicy]
) -> TypePolicy:
    """Change how a job type is validated; return the new policy.

    Raises:
        NotFound: the type has no schema.
        BackendUnavailable: Redis did not answer in time.
    """
    for _ in range(_ATTEMPTS):
        index = await _read(store)
        if not index.of_type(job_type):
            raise NotFound("schema", job_type[:300])
        policy = edit(index.policies.get(job_type, TypePolicy()))
        if await _write(store, index, job_type, encode(policy), b"-", index.total_bytes, []):
            return policy
    raise _changed_by_others()


async def _read(store: Runtime) -> SchemaIndex:
    return await read_changed(store, b"") or SchemaIndex()


def _changed_by_others() -> Conflict:
    return Conflict("other clients keep changing the schemas: repeat the request")


def _check_room(store: Runtime, index: SchemaIndex, record: SchemaRecord) -> None:
    """Check that the schema is new, and that there is room for it."""
    existing = index.records.get(record.field)
    if existing is not None:
        raise Duplicate(
            f"'{record.type}' already has a schema of version {existing.version}: register another "
            "version, or delete this one first",
            field="version",
        )
    if record.uri in index.uris:
        raise Duplicate(f"another schema has the URI '{record.uri}'", field="uri")
    settings = store.settings
    if len(index.records) >= settings.max_schemas:
        raise InvalidRequest(f"at most {settings.max_schemas} schemas may exist")
    if len(index.of_type(record.type)) >= MAX_VERSIONS:
        raise InvalidRequest(f"a job type has at most {MAX_VERSIONS} versions of its schema")
    if index.total_bytes + record.size > settings.schemas_max_bytes:
        raise InvalidRequest(
            f"all schemas together may have {settings.schemas_max_bytes} bytes", field="schema"
        )


async def _check_compatible(
    store: Runtime, index: SchemaIndex, record: SchemaRecord, document: bytes
) -> None:
    """Compare a schema with the version before it, and with the one after it.

    Only versions of the same major version are compared.

    Raises:
        SchemaRefused: a change is not allowed.
    """
    policy = index.policies.get(record.type, TypePolicy())
    if policy.compatibility == "none":
        return
    version = record.parsed_version
    minors = [
        each
        for each in index.of_type(record.type)
        if each.parsed_version.numbers[0] == version.numbers[0]
    ]
    older = [each for each in minors if each.parsed_version.order < version.order][:1]
    newer = [each for each in minors if each.parsed_version.order > version.order][-1:]
    documents = await read_documents(store, [*older, *newer])
    for other in (*older, *newer):
        raw = documents.get(other.field)
        if raw is None:
            continue
        pair = (raw, document) if other in older else (document, raw)

        def compare(pair: tuple[bytes, bytes] = pair) -> list[str]:
            old, new = (msgspec.json.decode(each) for each in pair)
            return breaking_changes(old, new, policy.compatibility)

        changes = await off_loop(compare, len(raw) + len(document), large=0)
        if changes:
            following = version.numbers[0] + 1
            raise SchemaRefused(
                f"schema version {record.version} introduces breaking changes compared to "
                f"{other.version}: {changes[0]}. Use a new major version ({following}.0.0)",
                breaking_changes=changes,
            )


async def _write(
    store: Runtime,
    index: SchemaIndex,
    field: str,
    record: bytes,
    document: bytes,
    total: int,
    further: list[Arg] | list[str],
) -> bool:
    """Write one change; return False if the index has changed since it was read."""
    meta = store.keys.meta
    args: list[Arg] = [index.version, meta.job_schema_channel, field, record, document, total]
    reply: bytes = await store.run_meta(
        "schema_write", [meta.job_schemas, meta.job_schema_documents], [*args, *further]
    )
    return reply == b"ok"


def check_document(raw: bytes) -> bytes:
    """Return the JSON of a schema as it is stored: as sent, without white space around it.

    Raises:
        SchemaRefused: it is not an object or a boolean.
    """
    document = raw.strip()
    if not document.startswith((b"{", b"true", b"false")):
        raise SchemaRefused("a schema is an object or a boolean", pointer="")
    return document
