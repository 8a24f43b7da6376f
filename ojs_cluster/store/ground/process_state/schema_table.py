"""This process's copy of the schemas of job args.

An enqueue looks up the type of its job in ``validated``. Without a schema, this is all it costs. A
schema is compiled when the first job needs it. A change on another process takes effect here when
its message arrives, or within two seconds (``watched_copy``).
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.core.errors import SchemaRefused
from ojs_cluster.core.schemas.compiled import CompiledSchema, Problem
from ojs_cluster.core.schemas.versions import SchemaVersion
from ojs_cluster.store.ground.process_state.schema_index import (
    SchemaIndex,
    SchemaRecord,
    TypePolicy,
    read_changed,
    read_documents,
)
from ojs_cluster.store.ground.process_state.suspect_schemas import SuspectSchemas, digest_of
from ojs_cluster.store.ground.process_state.validation_process import ValidationProcess
from ojs_cluster.store.ground.watched_copy import WatchedCopy

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Runtime

log = logging.getLogger("ojs.store")

FIRST_READ_S: Final = 10.0
"""Maximum time in seconds for which a process waits for its first read: a failover is over then."""
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


class SchemaTable:
    """This process's copy of the schemas of job args."""

    def __init__(self) -> None:
        """Start with an empty copy; ``start`` or ``run`` reads the schemas."""
        self._schemas: dict[str, StoredSchema] = {}
        self._read_began = float("-inf")
        self._copy = WatchedCopy(
            "schemas of job args", lambda store: store.keys.meta.job_schema_channel, self.read
        )
        self.run = self._copy.run
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
        """Read the schemas, then keep the copy current in ``nursery``.

        It returns after ``FIRST_READ_S`` at the latest. Without a copy, the process validates no
        job until it can read the schemas.
        """
        if not await self._copy.first_read(store, FIRST_READ_S):
            log.warning(
                "cannot read the schemas of job args: until the master of the meta tag answers, "
                "this process validates no job"
            )
        nursery.start_soon(self.run, store)

    async def read(self, store: Runtime) -> None:
        """Read the schemas now, if they have changed.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        began = trio.current_time()
        index = await read_changed(store, self.index.version)
        if index is None:
            return
        known = self._schemas
        kept = {
            name: known[name]
            for name, record in index.records.items()
            if name in known and known[name].record == record
        }
        missing = [record for name, record in index.records.items() if name not in kept]
        documents = await read_documents(store, missing)
        if began < self._read_began:
            return  # a read that began later is already done
        self._read_began = began
        for name, document in documents.items():
            kept[name] = StoredSchema(index.records[name], document)
        self._replace(store, index, kept)

    def _replace(
        self, store: Runtime, index: SchemaIndex, schemas: dict[str, StoredSchema]
    ) -> None:
        by_type: dict[str, list[StoredSchema]] = {}
        for schema in schemas.values():
            by_type.setdefault(schema.record.type, []).append(schema)
        types = {
            job_type: TypeSchemas(
                sorted(found, key=lambda each: each.version.place, reverse=True),
                index.policies.get(job_type, TypePolicy()),
            )
            for job_type, found in by_type.items()
        }
        default = store.settings.schema_mode
        self.index, self._schemas, self.types = index, schemas, types
        self.validated = {
            job_type: found
            for job_type, found in types.items()
            if (found.policy.mode or default) != "off"
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
