"""Export and import of the schemas of job args."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.schemas import registry
from ojs_cluster.store.ground.process_state.schema_index import read_changed, read_documents
from ojs_cluster.store.operators.archive.archive import parse
from ojs_cluster.store.operators.archive.line_values import InvalidLine
from tests.store.archives import export_text, import_text
from tests.store.registered_schemas import register

SCHEMA: Any = {"type": "array", "items": [{"type": "string"}], "title": "ü\n"}


async def schemas(store: Store) -> dict[str, Any]:
    index = await read_changed(store, b"")
    assert index is not None
    documents = await read_documents(store, list(index.records.values()))
    return {"records": index.records, "policies": index.policies, "documents": documents}


async def test_schemas_and_their_policies_are_restored(store: Store, db: Any) -> None:
    await register(store, "a", "1", SCHEMA, "urn:own")
    await registry.set_policy(store, "a", lambda old: replace(old, mode="strict"))
    await registry.set_policy(store, "a", lambda old: replace(old, compatibility="none"))
    await register(store, "a", "1.1", {"type": "array", "maxItems": 0})  # breaks version 1
    await register(store, "b", "2.0.0-rc.1", True)
    text = await export_text(store)
    before = await schemas(store)
    db.delete(store.keys.meta.job_schemas, store.keys.meta.job_schema_documents)

    for _ in range(2):  # an import may be repeated
        counts, messages = await import_text(store, text)
        assert (counts.refused, counts.complete, messages) == (0, True, [])
        assert await schemas(store) == before
    assert sorted((await export_text(store)).splitlines()) == sorted(text.splitlines())


async def test_an_existing_schema_is_kept(store: Store, db: Any) -> None:
    await register(store, "a", "1", SCHEMA)
    await registry.set_policy(store, "a", lambda old: replace(old, mode="strict"))
    text = await export_text(store)
    db.delete(store.keys.meta.job_schemas, store.keys.meta.job_schema_documents)
    await register(store, "a", "1", False)
    before = await schemas(store)
    counts, _ = await import_text(store, text)
    assert (counts.existing["schemas"], counts.refused) == (1, 0)
    assert await schemas(store) == before


@pytest.mark.parametrize(
    "change",
    [
        {"type": "No Type"},
        {"version": "x"},
        {"uri": ""},
        {"schema": 5},
        {"mode": "loud"},
        {"compatibility": "x"},
        {"created_ms": "x"},
    ],
)
def test_a_line_that_no_export_writes_is_refused(change: dict[str, Any]) -> None:
    line = {"type": "a", "version": "1", "uri": "urn:a", "schema": True, "created_ms": 1}
    line |= {"mode": "", "compatibility": "backward"}
    parse(json.dumps({"schema": line}).encode())
    with pytest.raises(InvalidLine):
        parse(json.dumps({"schema": line | change}).encode())
