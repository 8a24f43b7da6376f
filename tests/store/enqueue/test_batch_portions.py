"""Large batches of one shard: all or none, although no script stores more than one portion."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import BackendUnavailable, Duplicate
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.batch_attempt import BatchAttempt
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.open import open_store
from tests.store.enqueue.test_batch import Away
from tests.store.shortcuts import HOUR, home_id, new_job, shard_of, take
from tests.store.unique_jobs import assert_nothing_left, recover
from tests.support.budget import budget
from tests.support.invariants import InvariantReport
from tests.support.patience import patient_client

LARGE = b'"args":["%b"]' % (b"x" * 1_000_000)


@pytest.fixture
async def in_portions(backend: Embedded) -> AsyncIterator[Store]:
    """A store whose scripts fail when they do more work than two portions need."""
    prelude = budget(commands=3000, bytes_=4 * 1024 * 1024)
    async with open_store(patient_client(backend), prelude=prelude) as opened:
        yield opened


@pytest.mark.parametrize("options", [{}, {"scheduled_at": "+PT1H"}, {"expires_at": "+PT1H"}])
async def test_many_new_jobs_of_one_shard_are_written_in_portions(
    in_portions: Store, options: dict[str, str]
) -> None:
    batch = [new_job(**options) for _ in range(2000)]

    stored = await enqueue_many(in_portions, batch)

    assert len({job.id for job in stored}) == len(batch)
    if "scheduled_at" not in options:
        taken: list[JobRecord] = []
        while len(taken) < len(batch):
            taken += await take(in_portions, count=100)
        assert [job.id for job in taken] == [job.id for job in stored]


async def test_large_new_jobs_of_one_shard_are_written_in_portions(
    in_portions: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    batch = [parse_job(b'{"type":"t",%b,"options":{"queue":"mail"}}' % LARGE) for _ in range(12)]

    stored = await enqueue_many(in_portions, batch)

    assert consistent().count() == {"available": len(batch)}
    assert (await read_jobs.get(in_portions, stored[-1].id)).json() == stored[-1].json()
    assert_nothing_left(in_portions, db)


@pytest.mark.parametrize("kind", ["ids", "unique"])
async def test_many_ids_and_locks_of_one_batch_are_claimed_in_portions(
    in_portions: Store, consistent: Callable[[], InvariantReport], kind: str
) -> None:
    def job(number: int) -> NewJob:
        if kind == "ids":
            return new_job(id=home_id(in_portions))
        return new_job(type=f"t{number}", unique={})

    many = 2500 if kind == "ids" else 1200
    stored = await enqueue_many(in_portions, [job(number) for number in range(many)])

    assert consistent().count() == {"available": many}
    again = new_job(id=stored[-1].id) if kind == "ids" else job(many - 1)
    more = [new_job(id=home_id(in_portions)) for _ in range(many)]
    with pytest.raises(Duplicate) as refusal:
        await enqueue_many(in_portions, [*more, again])
    assert refusal.value.details["index"] == many
    assert consistent().count() == {"available": many}


async def test_an_aborted_large_batch_leaves_no_record(
    in_portions: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    body = b'{"type":"t",%b,"options":{"queue":"mail"},"id":"%b"}'
    wanted = [parse_job(body % (LARGE, home_id(in_portions).encode())) for _ in range(5)]
    for late in (False, True):
        attempt = BatchAttempt(in_portions, wanted)
        await attempt.reserve()
        transaction = attempt.transaction()
        if not late:
            assert not await transactions.resolve(in_portions, transaction.id)
        assert (
            await transactions.commit(
                in_portions, transaction, 1 if late else attempt.commit_before_ms
            )
            is None
        )
        await attempt.release()
        home = in_portions.keys.shard_of_id(transaction.id)
        assert set(db.hkeys(home.transaction(transaction.id))) == {b"aborted"}
        consistent()
    await recover(in_portions, db, HOUR)
    assert_nothing_left(in_portions, db)


async def _die(*_: Any) -> None:
    """A process that has died removes nothing."""


async def test_a_large_record_of_a_dead_process_is_removed(
    in_portions: Store,
    db: Any,
    consistent: Callable[[], InvariantReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = [parse_job(b'{"type":"t",%b,"options":{"queue":"mail"}}' % LARGE) for _ in range(5)]
    attempt = BatchAttempt(in_portions, wanted)
    transaction = attempt.transaction()
    home = shard_of(in_portions)
    for dies in (False, True):
        if dies:
            monkeypatch.setattr(transactions, "_abort_unless_committed", _die)
        transaction = dataclasses.replace(transaction, id=home_id(in_portions))
        with pytest.raises(BackendUnavailable):
            await transactions.commit(Away(in_portions, "transaction_commit").store, transaction, 0)
        assert (db.hlen(home.transaction(transaction.id)) > 1) is dies
    consistent()

    await recover(in_portions, db, HOUR)

    assert_nothing_left(in_portions, db)
    consistent()
