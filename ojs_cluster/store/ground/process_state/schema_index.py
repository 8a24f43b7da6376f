"""The index of all schemas: one hash under the meta tag, and their documents in another.

The fields of the index are ``<type>@<version>`` for a schema, ``<type>`` for how a type is
validated, ``U:<uri>`` for the schema with a URI, ``=`` for the size of all documents, and ``#`` for
the version of the index. All spellings of a version share one field.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ojs_cluster.core.schemas.compatibility import Compatibility
from ojs_cluster.core.schemas.versions import SchemaVersion
from ojs_cluster.keys import Meta
from ojs_cluster.store.ground.runtime import Runtime
from ojs_cluster.store.ground.versioned_table import VersionedHash

log = logging.getLogger("ojs.store")

TOTAL_BYTES: Final = "="
URI: Final = "U:"
_DOCUMENT_BYTES: Final = 512 * 1024
"""Documents that one call reads, in bytes."""


class SchemaRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the index holds about a schema.

    Args:
        type: the job type.
        version: the version as the client spelled it.
        uri: the URI of the schema.
        size: the size of the document in bytes.
        created_ms: Unix time in ms of the registration.
    """

    type: str
    version: str
    uri: str
    size: int
    created_ms: int

    @property
    def parsed_version(self) -> SchemaVersion:
        """The version as versions are compared."""
        return SchemaVersion.parse(self.version)

    @property
    def field(self) -> str:
        """The field of this record in the index, and of its document."""
        return field_of(self.type, self.parsed_version)


class TypePolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the args of a job type are validated.

    Args:
        mode: ``strict``, ``warn`` or ``off``; '' for ``OJS_SCHEMA_MODE``.
        compatibility: which changes a version below the next major version may make.
    """

    mode: str = ""
    compatibility: Compatibility = "backward"


def field_of(job_type: str, version: SchemaVersion) -> str:
    """Return the field of a schema in the index."""
    return f"{job_type}@{version.key}"


@dataclass(frozen=True, slots=True)
class SchemaIndex:
    """The index at one time.

    Attributes:
        now_ms: Unix time in ms, by the clock of Redis.
        version: version of the index; empty before the first schema.
        total_bytes: the size of all documents.
        records: the schemas by the field of the index.
        policies: how types are validated, for those that have their own policy.
        uris: the field of the schema with each URI.
    """

    now_ms: int = 0
    version: bytes = b""
    total_bytes: int = 0
    records: dict[str, SchemaRecord] = field(default_factory=dict)
    policies: dict[str, TypePolicy] = field(default_factory=dict)
    uris: dict[str, str] = field(default_factory=dict)

    def of_type(self, job_type: str) -> list[SchemaRecord]:
        """Return the schemas of a type, newest version first."""
        found = [each for each in self.records.values() if each.type == job_type]
        return sorted(found, key=lambda each: each.parsed_version.place, reverse=True)


_decode_record: Final = msgspec.json.Decoder(SchemaRecord).decode
_decode_policy: Final = msgspec.json.Decoder(TypePolicy).decode
encode: Final = msgspec.json.encode
_FIELDS: Final = VersionedHash("schema", Meta().job_schemas, bytes)


async def read_changed(store: Runtime, known: bytes) -> SchemaIndex | None:
    """Return the index, or None if ``known`` is its version.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found = await _FIELDS.read_changed(store, known)
    if found is None:
        return None
    now_ms, version = found.now_ms, found.version
    index = SchemaIndex(now_ms, version)
    total_bytes = 0
    for name, value in found.stored.items():
        try:
            if name == TOTAL_BYTES:
                total_bytes = int(value)
            elif name.startswith(URI):
                index.uris[name.removeprefix(URI)] = value.decode()
            elif "@" in name:
                record = _decode_record(value)
                if record.field == name:
                    index.records[name] = record
            else:
                index.policies[name] = _decode_policy(value)
        except ValueError as error:  # also msgspec.DecodeError
            log.warning("the schema index has a damaged field %s: %s", name[:300], error)
    return SchemaIndex(now_ms, version, total_bytes, index.records, index.policies, index.uris)


async def read_documents(store: Runtime, records: Sequence[SchemaRecord]) -> dict[str, bytes]:
    """Return the documents of schemas, by field. A missing document is left out.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    found: dict[str, bytes] = {}
    waiting = list(records)
    while waiting:
        portion: list[SchemaRecord] = []
        size = 0
        while waiting and (not portion or size + waiting[-1].size <= _DOCUMENT_BYTES):
            portion.append(waiting.pop())
            size += portion[-1].size
        fields = [each.field for each in portion]
        values: Any = await store.redis.call(
            meta.slot, "HMGET", meta.job_schema_documents, *fields, idempotent=True
        )
        found.update(
            {name: value for name, value in zip(fields, values, strict=True) if value is not None}
        )
    return found
