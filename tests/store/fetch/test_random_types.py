"""Random operations on jobs of several types, tenants and limits keep the invariants."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes.purges import purge
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch.fetch_script import pack_types
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.change_priority import change_priority
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.limits.partition_quotas import set_limits
from ojs_cluster.store.engine.queues.fair_share import set_fair_share
from ojs_cluster.store.engine.queues.partition_maintenance import set_partitions
from ojs_cluster.store.engine.queues.pauses import pause_or_resume
from tests.store.shortcuts import QUEUE, ack, new_job, reap_all, take
from tests.store.tenants.shortcuts import job_of
from tests.support.invariants import InvariantReport

TYPES, TENANTS = ("a", "b", "c", "d"), ("", "t1", "t2", "t3")


class Walk:
    """Random operations, and the jobs that are expected."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store, self.random = store, random.Random(seed)
        self.waiting: dict[str, str] = {}
        """The types of the jobs that wait."""
        self.held: list[JobRecord] = []

    async def enqueue(self) -> None:
        jobs = []
        for _ in range(self.random.randint(1, 6)):
            options: dict[str, Any] = {
                "type": self.random.choice(TYPES),
                "priority": self.random.choice((0, 0, 0, 5)),
            }
            if self.random.random() < 0.25:
                key = self.random.choice("kl")
                options["rate_limit"] = {"key": key, "concurrency": 2}
            tenant = self.random.choice(TENANTS)
            jobs.append(job_of(tenant, **options) if tenant else new_job(**options))
        for stored in await enqueue_many(self.store, jobs):
            assert isinstance(stored, JobRecord)
            self.waiting[stored.id] = stored.type

    async def fetch(self) -> None:
        names = self.random.sample(TYPES, self.random.randint(1, 3))
        types = "" if self.random.random() < 0.25 else pack_types(names)
        tenant = self.random.choice(TENANTS) if self.random.random() < 0.5 else ""
        count = self.random.choice((1, 1, 2, 10))
        for job in await take(self.store, count=count, types=types, tenant=tenant):
            assert self.waiting.pop(job.id) == job.type
            assert not types or job.type in names
            assert not tenant or job.fields[b"tn"].decode() == tenant
            self.held.append(job)

    async def ack(self) -> None:
        for job in self.held:
            await ack(self.store, job)
        self.held.clear()

    async def cancel(self) -> None:
        if self.waiting:
            job_id = self.random.choice(list(self.waiting))
            await cancel(self.store, job_id)
            del self.waiting[job_id]

    async def move(self) -> None:
        if self.waiting:
            job_id = self.random.choice(list(self.waiting))
            await change_priority(self.store, job_id, self.random.choice((-3, 0, 5)))

    async def pause(self) -> None:
        await pause_or_resume(self.store, QUEUE, self.random.choice(("pause", "resume", "resume")))

    async def limit(self) -> None:
        limits = RateLimits(concurrency=self.random.choice((4, 8)))
        await set_limits(self.store, QUEUE, self.random.choice((limits, RateLimits())))

    async def fair(self) -> None:
        await set_fair_share(self.store, QUEUE, on=self.random.random() < 0.7)

    async def purge(self) -> None:
        if self.random.random() < 0.1:
            await purge(self.store, QUEUE)
            self.waiting.clear()

    async def step(self) -> None:
        usual = (self.enqueue, self.fetch, self.fetch, self.fetch)
        rare = (self.ack, self.cancel, self.move, self.pause, self.limit, self.fair, self.purge)
        await self.random.choice((*usual, *usual, *rare))()


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("seed", range(3))
async def test_no_job_is_lost_or_left_in_an_index(
    store: Store, consistent: Callable[[], InvariantReport], partitions: int, seed: int
) -> None:
    await set_partitions(store, QUEUE, partitions)
    walk = Walk(store, seed)
    for number in range(150):
        try:
            await walk.step()
        except OJSError as error:
            raise AssertionError(f"seed {seed}, step {number}") from error
        if number % 10 == 0:
            consistent()
    await set_limits(store, QUEUE, RateLimits())
    await pause_or_resume(store, QUEUE, "resume")
    for _ in range(500):
        await walk.ack()
        for types in (*map(pack_types, TYPES), ""):
            for job in await take(store, count=10, types=types):
                assert walk.waiting.pop(job.id) == job.type
                walk.held.append(job)
        if not walk.waiting:
            break
    assert not walk.waiting
    await walk.ack()
    await reap_all(store)
    assert consistent().count()["available"] == 0
