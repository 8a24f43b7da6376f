"""Which process validates the args of a job."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
from msgspec.structs import replace

from ojs_cluster.core.errors import ArgsRefused, ValidationBusy
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.args_validation import check_args
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.ground.process_state.schema_table import StoredSchema
from ojs_cluster.store.ground.process_state.suspect_schemas import SUSPECT_S
from tests.store.registered_schemas import register
from tests.store.schemas.test_registry import STRINGS, job, limited


@pytest.fixture
async def strict(store: Store) -> Store:
    found = limited(store, schema_mode="strict")
    await register(found, schema=STRINGS)
    await found.schemas.read(found)
    return found


def fail(*_: object, **__: object) -> NoReturn:
    raise AssertionError("the process that serves clients validates")


async def test_a_suspect_schema_is_used_in_the_child_only(
    strict: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = strict.schemas
    (schema,) = table.all()
    assert SUSPECT_S == 600
    table.suspects.begin(schema.digest)
    table.suspects.blame(0)
    monkeypatch.setattr(StoredSchema, "check_here", fail)
    assert await check_args(strict, job(b'["a"]')) == []
    with pytest.raises(ArgsRefused, match="/args/0"):
        await check_args(strict, job())
    assert table.suspect_names() == ["t@1"]


async def test_a_schema_with_which_a_process_ends_while_it_compiles_becomes_suspect(
    strict: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = strict.schemas
    (schema,) = table.all()
    compile_schema = StoredSchema.compile

    def compile_with_blame(stored: StoredSchema) -> None:
        assert table.suspects.blame(0)
        compile_schema(stored)

    monkeypatch.setattr(StoredSchema, "compile", compile_with_blame)
    await check_args(strict, job(b'["a"]'))
    assert schema.digest in table.suspects


async def test_a_scheduler_validates_in_its_child_only(
    strict: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict.schemas.validates_here = False
    monkeypatch.setattr(StoredSchema, "check_here", fail)
    with pytest.raises(ArgsRefused, match="/args/0"):
        await RedisCronStore(strict).check_args(job())


async def test_a_cron_job_fires_although_its_args_cannot_be_validated_now(
    strict: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: Any, **__: Any) -> NoReturn:
        raise ValidationBusy("busy")

    strict.schemas.validates_here = False
    monkeypatch.setattr(strict.schemas.process, "check", busy)
    await RedisCronStore(strict).check_args(job())
    with pytest.raises(ValidationBusy):
        await check_args(strict, job())
    policy = strict.schemas.validated["t"].policy
    strict.schemas.validated["t"].policy = replace(policy, mode="warn")
    (warning,) = await check_args(strict, job())
    assert "busy" in warning
