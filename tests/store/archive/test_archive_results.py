"""Results of workflows that are too large for one reply of Redis or one line of a file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.commands import archive
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.workflows import read_workflows, workflows
from ojs_cluster.store.features.workflows.read_workflows import WorkflowRecord
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.archive.archive import encode, parse
from ojs_cluster.store.operators.archive.line_values import InvalidLine, ResultsLine
from tests.store.archives import emptied, export_text, import_text
from tests.store.shortcuts import DAY, id_in, take
from tests.store.workflow_jobs import batch, parents, run_one, state_of, step
from tests.support.invariants import check_invariants
from tests.support.prelude import PRELUDE
from tests.support.servers import all_keys, observer

RESULT = 20_000
"""Bytes of one result. Six results are larger than a reply or a line may be in these tests."""
REPLY = LINE = 64 * 1024
PORTION = 30_000


@asynccontextmanager
async def small_replies(backend: Embedded) -> AsyncIterator[Store]:
    """A store whose client refuses a reply that is larger than ``REPLY``."""
    settings = ClientSettings.from_url(backend.url, max_reply_bytes=REPLY)
    async with open_store(settings, prelude=PRELUDE) as store:
        yield store


async def six_large_results(store: Store) -> WorkflowRecord:
    """Return a workflow whose remaining callback needs six large results."""
    jobs = [step(f"s{number}", "parts") for number in range(7)]
    made = await batch(store, jobs, on_complete=step("after", "callbacks"))
    for number in range(6):
        await run_one(store, "parts", result=result_of(number))
    return made


def result_of(number: int) -> str:
    return str(number) * RESULT


def kinds(text: bytes) -> list[str]:
    return [line[2 : line.index(b":") - 1].decode() for line in text.splitlines()]


@pytest.fixture(autouse=True)
def short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_LINE_BYTES", LINE)


async def test_results_larger_than_a_reply_are_restored(backend: Embedded, store: Store) -> None:
    made = await six_large_results(store)
    async with small_replies(backend) as small:
        text = await export_text(small, portion_bytes=PORTION)

    assert max(len(line) for line in text.splitlines()) < LINE
    assert [kind for kind in kinds(text) if kind in ("results", "workflow")] == [
        *["results"] * 5,
        "workflow",
    ]
    async with emptied(backend) as target:
        tally, messages = await import_text(target, text)
        again, _ = await import_text(target, text)
        assert (messages, tally.refused, tally.complete) == ([], 0, True)
        assert (tally.created["parts of results"], again.created.total()) == (5, 0)
        await run_one(target, "parts", result="last")
        [callback] = await take(target, "callbacks")
        assert parents(callback) == [*map(result_of, range(6)), "last"]
        assert (await read_workflows.get(target, made.id)).state == "running"
    assert check_invariants(backend).problems == []


async def test_a_line_holds_as_many_results_as_fit(store: Store) -> None:
    await six_large_results(store)

    text = await export_text(store, portion_bytes=3 * RESULT)
    assert kinds(text).count("results") == 2
    assert kinds(await export_text(store)).count("results") == 0
    with trio.fail_after(60):  # a result larger than a portion is one by itself
        assert kinds(await export_text(store, portion_bytes=1)).count("results") == 5


async def test_an_import_that_ends_between_results_and_workflow_can_be_repeated(
    backend: Embedded, store: Store
) -> None:
    made = await six_large_results(store)
    text = await export_text(store, portion_bytes=PORTION)
    lines = text.splitlines(keepends=True)
    first = b"".join(line for line in lines if not line.startswith(b'{"workflow'))
    async with emptied(backend) as target:
        await import_text(target, first)
        await import_text(target, text)
        pass_a_day(backend, target, made.id)
        await workflows.purge_ended(target, target.keys.shard_of_id(made.id), 10)

        await run_one(target, "parts", result="last")
        [callback] = await take(target, "callbacks")
        assert parents(callback) == [*map(result_of, range(6)), "last"]


async def test_results_without_a_workflow_are_removed(backend: Embedded, store: Store) -> None:
    made = await six_large_results(store)
    lines = (await export_text(store, portion_bytes=PORTION)).splitlines(keepends=True)
    async with emptied(backend) as target:
        await import_text(target, lines[0] + b"".join(_of(lines, "results")))
        shard = target.keys.shard_of_id(made.id)
        assert (await workflows.purge_ended(target, shard, 10)).done == 0
        assert [key for key in all_keys(backend) if made.id.encode() in key]

        pass_a_day(backend, target, made.id)
        assert (await workflows.purge_ended(target, shard, 10)).done == 1
        assert not [key for key in all_keys(backend) if made.id.encode() in key]


async def test_results_do_not_change_an_existing_workflow(store: Store) -> None:
    made = await six_large_results(store)
    head, *rest = (await export_text(store, portion_bytes=PORTION)).splitlines(keepends=True)
    changed = [line.replace(b'"0000', b'"1111') for line in _of(rest, "results")]

    tally, _ = await import_text(store, head + b"".join(changed))

    assert (tally.existing["parts of results"], tally.created.total()) == (5, 0)
    again = (await export_text(store, portion_bytes=PORTION)).splitlines(keepends=True)
    assert _of(again, "results") == _of(rest, "results") != changed
    assert await state_of(store, made.id) == "running"


def _of(lines: list[bytes], kind: str) -> list[bytes]:
    return [line for line in lines if line.startswith(b'{"%b"' % kind.encode())]


def pass_a_day(backend: Embedded, store: Store, workflow_id: str) -> None:
    """Move the deadlines of waiting results and ended workflows one day into the past."""
    with observer(backend) as db:
        index = store.keys.shard_of_id(workflow_id).ended_workflows
        if db.zscore(index, workflow_id) is not None:
            db.zincrby(index, -DAY, workflow_id)


def test_a_results_line_survives_encoding_and_parsing() -> None:
    line = ResultsLine(id_in(1), {0: b"1.0", 12: b'{"a":"\\n"}'})
    assert parse(encode(line)) == line


@pytest.mark.parametrize(
    "members",
    [
        b"{}",
        b'{"workflow_id":"w","results":{}}',
        b'{"workflow_id":"019461a8-1a2b-7003-8e4f-000000000001","results":{"x":1}}',
        b'{"workflow_id":"019461a8-1a2b-7003-8e4f-000000000001","results":{"-1":1}}',
        b'{"workflow_id":"019461a8-1a2b-7003-8e4f-000000000001","results":{"\\u0663":1}}',
        b'{"workflow_id":"019461a8-1a2b-7003-8e4f-000000000001","results":{"99999":1}}',
    ],
)
def test_an_invalid_results_line_is_refused(members: bytes) -> None:
    with pytest.raises(InvalidLine):
        parse(b'{"results":%b}' % members)
