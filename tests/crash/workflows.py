"""Operations on workflows: creation, each way in which a step's end advances them, cancellation."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ojs_cluster.core.errors import NotFound
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.outbox import outbox_dead_letters
from ojs_cluster.store.engine.queues.deadlines import reap
from ojs_cluster.store.features.workflows import read_workflows, workflows
from ojs_cluster.store.features.workflows.read_workflows import WorkflowRecord
from ojs_cluster.store.ground import job_fields as f
from tests.crash.harness import World
from tests.store.shortcuts import HOUR, ack, nack, queues_in_other_shards, take
from tests.store.workflow_jobs import batch, chain, group, job_ids, parents, state_of, step
from tests.support.timeshift import age_job


def types(world: World) -> Counter[str]:
    """Return the number of live jobs of each type."""
    found: Counter[str] = Counter()
    for job_id in world.live():
        [key] = world.db.scan_iter(match=f"ojs:*:j:{job_id}", count=10_000)
        found[world.db.hget(key, f.TYPE).decode()] += 1
    return found


@dataclass(frozen=True, slots=True)
class Creation:
    """A workflow whose first jobs live in two shards, or are one."""

    kind: Literal["chain", "group"]
    least = 3

    async def prepare(self, world: World) -> list[str]:
        return queues_in_other_shards(world.store, 2)

    async def act(self, store: Store, scene: list[str]) -> None:
        one, other = scene
        make = {"chain": chain, "group": group}[self.kind]
        await make(store, step("a", one), step("b", other))

    async def happened(self, world: World, scene: list[str]) -> bool:
        made, *_ = await read_workflows.list_workflows(world.store, limit=10)
        assert len(made) <= 1
        first = {"chain": {"a": 1}, "group": {"a": 1, "b": 1}}[self.kind]
        assert types(world) == (first if made else {})
        return bool(made)

    async def finish(self, world: World, scene: list[str]) -> None:
        """All ends with its jobs."""


@dataclass(frozen=True, slots=True)
class Running:
    """A workflow, and the step that is about to end."""

    workflow: WorkflowRecord
    job: JobRecord


class _Advance:
    """A step ends. What follows lives in another shard than the step and than the record."""

    least = 5
    follows: dict[str, int]
    """Types of the jobs that are enqueued then."""
    ends = "running"
    """The workflow's state then."""

    async def prepare(self, world: World) -> Running:
        store = world.store
        one, other = queues_in_other_shards(store, 2)
        made = await chain(store, step("a", one), step("b", other))
        [job] = await take(store, one)
        return Running(made, job)

    async def happened(self, world: World, scene: Running) -> bool:
        state = (await read_jobs.get(world.store, scene.job.id)).state
        if state == "active":
            assert await state_of(world.store, scene.workflow) == "running"
            assert world.live() == {scene.job.id}
            return False
        assert types(world) == self.follows
        assert await state_of(world.store, scene.workflow) == self.ends
        return True

    async def finish(self, world: World, scene: Running) -> None:
        """All ends with its jobs."""


class Ack(_Advance):
    """The next step starts, with the result of this one."""

    follows = {"b": 1}  # noqa: RUF012 - never changed

    async def act(self, store: Store, scene: Running) -> None:
        await ack(store, scene.job, lease_id=scene.job.lease_id, result=b"7")

    async def happened(self, world: World, scene: Running) -> bool:
        happened = await super().happened(world, scene)
        if happened:
            following = await read_jobs.get(world.store, job_ids(scene.workflow)[1])
            assert parents(following) == [7]
        return happened


class LastNack(_Advance):
    """The step has failed finally: so has the workflow, and the next step never starts."""

    follows: dict[str, int] = {}  # noqa: RUF012 - never changed
    ends = "failed"

    async def prepare(self, world: World) -> Running:
        store = world.store
        one, other = queues_in_other_shards(store, 2)
        first = step("a", options={"queue": one, "max_attempts": 1})
        made = await chain(store, first, step("b", other))
        [job] = await take(store, one)
        return Running(made, job)

    async def act(self, store: Store, scene: Running) -> None:
        await nack(store, scene.job, lease_id=scene.job.lease_id)


