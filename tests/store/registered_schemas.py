"""Schemas for tests of the store."""

from __future__ import annotations

import json
from typing import Any

from msgspec.structs import replace

from ojs_cluster.core.schemas.versions import SchemaVersion
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.schemas import registry
from ojs_cluster.store.features.schemas.registry import NewSchema
from ojs_cluster.store.ground.process_state.schema_index import SchemaRecord, field_of


async def register(
    store: Store, job_type: str = "t", version: str = "1", schema: Any = True, uri: str = ""
) -> SchemaRecord:
    document = json.dumps(schema).encode()
    new = NewSchema(job_type, SchemaVersion.parse(version), document, uri or None)
    return await registry.register(store, new)


async def delete(store: Store, job_type: str = "t", version: str = "1") -> SchemaRecord:
    field = field_of(job_type, SchemaVersion.parse(version))
    return await registry.delete(store, lambda index: index.records.get(field), field)


async def one_life_of_a_schema(store: Store) -> None:
    """Run every script of schemas at least once."""
    await register(store)
    await registry.set_policy(store, "t", lambda old: replace(old, mode="strict"))
    await store.schemas.read(store)
    assert "t" in store.schemas.validated
    await delete(store)
    await store.schemas.read(store)
