"""Enqueue jobs of a workflow that may start, each with its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final

import orjson

from ojs_cluster.core.errors import MalformedRecord, OJSError
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.payload_limits import STORED_LIMITS
from ojs_cluster.core.workflow import Plan, input_node, inputs, leaves, render
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import FixedJob, enqueue_with_ids
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.workflows.read_workflows import read_inputs, read_some_definitions
from ojs_cluster.store.features.workflows.record_outcomes import record_refused_step
from ojs_cluster.store.features.workflows.unique_steps import enqueue_step
from ojs_cluster.store.features.workflows.workflow_progress import WorkflowProgress
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.store.ground.portions import PORTION_BYTES

STORE_WITHIN_MS: Final = 20_000
"""Maximum time in ms from the decision to enqueue a job until the job is stored; a later attempt is
refused. The time is a sixth of the shortest retention of a workflow's job
(``store/include/jobs/removal_time.lua``)."""


@dataclass(frozen=True, slots=True)
class KnownInputs:
    """What is known of the inputs of jobs without reading it.

    Args:
        before: the job that has ended, None if it is unknown.
        definitions: definitions of jobs by their numbers.
    """

    before: JobRecord | None
    definitions: Mapping[int, bytes]


NOTHING_KNOWN: Final = KnownInputs(None, MappingProxyType({}))


async def enqueue_steps(
    store: Store,
    progress: WorkflowProgress,
    plan: Plan,
    numbers: Sequence[int],
    known: KnownInputs = NOTHING_KNOWN,
) -> Sequence[int]:
    """Enqueue jobs; return the numbers of those that are refused, and so have ended.

    Args:
        store: the store.
        progress: the workflow's progress, as just read.
        plan: its plan.
        numbers: numbers of the jobs, ascending. Jobs of one queue keep this order.
        known: what is known of their inputs.

    Raises:
        MalformedRecord: a definition is damaged or missing.
        Conflict: ``STORE_WITHIN_MS`` has passed since the progress was read.
        BackendUnavailable: Redis did not answer in time.
    """
    definitions = known.definitions
    if not all(number in definitions for number in numbers):
        definitions = await read_some_definitions(store, progress.workflow_id, numbers)
    enqueuer = _Enqueuer(
        *(store, progress.workflow_id, plan, progress.now_ms + STORE_WITHIN_MS),
        *(definitions, known.before),
    )
    by_shard: dict[Shard, list[int]] = {}
    for number in numbers:
        shard = store.keys.shard_of_id(plan.jobs[number].job_id)
        by_shard.setdefault(shard, []).append(number)
    await run_concurrently(by_shard.values(), enqueuer.enqueue)
    return enqueuer.refused


@dataclass(slots=True)
class _Enqueuer:
    """Enqueues jobs of one workflow.

    Args:
        store: the store.
        workflow_id: the workflow.
        plan: its plan.
        store_before_ms: Unix time in ms from which on no job is stored any more.
        definitions: definitions of the jobs.
        before: the job that has ended, None if it is unknown.
    """

    store: Store
    workflow_id: str
    plan: Plan
    store_before_ms: int
    definitions: Mapping[int, bytes]
    before: JobRecord | None
    refused: list[int] = field(default_factory=list)
    """Numbers of the jobs that are refused because of their uniqueness."""
    inputs: dict[int, list[bytes]] = field(default_factory=dict)
    """Names and values of the fields with the inputs that several jobs may have, by their node."""

    async def enqueue(self, numbers: Sequence[int]) -> None:
        """Enqueue jobs of one shard in their order."""
        shard = self.store.keys.shard_of_id(self.plan.jobs[numbers[0]].job_id)
        waiting: list[FixedJob] = []
        size = 0
        for number in numbers:
            job = await self._job(number)
            given = await self._inputs(number)
            fields = [f.WORKFLOW, self.workflow_id.encode(), f.STEP, b"%d" % number, *given]
            fixed = self.plan.jobs[number].job_id, job, fields
            size += len(job.body) + sum(map(len, given))
            if waiting and (job.unique is not None or size > PORTION_BYTES):
                await enqueue_with_ids(self.store, shard, waiting, self.store_before_ms)
                waiting, size = [], 0
            if job.unique is None:
                waiting.append(fixed)
            else:
                await self._enqueue_unique(number, fixed)
        if waiting:
            await enqueue_with_ids(self.store, shard, waiting, self.store_before_ms)

    async def _enqueue_unique(self, number: int, fixed: FixedJob) -> None:
        refused = await enqueue_step(self.store, *fixed, store_before_ms=self.store_before_ms)
        if refused is not None:
            await record_refused_step(self.store, self.workflow_id, number, refused)
            self.refused.append(number)

    async def _job(self, number: int) -> NewJob:
        definition = self.definitions.get(number, b"")
        parse = partial(parse_job, definition, limits=STORED_LIMITS)
        try:
            return await off_loop(parse, len(definition))
        except OJSError as error:
            fault = f"definition {number} is no job"
            raise MalformedRecord("workflow", self.workflow_id, fault) from error

    async def _inputs(self, number: int) -> Sequence[bytes]:
        """Return names and values of the fields with the inputs of a job."""
        max_bytes = self.store.settings.result_max_bytes
        given = _inputs_of_next(self.plan, number, self.before, max_bytes)
        if given is not None:
            return given
        node = input_node(self.plan, number)
        given = self.inputs.get(node)
        if given is None and node:
            trees, names = inputs(self.plan, number)
            # The results that the job gets are limited to the maximum size of one result. If not
            # all results fit, those of the nearest steps are preferred.
            wanted = list(dict.fromkeys(reversed(list(leaves(trees)))))
            _, results = await read_inputs(
                self.store, self.workflow_id, None, wanted, max_bytes=max_bytes
            )
            given = [f.PARENTS, render(list(trees), results)]
            if any(names):
                given += (f.PARENT_NAMES, orjson.dumps(names))
            if node != self.plan.numbers[number]:
                self.inputs[node] = given
        return given or ()


def _inputs_of_next(
    plan: Plan, number: int, before: JobRecord | None, max_bytes: int
) -> list[bytes] | None:
    """Return the inputs of a step of a chain: those of the step before it, and its result.

    So the cost of a step does not grow with its chain, apart from the bytes of its inputs.

    Args:
        plan: the plan.
        number: number of the job.
        before: the job that has ended, None if it is unknown.
        max_bytes: maximum size of all inputs. If it is exceeded, results must be left out.

    Returns:
        Names and values of fields; None if the inputs must be read.
    """
    node = plan.nodes[plan.numbers[number]]
    if before is None or len(node.deps) != 1 or node.callback:
        return None
    source = plan.nodes[node.deps[0]]
    if source.job_id != before.id or plan.nodes[node.parent].kind != "chain":
        return None
    parents, names = b"[", b"["
    if source.deps:  # it is not the first step of its chain
        earlier, names_of_earlier = before.fields.get(f.PARENTS), before.fields.get(f.PARENT_NAMES)
        if earlier is None or (names_of_earlier is None and source.label):
            return None
        parents = earlier[:-1] + b","
        names = names_of_earlier[:-1] + b"," if names_of_earlier else b""
    elif not source.label:
        names = b""
    parents += (before.result or b"null") + b"]"
    if len(parents) > max_bytes:
        return None
    if not names:
        return [f.PARENTS, parents]
    return [f.PARENTS, parents, f.PARENT_NAMES, names + orjson.dumps(source.label) + b"]"]
