"""A migration whose leader dies."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.migrations.layout import report
from tests.crash.harness import World
from tests.store.migrations.renaming import AFTER, BEFORE, MIGRATES, migrate_all, of_version
from tests.store.shortcuts import put, queues_in_other_shards


@dataclass(frozen=True, slots=True)
class MigrationScene:
    """Jobs of the old layout, by id; each has its id in the field that the migration renames."""

    jobs: tuple[str, ...]


class Renaming:
    """The leader migrates jobs in two shards; the next leader continues."""

    least = 12

    async def prepare(self, world: World) -> MigrationScene:
        store, made = world.store, []
        for queue in queues_in_other_shards(store, 2):
            for _ in range(2):
                job = await put(store, queue)
                world.db.hset(store.keys.shard_of_id(job.id).job(job.id), BEFORE, job.id)
                made.append(job.id)
        return MigrationScene(tuple(made))

    async def act(self, store: Store, scene: MigrationScene) -> None:
        del scene
        await migrate_all(of_version(store, MIGRATES))

    async def happened(self, world: World, scene: MigrationScene) -> bool:
        """The next leader completes a migration that has begun."""
        record = await report(world.store)
        assert record is not None
        values = {world.db.hget(self._key(world, id_), AFTER) for id_ in scene.jobs}
        if record.version == 1:
            assert values == {None}
            return False
        if not record.is_migrating:
            assert values == {id_.encode() for id_ in scene.jobs}
        record = await migrate_all(of_version(world.store, MIGRATES))
        assert (record.version, record.oldest) == (2, 2)
        for id_ in scene.jobs:
            fields = world.db.hgetall(self._key(world, id_))
            assert (fields[AFTER], BEFORE in fields) == (id_.encode(), False)
        return True

    async def finish(self, world: World, scene: MigrationScene) -> None:
        """Go back to the old layout for the next failure."""
        for tag in (*world.store.keys, world.store.keys.meta):
            world.db.delete(tag.schema)
            world.db.hset(tag.schema, mapping={"version": 1, "shards": len(world.store.keys)})

    def _key(self, world: World, job_id: str) -> bytes:
        return world.store.keys.shard_of_id(job_id).job(job_id)
