"""Every script moves a bounded number of bytes and sends few commands, whatever it meets.

Redis serves no other client while it runs.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from ojs_cluster.redis.client import Client
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.scripts import load_scripts
from ojs_cluster.store.open import open_store
from tests.store.largest_inputs import INPUTS, Inputs
from tests.store.scripts.test_one_tag import one_life_of_everything
from tests.store.shortcuts import ack, take
from tests.store.workflow_jobs import chain, parents, step
from tests.support.budget import MOST_BYTES, budget
from tests.support.largest import LARGEST_RESULT, LargestJobs
from tests.support.patience import patient_client
from tests.support.recording import Recording
from tests.support.servers import observer


@pytest.fixture
async def store(standalone: Embedded) -> AsyncIterator[Store]:
    """Scripts fail when they exceed their budget."""
    async with open_store(patient_client(standalone), prelude=budget()) as opened:
        yield opened


@pytest.fixture
def db(standalone: Embedded) -> Iterator[Any]:
    with observer(standalone) as client:
        yield client


def assert_bounded(redis: LargestJobs) -> None:
    for counts in (redis.sent, redis.returned):
        assert {name: bytes_ for name, bytes_ in counts.items() if bytes_ > MOST_BYTES} == {}


async def test_every_script_keeps_its_budget_with_the_largest_jobs(store: Store, db: Any) -> None:
    scripts = Recording(store.scripts)
    redis = LargestJobs(store.redis, db)

    await one_life_of_everything(
        replace(store, redis=cast(Client, redis), scripts=scripts),
        db,
    )

    assert_bounded(redis)
    assert scripts.used == redis.returned.keys() == set(load_scripts())


@pytest.mark.parametrize("inputs", INPUTS, ids=lambda inputs: inputs.__name__)
async def test_scripts_keep_their_budget_with_the_largest_inputs(
    store: Store, db: Any, inputs: Inputs
) -> None:
    redis = LargestJobs(store.redis, db, grows=False)

    await inputs(replace(store, redis=cast(Client, redis)), db)

    assert_bounded(redis)


async def test_a_job_is_given_the_nearest_results_as_far_as_one_result_may_be_large(
    store: Store,
) -> None:
    await chain(store, *(step(name, "large") for name in "abcd"))
    for result in (LARGEST_RESULT, LARGEST_RESULT, b'"small"'):
        [job] = await take(store, "large")
        await ack(store, job, worker_id="w1", result=result)

    [job] = await take(store, "large")

    assert parents(job) == [None, None, "small"]
    await ack(store, job, worker_id="w1", result=LARGEST_RESULT)
    assert json.loads(job.json())["type"] == "d"
