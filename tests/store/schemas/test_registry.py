"""The registry of schemas in Redis, and the copies of the processes."""

from __future__ import annotations

from dataclasses import replace as settings_with
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from ojs_cluster.core.errors import ArgsRefused, Duplicate, InvalidRequest, NotFound
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.schemas.compiled import CompiledSchema
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import args_validation as validation
from ojs_cluster.store.engine.args_validation import check_args, check_each
from ojs_cluster.store.features.schemas import registry
from ojs_cluster.store.ground.process_state import schema_index, schema_table
from ojs_cluster.store.ground.process_state.schema_table import StoredSchema
from tests.scheduler.running import eventually
from tests.store.registered_schemas import delete, register
from tests.support.failing_process import MODES, Died, FailingClient, Mode, process_of

STRINGS = {"items": {"type": "string"}}


def job(args: bytes = b"[1]", job_type: str = "t") -> NewJob:
    return parse_job(b'{"type":"%b","args":%b}' % (job_type.encode(), args))


def limited(store: Store, **settings: Any) -> Store:
    return settings_with(store, settings=settings_with(store.settings, **settings))


async def test_another_process_learns_of_a_schema(store: Store, other_store: Store) -> None:
    async with trio.open_nursery() as nursery:
        await other_store.schemas.start(other_store, nursery)
        await register(store, schema=STRINGS)
        await eventually(lambda: "t" in other_store.schemas.validated)
        assert len(await check_args(other_store, job())) == 1
        await registry.set_policy(store, "t", lambda old: replace(old, mode="off"))
        await eventually(lambda: "t" not in other_store.schemas.validated)
        await delete(store)
        await eventually(lambda: not other_store.schemas.types)
        nursery.cancel_scope.cancel()


