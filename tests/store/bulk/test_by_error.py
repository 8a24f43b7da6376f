"""Bulk operations on the jobs of a group of errors."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.bulk import choosing, execution
from ojs_cluster.store.features.bulk_records.operation import BulkState
from ojs_cluster.store.features.error_groups.error_groups import read_error_groups
from tests.store.bulk.test_bulk import WAITING, begin, carry_out
from tests.store.shortcuts import (
    HOUR,
    active,
    foreign_id,
    nack,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.support.timeshift import age_job

HOST = {"type": "SmtpError", "message": "no host 10.0.0.7"}


async def fail(store: Store, queue: str, error: dict[str, Any], **options: Any) -> JobRecord:
    job = await active(store, queue, **options)
    await nack(store, job, error)
    return job


async def state_of(store: Store, job: JobRecord) -> State:
    return (await read_jobs.get(store, job.id)).state


async def test_the_discarded_jobs_of_a_group_are_retried(store: Store) -> None:
    once = {"max_attempts": 1}
    first, second = queues_in_other_shards(store, 2)
    wanted = [
        await fail(store, first, HOST, retry=once),
        await fail(store, second, {**HOST, "message": "no host 10.0.0.99"}, retry=once),
        await fail(store, second, HOST, retry=once, id=foreign_id(store, second)),
    ]
    others = [
        await fail(store, first, {**HOST, "type": "TlsError"}, retry=once),
        await fail(store, first, {**HOST, "message": "no answer"}, retry=once),
    ]
    await put(store, first)
    group = next(
        found
        for found in await read_error_groups(store)
        if (found.type, found.count) == ("SmtpError", 3)
    )
    given = {"error_type": group.type, "error_message": group.message}

    counted = await begin(store, BulkAction.RETRY, State.DISCARDED, dry_run=True, **given)
    counted = await carry_out(store, counted)
    done = await carry_out(store, await begin(store, BulkAction.RETRY, State.DISCARDED, **given))
    by_ids = await begin(
        store,
        *(BulkAction.RETRY, State.DISCARDED),
        ids=[job.id for job in [*wanted, *others]],
        error_type="TlsError",
    )
    by_ids = await carry_out(store, by_ids)

    assert (counted.examined, counted.matched, counted.succeeded) == (5, 3, 0)
    assert (done.state, done.matched, done.succeeded) == (BulkState.COMPLETED, 3, 3)
    assert (by_ids.matched, by_ids.succeeded) == (1, 1)
    assert [await state_of(store, job) for job in wanted] == [State.AVAILABLE] * 3
    assert [await state_of(store, job) for job in others] == [State.AVAILABLE, State.DISCARDED]


async def test_the_waiting_jobs_of_a_type_of_errors_are_discarded(store: Store, db: Any) -> None:
    waiting = [await fail(store, "mail", {**HOST, "message": text}) for text in ("a", "b")]
    other = await fail(store, "mail", {"type": "TlsError", "message": "a"})
    later = await fail(store, "mail", HOST)
    age_job(db, shard_of(store, "mail"), later.id, HOUR)  # its retry is due
    [again] = await take(store, "mail")
    assert again.id == later.id
    await nack(store, again, {"type": "TlsError", "message": "a"})

    operation = await begin(store, BulkAction.CANCEL, *WAITING, error_type="SmtpError")
    done = await carry_out(store, operation)

    assert (done.matched, done.succeeded) == (2, 2)
    assert [await state_of(store, job) for job in waiting] == [State.CANCELLED] * 2
    # Only the last error of a job counts.
    assert [await state_of(store, job) for job in (other, later)] == [State.RETRYABLE] * 2


async def test_an_error_of_the_server_has_the_same_group(store: Store, db: Any) -> None:
    times_out: list[dict[str, Any]] = [{"timeout_ms": 1000}, {}]
    for options in times_out:
        job = await active(store, "mail", **options)
        age_job(db, shard_of(store, "mail"), job.id, HOUR)
        await reap_all(store, "mail")
    for group in await read_error_groups(store):
        given = {"error_type": group.type, "error_message": group.message}
        operation = await begin(store, BulkAction.CANCEL, *WAITING, **given)
        assert (await carry_out(store, operation)).succeeded == 1, group
    assert {group.type for group in await read_error_groups(store)} == {
        "timeout",
        "visibility_timeout",
    }


async def test_a_slice_reads_a_bounded_number_of_bytes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "_MAX_BYTES", 1)
    for queue in queues_in_other_shards(store, 3):
        await fail(store, queue, HOST, retry={"max_attempts": 1})
    operation = await begin(store, BulkAction.RETRY, State.DISCARDED, error_type="TlsError")
    examined = []
    while not operation.ended:
        operation = await execution.advance(store, operation, 1)
        examined.append(operation.examined)
    assert operation.matched == 0
    assert sorted(set(examined)) == [1, 2, 3]
