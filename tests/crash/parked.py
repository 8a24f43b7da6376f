"""Fetches that name job types, and the parked jobs that they meet."""

from __future__ import annotations

from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch_script import pack_types
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from tests.crash.harness import World
from tests.store.shortcuts import put, take
from tests.support.invariants import check_invariants

OLD, NEW = pack_types(["old"]), pack_types(["new"])


class TypedFetch:
    """Jobs of two types wait; those of the other type are parked before."""

    least = 3
    parks = True

    async def prepare(self, world: World) -> list[JobRecord]:
        jobs = [await put(world.store, type=name) for name in ("new", "old", "new")]
        if self.parks:
            assert await take(world.store, count=3, types=pack_types(["other"])) == []
        return jobs

    async def act(self, store: Store, scene: list[JobRecord]) -> None:
        await take(store, count=2, types=NEW)

    async def happened(self, world: World, scene: list[JobRecord]) -> bool:
        """Check that no job is lost: fetches get what no process has fetched.

        They also get jobs of a lost reply that were released meanwhile.
        """
        waiting = [
            job
            for job in scene
            if (await read_jobs.get(world.store, job.id)).state is State.AVAILABLE
        ]
        assert check_invariants(world.backend, shards=len(world.store.keys)).problems == []
        for types in (OLD, NEW):
            expected = {job.id for job in waiting if job.type == types.strip()}
            found = await take(world.store, count=3, types=types)
            assert expected <= {job.id for job in found}
            assert {job.type for job in found} <= {types.strip()}
        return True

    async def finish(self, world: World, scene: list[JobRecord]) -> None:
        """Do nothing: all entries leave with the jobs."""


class ParkingFetch(TypedFetch):
    """The fetch itself parks a job."""

    parks = False
