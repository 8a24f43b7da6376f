"""Operations on cron jobs: firing under each overlap policy, manual runs, changes."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from ojs_cluster.core.cron.cron_job import CronDefinition, parse_cron
from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import fire_due
from ojs_cluster.store.features.cron.firing_store import OccurrenceDecision
from tests.crash.harness import World
from tests.store.shortcuts import DAY, ack, take
from tests.support.timeshift import age_cron

QUEUE = "reports"
_serial = itertools.count(1)


def definition(name: str, **members: Any) -> CronDefinition:
    # An interval, so that no occurrence is due by itself while the test runs.
    body = {"name": name, "cron": "@every 24h", "type": "make", "options": {"queue": QUEUE}}
    return parse_cron(json.dumps({**body, **members}).encode())


async def come(world: World, name: str) -> None:
    """Make the next occurrence due; a serial number keeps the jobs' ids distinct."""
    age_cron(world.db, world.store.keys.meta, name, DAY + next(_serial))


@dataclass(frozen=True, slots=True)
class Scene:
    """A cron job's name, and its first run, which is active."""

    name: str
    first: JobRecord | None = None


class _Cron:
    least = 2

    async def finish(self, world: World, scene: Scene) -> None:
        with suppress(NotFound):
            await cron.delete(world.store, scene.name)


@dataclass(frozen=True, slots=True)
class Firing(_Cron):
    """An occurrence comes while the first run is active."""

    policy: Literal["allow", "skip", "cancel_previous", "enqueue"]

    async def prepare(self, world: World) -> Scene:
        name = f"c{next(_serial)}"
        await cron.register(world.store, definition(name, overlap_policy=self.policy))
        await come(world, name)
        await fire_due(RedisCronStore(world.store), 10)
        [first] = await take(world.store, QUEUE)
        await come(world, name)
        return Scene(name, first)

    async def act(self, store: Store, scene: Scene) -> None:
        await fire_due(RedisCronStore(store), 10)

    async def happened(self, world: World, scene: Scene) -> bool:
        """Return whether the next leader has fired the occurrence: none is ever missed."""
        assert scene.first is not None
        record = await cron.get(world.store, scene.name)
        new = world.live() - {scene.first.id}
        state = (await read_jobs.get(world.store, scene.first.id)).state
        assert len(new) == (self.policy != "skip")
        assert (record.runs, record.firing) == (1 + len(new), None)
        assert len(await cron.history(world.store, scene.name, 9)) == 2
        wanted = State.CANCELLED if self.policy == "cancel_previous" else State.ACTIVE
        assert state is wanted
        states = {(await read_jobs.get(world.store, job_id)).state for job_id in new}
        waits = State.PENDING if self.policy == "enqueue" else State.AVAILABLE
        assert states <= {waits}
        return True


@dataclass(frozen=True, slots=True)
class Refusing(_Cron):
    """No job can be made from the definition when an occurrence is due, or is already claimed."""

    claimed: bool
    least = 1

    async def prepare(self, world: World) -> Scene:
        name = f"c{next(_serial)}"
        key = world.store.keys.meta.cron(name)
        await cron.register(world.store, definition(name))
        await come(world, name)
        if self.claimed:
            book = RedisCronStore(world.store)
            record = await cron.get(world.store, name)
            claim = OccurrenceDecision(
                True, book.job_id(record, record.next_ms), "", record.next_ms
            )
            assert await book.claim(record, claim) is not None
            age_cron(world.db, world.store.keys.meta, name, 3000)
        world.db.hset(key, "firing_job" if self.claimed else "job", "{}")
        return Scene(name)

    async def act(self, store: Store, scene: Scene) -> None:
        await fire_due(RedisCronStore(store), 10)

    async def happened(self, world: World, scene: Scene) -> bool:
        record = await cron.get(world.store, scene.name)
        past = await cron.history(world.store, scene.name, 9)
        assert [occurrence.outcome for occurrence in past] == ["error"]
        assert (record.runs, record.firing, record.open_runs) == (0, None, ())
        assert not world.live()
        return True


class Burst(_Cron):
    """Cron jobs of two queues are due at the same moment."""

    least = 4

    async def prepare(self, world: World) -> Scene:
        first = next(_serial)
        names = [f"burst-{first}-{number}" for number in range(4)]
        for number, name in enumerate(names):
            options = {"queue": QUEUE if number % 2 else "others"}
            await cron.register(world.store, definition(name, options=options))
            await come(world, name)
        return Scene(" ".join(names))

    async def act(self, store: Store, scene: Scene) -> None:
        await fire_due(RedisCronStore(store), 10)

    async def happened(self, world: World, scene: Scene) -> bool:
        """Return whether the next leader has fired each occurrence once."""
        for name in scene.name.split():
            record = await cron.get(world.store, name)
            assert (record.runs, record.firing, len(record.open_runs)) == (1, None, 1)
            assert len(await cron.history(world.store, name, 9)) == 1
        assert len(world.live()) == 4
        return True

    async def finish(self, world: World, scene: Scene) -> None:
        for name in scene.name.split():
            await super().finish(world, Scene(name))


class ReleasingHeldRun(_Cron):
    """The first run has ended: the held run is released."""

    async def prepare(self, world: World) -> Scene:
        firing = Firing("enqueue")
        scene = await firing.prepare(world)
        await firing.act(world.store, scene)
        assert scene.first is not None
        await ack(world.store, scene.first)
        age_cron(world.db, world.store.keys.meta, scene.name, 3000)
        return scene

    async def act(self, store: Store, scene: Scene) -> None:
        await fire_due(RedisCronStore(store), 10)

    async def happened(self, world: World, scene: Scene) -> bool:
        record = await cron.get(world.store, scene.name)
        [run] = world.live()
        assert (await read_jobs.get(world.store, run)).state is State.AVAILABLE
        assert (record.held_runs, record.firing) == ((), None)
        return True


class ByHand(_Cron):
    """A client triggers it now."""

    async def prepare(self, world: World) -> Scene:
        name = f"c{next(_serial)}"
        await cron.register(world.store, definition(name))
        return Scene(name)

    async def act(self, store: Store, scene: Scene) -> None:
        await cron.trigger(store, scene.name)

    async def happened(self, world: World, scene: Scene) -> bool:
        record = await cron.get(world.store, scene.name)
        assert record.firing is None
        assert len(world.live()) == record.runs
        assert record.runs <= 1
        return bool(record.runs)


@dataclass(frozen=True, slots=True)
class Change(_Cron):
    """It is registered, or deleted while a run waits for an earlier one."""

    how: Literal["register", "drop"]
    least = 1

    async def prepare(self, world: World) -> Scene:
        if self.how == "register":
            return Scene(f"c{next(_serial)}")
        firing = Firing("enqueue")
        scene = await firing.prepare(world)
        await firing.act(world.store, scene)
        return scene

    async def act(self, store: Store, scene: Scene) -> None:
        if self.how == "register":
            await cron.register(store, definition(scene.name))
        else:
            await cron.delete(store, scene.name)

    async def happened(self, world: World, scene: Scene) -> bool:
        there = True
        try:
            await cron.get(world.store, scene.name)
        except NotFound:
            there = False
        return there is (self.how == "register")