async def test_a_schema_is_compiled_once_however_often_others_change(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilations: list[str] = []
    compile_schema = StoredSchema.compile

    def counted(schema: StoredSchema) -> None:
        compilations.append(schema.name)
        compile_schema(schema)

    monkeypatch.setattr(StoredSchema, "compile", counted)
    await register(store, schema=STRINGS)
    for version in ("2", "3"):
        await store.schemas.read(store)
        await check_args(store, replace(job(), body=b'"args":[1],"version":1'))
        await register(store, version=version)
    assert compilations == ["t@1"]


async def test_a_job_without_a_schema_is_not_looked_into(store: Store) -> None:
    await register(store, "other", schema=False)
    await store.schemas.read(store)
    unreadable = replace(job(), body=b"not JSON")
    assert await check_args(store, unreadable) == []
    assert await check_each(store, [unreadable]) == ([unreadable], [])


async def test_jobs_that_wait_for_a_schema_compile_it_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilations: list[bytes] = []

    def counted(raw: bytes) -> CompiledSchema:
        compilations.append(raw)
        return CompiledSchema(raw)

    await register(store, schema=STRINGS)
    await store.schemas.read(store)
    monkeypatch.setattr(schema_table, "CompiledSchema", counted)
    monkeypatch.setattr(StoredSchema, "check_here", lambda *_, explain: [])
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(check_args, store, job())
    assert len(compilations) == 1


async def test_other_tasks_run_while_the_steps_of_a_workflow_are_checked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(store, schema=STRINGS)
    await store.schemas.read(store)
    await check_args(store, job())  # compiles the schema
    steps = b",".join([b'{"type":"t","args":["a"]}'] * 20)
    workflow = parse_workflow(b'{"type":"group","jobs":[%b]}' % steps)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(validation, "_PAUSE_S", -1.0)
    monkeypatch.setattr(validation, "check_all", _nothing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await validation.check_workflow(store, workflow)
        nursery.cancel_scope.cancel()
    assert turns >= 10, "the other task may start late, and runs once without the pauses"


async def _nothing(*_: object, **__: object) -> list[str]:
    return []


async def test_of_two_registrations_of_one_version_one_wins(
    store: Store, other_store: Store
) -> None:
    outcomes: list[object] = []

    async def try_to_register(own: Store, uri: str) -> None:
        try:
            outcomes.append((await register(own, uri=uri)).uri)
        except Duplicate as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        for own, uri in ((store, "a"), (other_store, "b")):
            nursery.start_soon(try_to_register, own, uri)
    won = [each for each in outcomes if isinstance(each, str)]
    assert len(won) == 1
    await store.schemas.read(store)
    assert [each.record.uri for each in store.schemas.all()] == won
    assert set(store.schemas.index.uris) == set(won)


async def test_the_number_and_the_size_of_schemas_are_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "MAX_VERSIONS", 2)
    for version in ("1", "2"):
        await register(store, version=version)
    with pytest.raises(InvalidRequest, match="versions"):
        await register(store, version="3")
    with pytest.raises(InvalidRequest, match="at most 2 schemas"):
        await register(limited(store, max_schemas=2), "u")
    with pytest.raises(InvalidRequest, match="bytes"):
        await register(limited(store, schemas_max_bytes=9), "u")
    await delete(store, version="2")
    await register(limited(store, schemas_max_bytes=9), "u")


async def test_documents_are_read_in_portions(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_index, "_DOCUMENT_BYTES", 50)
    for number in range(7):
        await register(store, f"t{number}", schema={"description": "x" * number * 10})
    await store.schemas.read(store)
    documents = {each.record.type: len(each.document) for each in store.schemas.all()}
    assert documents == {f"t{number}": 19 + number * 10 for number in range(7)}


async def test_a_damaged_record_is_left_out(store: Store, db: Any) -> None:
    await register(store, "a")
    await register(store, "b")
    db.hset(store.keys.meta.job_schemas, "a@1.0.0", "{")
    db.hset(store.keys.meta.job_schemas, "c@1.0.0", '{"type":"x","version":"1"}')
    db.hset(store.keys.meta.job_schemas, "#", 1)
    await store.schemas.read(store)
    assert list(store.schemas.types) == ["b"]


async def test_a_stored_schema_that_cannot_be_compiled_refuses_strict_jobs(
    store: Store, db: Any
) -> None:
    await register(store)
    await registry.set_policy(store, "t", lambda old: replace(old, mode="strict"))
    db.hset(store.keys.meta.job_schema_documents, "t@1.0.0", '{"type":5}')
    await store.schemas.read(store)
    with pytest.raises(ArgsRefused, match="cannot be used"):
        await check_args(store, job())


@pytest.mark.parametrize("mode", MODES)
async def test_a_registration_is_whole_whenever_its_process_dies(store: Store, mode: Mode) -> None:
    for at in range(1, 4):
        made = None
        client = FailingClient(store.redis, at, mode)
        try:
            made = await register(process_of(store, client), f"t{at}")
        except Died:
            assert mode != "deaf"
        await store.schemas.read(store)
        stored = [each.record for each in store.schemas.all() if each.record.type == f"t{at}"]
        assert len(stored) <= 1
        assert made is None or stored == [made]
        index = store.schemas.index
        assert index.total_bytes == sum(each.size for each in index.records.values())
        assert set(index.uris.values()) == set(index.records)
        client = FailingClient(store.redis, at, mode)
        try:
            await delete(process_of(store, client), f"t{at}")
        except Died:
            assert mode != "deaf"
        except NotFound:
            assert not stored
        await store.schemas.read(store)
        index = store.schemas.index
        assert index.total_bytes == sum(each.size for each in index.records.values())
        assert set(index.uris.values()) == set(index.records)


async def test_an_absent_schema_cannot_be_deleted_or_configured(store: Store) -> None:
    with pytest.raises(NotFound):
        await delete(store)
    with pytest.raises(NotFound):
        await registry.set_policy(store, "t", lambda old: old)
