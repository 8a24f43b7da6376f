"""An operator removes the record of a worker that is silent; its jobs become available."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs import read_jobs as jobs
from ojs_cluster.store.workers import workers
from ojs_cluster.store.workers.deregister import deregister
from ojs_cluster.store.workers.heartbeat import Heartbeat, heartbeat
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
