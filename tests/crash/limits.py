"""Operations on tokens of rate limit keys whose state is in another shard than the jobs."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.nack import release_unanswered
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.lease_ids import PREFIX_BYTES
from tests.crash.harness import World
from tests.store.limit_jobs import key_in, keyed, token_counts
from tests.store.shortcuts import ack, nack, shard_of, take


@dataclass(frozen=True, slots=True)
class Keyed:
    """Two jobs of a key that lets one job run at a time."""

    key: str
    first: JobRecord
    second: JobRecord


class _Limited:
    least = 3
    begins = True
    """Whether the first job is active when the scene is set."""

    async def prepare(self, world: World) -> Keyed:
        store = world.store
        key = key_in(store, home=False)
        first, second = [await keyed(store, key, concurrency=1) for _ in range(2)]
        if self.begins:
            [taken] = await take(store)
            assert taken.id == first.id
            first = taken
        return Keyed(key, first, second)

    async def finish(self, world: World, scene: Keyed) -> None:
        """Do nothing: the key is removed a day after the jobs have ended."""

    async def state(self, world: World, job: JobRecord) -> State:
        """Return a job's state; check that the limit holds."""
        active = [shard for shard in world.store.keys if world.db.zcard(shard.active)]
        assert sum(world.db.zcard(shard.active) for shard in active) <= 1
        return (await read_jobs.get(world.store, job.id)).state

    async def check_next_runs(self, world: World, scene: Keyed) -> None:
        """Check that the second job gets the free token."""
        [taken] = await take(world.store, count=2)
        assert taken.id == scene.second.id
        assert (await token_counts(world.store, scene.key)) == (1, 0)


class Reservation(_Limited):
    """A fetch reads both jobs: one gets the token and runs, the other requests one and waits."""

    begins = False

    async def act(self, store: Store, scene: Keyed) -> None:
        await take(store, count=2)

    async def happened(self, world: World, scene: Keyed) -> bool:
        """Check that the next fetch finds a job unless one runs."""
        tokens, _ = await token_counts(world.store, scene.key)
        assert tokens <= 1
        states = [await self.state(world, job) for job in (scene.first, scene.second)]
        if State.ACTIVE not in states:
            assert len(await take(world.store, count=2)) == 1
        assert (await token_counts(world.store, scene.key))[0] == 1
        return True


class Release(_Limited):
    """The first job ends: its token is granted to the second."""

    async def act(self, store: Store, scene: Keyed) -> None:
        await ack(store, scene.first, lease_id=scene.first.lease_id)

    async def happened(self, world: World, scene: Keyed) -> bool:
        if await self.state(world, scene.first) is State.ACTIVE:
            return False
        await self.check_next_runs(world, scene)
        return True


class Requeue(_Limited):
    """The first job is requeued: the token is free, and both wait for it."""

    async def act(self, store: Store, scene: Keyed) -> None:
        await nack(store, scene.first, lease_id=scene.first.lease_id, requeue=True)

    async def happened(self, world: World, scene: Keyed) -> bool:
        if await self.state(world, scene.first) is State.ACTIVE:
            return False
        assert len(await take(world.store, count=2)) == 1
        return True


class LostFetch(Requeue):
    """The fetch of the first job was not answered: it is undone, and the token is free."""

    async def act(self, store: Store, scene: Keyed) -> None:
        assert scene.first.lease_id is not None
        prefix = scene.first.lease_id.encode()[:PREFIX_BYTES]
        await release_unanswered(store, shard_of(store), [prefix])

    async def happened(self, world: World, scene: Keyed) -> bool:
        job = await read_jobs.get(world.store, scene.first.id)
        assert job.attempt == (job.state is State.ACTIVE)
        return await super().happened(world, scene)


class Cancellation(_Limited):
    """The second job, which has requested a token, is cancelled."""

    least = 2

    async def prepare(self, world: World) -> Keyed:
        scene = await super().prepare(world)
        assert await take(world.store) == []
        return scene

    async def act(self, store: Store, scene: Keyed) -> None:
        await cancel(store, scene.second.id)

    async def happened(self, world: World, scene: Keyed) -> bool:
        state = await self.state(world, scene.second)
        tokens, waiting = await token_counts(world.store, scene.key)
        assert (state, tokens, waiting) in (
            (State.AVAILABLE, 1, 1),
            (State.CANCELLED, 1, 0),
        )
        return state is State.CANCELLED
