"""An agent is paused and resumed: its record and its job always agree."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ojs_cluster.core.agents.record import HumanDecision
from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.features.agents import agents
from tests.crash.harness import World
from tests.store.shortcuts import put


@dataclass(frozen=True, slots=True)
class AgentChange:
    """The agent of an available job is paused, or resumed."""

    how: Literal["pause", "resume"]
    least = 2

    async def prepare(self, world: World) -> str:
        job = await put(world.store, "agents", expires_at="+PT1H")
        if self.how == "resume":
            await agents.pause(world.store, job.id, "before")
        return job.id

    async def act(self, store: Store, scene: str) -> None:
        with suppress(Conflict):  # it was done, and the reply was lost
            if self.how == "pause":
                await agents.pause(store, scene, "why")
            else:
                await agents.resume(store, scene, HumanDecision(True))

    async def happened(self, world: World, scene: str) -> bool:
        job, record = await agents.read(world.store, scene)
        assert job.state is (State.PENDING if record.paused else State.AVAILABLE)
        return record.paused == (self.how == "pause")

    async def finish(self, world: World, scene: str) -> None:
        await cancel(world.store, scene)
