"""A handler may choose when its job runs again, and whether the attempt counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from tests.store.shortcuts import HOUR, active, envelope, failure, nack
from tests.support.invariants import InvariantReport

MINUTE = 60_000
SNOOZE = {"action": "SNOOZE", "retry_delay_ms": 5 * MINUTE}


async def test_a_retry_waits_as_long_as_the_error_says(store: Store) -> None:
    job = await active(store)
    failed = await nack(store, job, {"message": "busy", "retry_delay_ms": HOUR})
    assert (failed.state, failed.retry_delay_ms, failed.attempt) == (State.RETRYABLE, HOUR, 1)
    assert [error["retry_delay_ms"] for error in envelope(failed)["errors"]] == [HOUR]


async def test_a_chosen_delay_adds_no_attempt(store: Store) -> None:
    job = await active(store, max_attempts=1)
    failed = await nack(store, job, {"message": "busy", "retry_delay_ms": HOUR})
    assert failed.state is State.DISCARDED


@pytest.mark.parametrize("many", [False, True])
async def test_a_snooze_counts_no_attempt_and_records_no_error(
    store: Store, consistent: Callable[[], InvariantReport], many: bool
) -> None:
    job = await active(store, max_attempts=1)
    if many:
        asked = Nack(job.id, job.lease_id, failure(SNOOZE), requeue=False)
        await nack_many(store, [asked], worker_id=None)
    # A repeated nack of the same lease gets the same job.
    snoozed = await nack(store, job, SNOOZE, lease_id=job.lease_id)
    assert (snoozed.state, snoozed.attempt) == (State.RETRYABLE, 0)
    assert snoozed.retry_delay_ms == 5 * MINUTE
    assert "errors" not in envelope(snoozed)
    consistent()
