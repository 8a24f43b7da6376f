"""Unique jobs that have died are retried by hand: job and lock lie in different shards."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.dead_letters import dead_letters
from tests.crash.harness import World
from tests.store.shortcuts import foreign_id, middle_queue, nack, queues_in_other_shards, take
from tests.store.unique_jobs import once, without_unlock


@dataclass(frozen=True, slots=True)
class Scene:
    """A dead letter, and another job of its uniqueness that lives."""

    dead: JobRecord
    other: JobRecord | None


@dataclass(frozen=True, slots=True)
class Retry:
    """A dead letter is retried.

    ``lock``: it is free; or the dead job's end has still to release it; or another job holds it.
    """

    lock: Literal["free", "unlocking", "held"]
    least = 3

    async def prepare(self, world: World) -> Scene:
        store, queue = world.store, middle_queue(world.store)
        retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
        job = await once(store, queue, id=foreign_id(store, queue), retry=retry)
        [taken] = await take(store, queue)
        await nack(without_unlock(store) if self.lock == "unlocking" else store, taken)
        [elsewhere] = queues_in_other_shards(store, 1)
        other = await once(store, elsewhere) if self.lock == "held" else None
        return Scene(job, other)

    async def act(self, store: Store, scene: Scene) -> None:
        with suppress(*([Duplicate] if scene.other else [])):
            await dead_letters.retry(store, scene.dead.id)

    async def happened(self, world: World, scene: Scene) -> bool:
        """It lives, and the next of its uniqueness is kept out by it; or it is as it was."""
        job = await read_jobs.get(world.store, scene.dead.id)
        if scene.other is not None:
            assert job.dead
            assert world.live() == {scene.other.id}
            return True
        if job.dead:
            assert world.live() == set()
            return False
        assert job.state is State.AVAILABLE
        [elsewhere] = queues_in_other_shards(world.store, 1)
        try:
            await once(world.store, elsewhere)
        except Duplicate as error:
            assert error.details["existing_job_id"] == job.id  # noqa: PT017 - nothing else is right
        assert world.live() == {job.id}
        return True

    async def finish(self, world: World, scene: Scene) -> None:
        """All ends with the jobs, and with the retention of dead letters."""
        if (await read_jobs.get(world.store, scene.dead.id)).dead:
            await dead_letters.delete(world.store, scene.dead.id)
