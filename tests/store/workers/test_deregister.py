"""The record of a worker is removed when it has terminated, or by an operator when it is silent."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs as jobs
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.deregister import deregister, deregister_terminated
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from tests.store.shortcuts import HOUR, active, shard_of
from tests.support.timeshift import age_job, age_worker


async def test_a_silent_worker_is_removed_and_its_jobs_are_recovered(store: Store, db: Any) -> None:
    job = await active(store, worker="quiet-one")
    home = store.keys.shard_of_worker("quiet-one")
    await heartbeat(store, Heartbeat("quiet-one", [job.id]))
    with pytest.raises(Conflict, match="seen"):
        await deregister(store, "quiet-one")
    age_worker(db, home, "quiet-one", HOUR)
    age_job(db, shard_of(store), job.id, HOUR)

    await deregister(store, "quiet-one")

    with pytest.raises(NotFound):
        await workers.get(store, "quiet-one")
    with pytest.raises(NotFound):
        await deregister(store, "quiet-one")
    [dead], _, _ = await workers.find_dead(store, home, 10)
    assert dead.id == "quiet-one"
    await workers.recover(store, shard_of(store), [dead])
    await workers.finish_recovery(store, home, dead)
    assert (await jobs.get(store, job.id)).state is State.AVAILABLE
    assert not db.exists(home.lost_workers)


async def test_a_worker_removes_itself_after_its_last_heartbeat(store: Store, db: Any) -> None:
    home = store.keys.shard_of_worker("w")
    with pytest.raises(NotFound):
        await deregister_terminated(store, "w")
    job = await active(store, worker="w")
    for beat in (Heartbeat("w", []), Heartbeat("w", [job.id], state="terminate")):
        await heartbeat(store, beat)
        with pytest.raises(Conflict, match="terminate"):
            await deregister_terminated(store, "w")
    age_worker(db, home, "w", HOUR)
    with pytest.raises(Conflict):  # only an operator decides about a silent worker
        await deregister_terminated(store, "w")
    await heartbeat(store, Heartbeat("w", [], state="terminate"))

    await deregister_terminated(store, "w")

    with pytest.raises(NotFound):
        await workers.get(store, "w")
    assert not db.exists(home.lost_workers)
    assert (await jobs.get(store, job.id)).state is State.ACTIVE