class LostLease(LastNack):
    """The same, because its worker stopped sending heartbeats."""

    async def prepare(self, world: World) -> Running:
        scene = await super().prepare(world)
        shard = world.store.keys.shard_of_queue(scene.job.queue)
        age_job(world.db, shard, scene.job.id, HOUR)
        return scene

    async def act(self, store: Store, scene: Running) -> None:
        await reap(store, store.keys.shard_of_queue(scene.job.queue), 10)


class StepCancelled(LastNack):
    """The same, because a client cancelled the step."""

    async def act(self, store: Store, scene: Running) -> None:
        await cancel(store, scene.job.id)


class Callbacks(_Advance):
    """The last job of a batch ends: its callbacks are enqueued, each once."""

    follows = {"good": 1, "end": 1}  # noqa: RUF012 - never changed

    async def prepare(self, world: World) -> Running:
        store = world.store
        one, other, third = queues_in_other_shards(store, 3)
        made = await batch(
            store,
            [step("a", one), step("a", other)],
            on_success=step("good", third),
            on_complete=step("end", one),
        )
        [first] = await take(store, other)
        await ack(store, first)
        [job] = await take(store, one)
        return Running(made, job)

    async def act(self, store: Store, scene: Running) -> None:
        await ack(store, scene.job, lease_id=scene.job.lease_id)


class LastStep(Ack):
    """The last step ends, and the workflow with it."""

    follows: dict[str, int] = {}  # noqa: RUF012 - never changed
    ends = "completed"

    async def prepare(self, world: World) -> Running:
        store = world.store
        one, other = queues_in_other_shards(store, 2)
        made = await chain(store, step("a", one), step("b", other))
        [first] = await take(store, one)
        await ack(store, first, result=b"7")
        [job] = await take(store, other)
        return Running(made, job)


class Cancellation:
    """A workflow is cancelled: what waits is cancelled, what is active may go on."""

    least = 3

    async def prepare(self, world: World) -> Running:
        store = world.store
        one, other, third = queues_in_other_shards(store, 3)
        made = await group(store, step("a", one), step("b", other), step("c", third))
        [job] = await take(store, third)
        return Running(made, job)

    async def act(self, store: Store, scene: Running) -> None:
        await workflows.cancel(store, scene.workflow.id)

    async def happened(self, world: World, scene: Running) -> bool:
        state = await state_of(world.store, scene.workflow)
        left = types(world)
        assert (state, left) in (
            ("running", {"a": 1, "b": 1, "c": 1}),
            ("cancelled", {"c": 1}),
        )
        return state == "cancelled"

    async def finish(self, world: World, scene: Running) -> None:
        """All ends with its jobs."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A malformed workflow is cancelled: its jobs are cancelled first, then its record goes."""

    least = 4

    async def prepare(self, world: World) -> WorkflowRecord:
        one, other = queues_in_other_shards(world.store, 2)
        made = await group(world.store, step("a", one), step("b", other))
        world.db.hset(self._key(world, made), "node_statuses", "")
        return made

    async def act(self, store: Store, scene: WorkflowRecord) -> None:
        await workflows.cancel(store, scene.id)

    async def happened(self, world: World, scene: WorkflowRecord) -> bool:
        shard = world.store.keys.shard_of_id(scene.id)
        await workflows.purge_ended(world.store, shard, 10)
        removed = not world.db.exists(self._key(world, scene))
        assert not (removed and types(world))
        return removed

    async def finish(self, world: World, scene: WorkflowRecord) -> None:
        """The client repeats a cancellation that has not removed the workflow.

        An operator retries the effects that failed until then.
        """
        with suppress(NotFound):
            await self.act(world.store, scene)
        await outbox_dead_letters.retry_all(world.store)
        await world.recover()

    def _key(self, world: World, workflow: WorkflowRecord) -> bytes:
        return world.store.keys.shard_of_id(workflow.id).workflow(workflow.id)
