"""This process's copy of the schemas of job args.

An enqueue looks up the type of its job in ``validated``. Without a schema, this is all it costs. A
schema is compiled when the first job needs it. The copy is watched (``versioned_table``).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.core.errors import SchemaRefused
from ojs_cluster.core.schemas.compiled import CompiledSchema, Problem
from ojs_cluster.core.schemas.versions import SchemaVersion
from ojs_cluster.keys import Meta
from ojs_cluster.store.ground.process_state.schema_index import (
    SchemaIndex,
    SchemaRecord,
    TypePolicy,
    read_changed,
    read_documents,
)
from ojs_cluster.store.ground.process_state.suspect_schemas import SuspectSchemas, digest_of
from ojs_cluster.store.ground.process_state.validation_process import ValidationProcess
from ojs_cluster.store.ground.versioned_table import VersionedTable

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Runtime

log = logging.getLogger("ojs.store")

_LOG_PAUSE_S: Final = 60.0
"""Time in seconds between two warnings about jobs of one type."""


class StoredSchema:
    """A schema with its document, which is compiled when it is first used.

    Args:
        record: the record of the index.
        document: the JSON of the schema.
    """

    def __init__(self, record: SchemaRecord, document: bytes) -> None:
        self.record = record
        self.document = document
        self.version = record.parsed_version
        self.digest = digest_of(document)
        self._compiled: CompiledSchema | SchemaRefused | None = None

    @property
    def name(self) -> str:
        """The name for messages, such as ``email.send@2``."""
        return f"{self.record.type}@{self.record.version}"

    @property
    def is_compiled(self) -> bool:
        """Whether the schema has been compiled, or cannot be compiled."""
        return self._compiled is not None

    def compile(self) -> None:
        """Compile the schema, unless another call has done it while this one waited.

        It takes up to 0.1 s in a few calls, each of which blocks the interpreter for up to 40 ms.
        """
        if self._compiled is not None:
            return
        try:
            self._compiled = CompiledSchema(self.document)
        except SchemaRefused as error:  # another release of this server has accepted it
            log.error("the schema %s cannot be used: %s", self.name, error.message)  # noqa: TRY400
            self._compiled = error

    def check_here(self, args: bytes, *, explain: bool) -> list[Problem] | None:
        """Return why args do not match, as ``CompiledSchema.check_here``."""
        if self._compiled is None:
            self.compile()
        if isinstance(self._compiled, CompiledSchema):
            return self._compiled.check_here(args, explain=explain)
        return [Problem("/args", f"the stored schema cannot be used: {self._compiled}")]


class TypeSchemas:
    """The schemas of one job type.

    Args:
        schemas: the schemas, newest version first.
        policy: how the type is validated.
    """

    def __init__(self, schemas: list[StoredSchema], policy: TypePolicy) -> None:
        self.schemas = schemas
        self.policy = policy
        self._by_version = {each.version.key: each for each in schemas}
        self._by_uri = {each.record.uri: each for each in schemas}
        self._next_log = float("-inf")

    def choose(self, version: str | None, uri: str | None) -> StoredSchema | None:
        """Return the schema for a job.

        A job without a version has the latest one (spec: ojs-schema-registry 6.2). None if no
        schema is registered for the version of the job.
        """
        if uri is not None and uri in self._by_uri:
            return self._by_uri[uri]
        if version is None:
            return self.schemas[0]
        parsed = SchemaVersion.find(version)
        return None if parsed is None else self._by_version.get(parsed.key)

    def may_log(self) -> bool:
        """Return whether a job of this type may be logged, which is once per minute."""
        now = time.monotonic()
        if now < self._next_log:
            return False
        self._next_log = now + _LOG_PAUSE_S
        return True


@dataclass(frozen=True, slots=True)
class _Schemas:
    """All schemas at one time: the index, the schemas by its fields, and the mode of types."""

    index: SchemaIndex
    by_field: dict[str, StoredSchema]
    default_mode: str

    @property
    def version(self) -> bytes:
        return self.index.version


class SchemaTable:
    """This process's copy of the schemas of job args."""

    def __init__(self) -> None:
        """Start with an empty copy; ``start`` or ``run`` reads the schemas."""
        self._schemas: dict[str, StoredSchema] = {}
        self._copy = VersionedTable(
            *("schemas of job args", self._read_changed, self._replace),
            channel=Meta().job_schema_channel,
        )
        self.run = self._copy.run
        self.read = self._copy.read
        self.try_read = self._copy.try_read
        self.process = ValidationProcess()
        self.suspects = SuspectSchemas()
        self.validates_here = True
        """Whether cheap validations run in this process, and not in its child."""
        self.index = SchemaIndex()
        self.types: dict[str, TypeSchemas] = {}
        """All job types with a schema."""
        self.validated: dict[str, TypeSchemas] = {}
        """The job types whose args are validated."""

    async def start(self, store: Runtime, nursery: trio.Nursery) -> None:
        """Read the schemas, then keep the copy current (``VersionedTable.start``)."""
        await self._copy.start(store, nursery, "this process validates no job")

    async def _read_changed(self, store: Runtime, version: bytes) -> _Schemas | None:
        """Return the schemas, or None if ``version`` is theirs. Read documents not in the copy."""
        index = await read_changed(store, version)
        if index is None:
            return None
        known = self._schemas
        kept = {
            name: known[name]
            for name, record in index.records.items()
            if name in known and known[name].record == record
        }
        missing = [record for name, record in index.records.items() if name not in kept]
        for name, document in (await read_documents(store, missing)).items():
            kept[name] = StoredSchema(index.records[name], document)
        return _Schemas(index, kept, store.settings.schema_mode)

    def _replace(self, found: _Schemas) -> None:
        index = found.index
        by_type: dict[str, list[StoredSchema]] = {}
        for schema in found.by_field.values():
            by_type.setdefault(schema.record.type, []).append(schema)
        types = {
            job_type: TypeSchemas(
                sorted(schemas, key=lambda each: each.version.place, reverse=True),
                index.policies.get(job_type, TypePolicy()),
            )
            for job_type, schemas in by_type.items()
        }
        self.index, self._schemas, self.types = index, found.by_field, types
        self.validated = {
            job_type: schemas
            for job_type, schemas in types.items()
            if (schemas.policy.mode or found.default_mode) != "off"
        }

    def find(self, field: str) -> StoredSchema | None:
        """Return the schema with this field of the index."""
        return self._schemas.get(field)

    def with_uri(self, uri: str) -> StoredSchema | None:
        """Return the schema with this URI."""
        return self._schemas.get(self.index.uris.get(uri, ""))

    def suspect_names(self) -> list[str]:
        """Return the names of the schemas that no process of this node may validate with."""
        return [each.name for each in self.all() if each.digest in self.suspects]

    def all(self) -> list[StoredSchema]:
        """Return all schemas by type, newest version first."""
        return [each for _, found in sorted(self.types.items()) for each in found.schemas]
