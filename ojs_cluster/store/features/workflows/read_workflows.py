"""Read workflows, the outcomes of their jobs, and what their jobs take as input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from ojs_cluster.core.errors import MalformedJob, MalformedRecord, NotFound, PayloadTooLarge
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.workflow import (
    CANCELLED,
    COMPLETED,
    ENDED,
    RUNNING,
    STATUS_ENQUEUED,
    STATUS_UNKNOWN,
    Plan,
    WorkflowEvaluation,
    evaluate,
)
from ojs_cluster.keys import Shard
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.read_jobs import get as get_job
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.newest import newest_members
from ojs_cluster.store.features.workflows import validate_workflow
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.listed import Listed, Position
from ojs_cluster.store.ground.portions import PORTION_BYTES
from ojs_cluster.store.ground.runtime import Arg

ALL_JOBS: Final = range(2**53)
RESULTS_SHOWN_BYTES = 8 * 1024 * 1024
"""Maximum number of bytes of results in a response that shows a workflow."""
MAX_DEFINITIONS_BYTES = 4 * 1024 * 1024
"""Maximum number of bytes of the definitions that are read together."""


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """Why an enqueued job, such as that of a step, does not run yet.

    Args:
        state: the state of the job: available, scheduled, retryable or pending.
        queue: the queue of the job. Another one than that of the plan after the job was moved.
        due_ms: Unix time in ms at which a scheduled or retryable job becomes available.
        limit_key: the rate limit key of which a fetch has requested a token that is not granted
            yet; '' for none.
        held: whether its agent is paused.
    """

    state: State
    queue: str
    due_ms: int | None = None
    limit_key: str = ""
    held: bool = False


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What is known of one job of a workflow.

    Args:
        state: waiting, pending, active, completed, failed or cancelled.
        started_ms: Unix time in ms when its last attempt started, None when it has not started.
        finished_ms: Unix time in ms of its end, None while it has not ended.
        attempt: number of its last attempt.
        result: result as JSON, None when there is none.
        error: error as JSON, None when there is none.
        waiting: why the job does not run yet; None if it has not been enqueued, runs or has ended.
    """

    state: str
    started_ms: int | None = None
    finished_ms: int | None = None
    attempt: int = 0
    result: bytes | None = None
    error: bytes | None = None
    waiting: WaitingJob | None = None


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """A stored workflow.

    Args:
        id: id of the workflow.
        type: chain, group, batch or dag.
        name: name of the workflow; '' for none.
        state: state of the workflow.
        created_ms: Unix time of its creation in ms.
        finished_ms: Unix time of its end in ms; None while it runs.
        plan: its plan.
        evaluation: states of all nodes, as they follow from the node statuses.
        fields: the fields of its record.
        jobs: outcomes of its jobs, in the order of their numbers; empty unless requested.
    """

    id: str
    type: str
    name: str
    state: str
    created_ms: int
    finished_ms: int | None
    plan: Plan
    evaluation: WorkflowEvaluation
    fields: Mapping[bytes, bytes]
    jobs: Sequence[JobOutcome] = ()

    @property
    def queues(self) -> frozenset[str]:
        """The queues of the plan, and those to which jobs were moved."""
        return self.moved_to.union(node.queue for node in self.plan.jobs)

    @property
    def moved_to(self) -> frozenset[str]:
        """The queues to which jobs were moved. It is not known which jobs are there."""
        return frozenset(self.fields.get(b"moved_to", b"").decode(errors="replace").split())


async def get(
    store: Store, workflow_id: str, *, jobs: bool = True, page: range = ALL_JOBS
) -> WorkflowRecord:
    """Return one workflow.

    Args:
        store: the store.
        workflow_id: its id.
        jobs: whether to read the outcomes of its jobs, too.
        page: numbers of the jobs whose outcomes are read. Of the others, only the state is known.

    Raises:
        NotFound: no such workflow, or its retention is over.
        MalformedRecord: the workflow's stored fields are malformed.
        BackendUnavailable: Redis did not answer in time.
    """
    fields = await read_fields(store, workflow_id)
    plan = validate_workflow.check_fields(workflow_id, fields)
    record = record_of(workflow_id, fields, plan)
    return replace(record, jobs=await _outcomes(store, record, page)) if jobs else record


async def read_fields(store: Store, workflow_id: str) -> Mapping[bytes, bytes]:
    """Return the fields of a workflow's record, which may be malformed.

    Raises:
        NotFound: no such workflow, or its retention is over.
        MalformedRecord: the key of the record has another type.
        BackendUnavailable: Redis did not answer in time.
    """
    if not is_job_id(workflow_id):
        raise NotFound("workflow", workflow_id[:100])
    owner = store.keys.shard_of_id(workflow_id)
    try:
        flat: Any = await store.redis.call(
            owner.slot, "HGETALL", owner.workflow(workflow_id), idempotent=True
        )
    except RedisReplyError as error:
        if error.has_wrong_type:
            raise MalformedRecord("workflow", workflow_id, "its key has another type") from error
        raise
    items = iter(flat)
    fields = dict(zip(items, items, strict=True))
    if not validate_workflow.exists(fields):  # also while an import stores it in portions
        raise NotFound("workflow", workflow_id)
    return fields


async def list_workflows(
    store: Store, *, limit: int, offset: int = 0, after: Position | None = None
) -> Listed[WorkflowRecord]:
    """Return a page of workflows without their jobs, newest first, with the number of all.

    Args:
        store: the store.
        limit: maximum number of workflows of the page.
        offset: how many workflows are skipped, unless ``after`` is given.
        after: Unix time in ms of the creation of the last workflow before the page, and its id.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    ids, total, last = await newest_members(
        store, lambda shard: shard.workflows, limit=limit, offset=offset, after=after
    )
    found: dict[str, WorkflowRecord] = {}

    async def read_record(workflow_id: str) -> None:
        # Its retention may have ended since. A malformed workflow is left out.
        with suppress(NotFound, MalformedRecord):
            found[workflow_id] = await get(store, workflow_id, jobs=False)

    await run_concurrently(ids, read_record)
    return Listed([found[each] for each in ids if each in found], total, last)


def record_of(workflow_id: str, fields: Mapping[bytes, bytes], plan: Plan) -> WorkflowRecord:
    """Return the workflow that the fields of a record describe, without its jobs."""
    finished = fields.get(b"finished")
    return WorkflowRecord(
        id=workflow_id,
        type=fields[b"type"].decode(),
        name=fields[b"name"].decode(),
        state=fields[b"state"].decode(),
        created_ms=int(fields[b"created"]),
        finished_ms=int(finished) if finished else None,
        plan=plan,
        evaluation=evaluate(plan, fields[b"node_statuses"].decode()),
        fields=fields,
    )


async def _outcomes(store: Store, record: WorkflowRecord, page: range) -> list[JobOutcome]:
    """Return the outcomes of all jobs, of those outside of ``page`` without times and results.

    The workflow's record has the outcomes of ended jobs. The others are read from the jobs.
    """
    found: dict[int, JobOutcome] = {}
    ended: list[int] = []
    live: list[int] = []
    states = [
        state
        for node, state in zip(record.plan.nodes, record.evaluation.states, strict=True)
        if node.job >= 0
    ]
    statuses = record.fields[b"node_statuses"].decode()
    for job, state in enumerate(states):
        if job not in page:
            found[job] = JobOutcome(state)
        elif statuses[job] == STATUS_ENQUEUED:
            live.append(job)
        elif state == RUNNING:
            found[job] = JobOutcome("pending" if record.state == RUNNING else "cancelled")
        elif statuses[job] != STATUS_UNKNOWN and state in ENDED:
            ended.append(job)
        else:
            waits = state == "waiting" and record.state == RUNNING
            found[job] = JobOutcome("waiting" if waits else "cancelled")

    async def read_live(job: int) -> None:
        found[job] = await _live_outcome(store, record.plan.jobs[job].job_id)

    await run_concurrently(live, read_live)
    results = await read_results(store, record.id, ended)
    for job in ended:
        times = record.fields.get(b"t%d" % job, b"0 0 0").split()
        found[job] = JobOutcome(
            states[job],
            int(times[0]) or None,
            int(times[1]) or None,
            int(times[2]),
            results.get(job),
            record.fields.get(b"e%d" % job),
        )
    return [found[job] for job in range(len(states))]


async def _live_outcome(store: Store, job_id: str) -> JobOutcome:
    try:
        job = await get_job(store, job_id)  # a restored job may be in another shard
    except (NotFound, MalformedJob):
        return JobOutcome(CANCELLED)
    names = {State.ACTIVE: "active", State.COMPLETED: COMPLETED}
    names |= {State.CANCELLED: CANCELLED, State.DISCARDED: "failed"}
    state = names.get(job.state, "pending")
    waiting = waiting_of(job) if state == "pending" else None
    return JobOutcome(state, job.started_ms, None, job.attempt, waiting=waiting)


def waiting_of(job: JobRecord) -> WaitingJob:
    """Return why a job that is neither active nor ended does not run yet."""
    fields = job.fields
    limit = (fields.get(f.LIMIT) or b"") if fields.get(f.OPEN_TOKEN_REQUEST) else b""
    key = limit.partition(b" ")[0].decode(errors="replace")
    return WaitingJob(job.state, job.queue, job.due_ms, key, bool(fields.get(f.HOLD)))


async def read_definitions(store: Store, workflow: WorkflowRecord) -> list[bytes]:
    """Return the definitions of all jobs of a workflow: enqueue requests as JSON.

    Raises:
        PayloadTooLarge: they have more than ``MAX_DEFINITIONS_BYTES``.
        NotFound: the workflow was removed since, or a definition is missing.
        BackendUnavailable: Redis did not answer in time.
    """
    jobs = range(len(workflow.plan.jobs))
    found = await read_some_definitions(store, workflow.id, jobs, max_bytes=MAX_DEFINITIONS_BYTES)
    if len(found) < len(jobs):
        owner = store.keys.shard_of_id(workflow.id)
        key = owner.workflow_definitions(workflow.id)
        stored: Any = await store.redis.call(owner.slot, "HLEN", key, idempotent=True)
        if stored < len(jobs):
            raise NotFound("workflow", workflow.id)
        raise PayloadTooLarge(
            f"the jobs of the workflow have more than {MAX_DEFINITIONS_BYTES} bytes",
            limit=MAX_DEFINITIONS_BYTES,
        )
    return [found[job] for job in jobs]


async def read_some_definitions(
    store: Store, workflow_id: str, jobs: Sequence[int], *, max_bytes: int = 2**53
) -> dict[int, bytes]:
    """Return definitions of jobs; without those that exceed ``max_bytes`` together."""
    owner = store.keys.shard_of_id(workflow_id)
    key = owner.workflow_definitions(workflow_id)
    return (await _read_portions(store, owner, [key, key], None, jobs, max_bytes))[1]


async def read_results(store: Store, workflow_id: str, jobs: Sequence[int]) -> dict[int, bytes]:
    """Return results of ended jobs, as far as they fit into one response."""
    return (await read_inputs(store, workflow_id, None, jobs))[1]


async def read_inputs(
    store: Store,
    workflow_id: str,
    job: int | None,
    result_jobs: Sequence[int],
    *,
    max_bytes: int = RESULTS_SHOWN_BYTES,
) -> tuple[bytes, dict[int, bytes]]:
    """Return a job's definition, and results of other jobs.

    A result never changes, so several calls may read the results.

    Args:
        store: the store.
        workflow_id: the workflow.
        job: the number of the job; None for no definition.
        result_jobs: numbers of the jobs whose results are read, the most important first.
        max_bytes: maximum number of bytes of all results. Results that do not fit are left out.
    """
    owner = store.keys.shard_of_id(workflow_id)
    keys = [owner.workflow_definitions(workflow_id), owner.workflow_results(workflow_id)]
    return await _read_portions(store, owner, keys, job, result_jobs, max_bytes)


async def _read_portions(
    store: Store,
    owner: Shard,
    keys: Sequence[bytes],
    job: int | None,
    result_jobs: Sequence[int],
    max_bytes: int,
) -> tuple[bytes, dict[int, bytes]]:
    found: dict[int, bytes] = {}
    definition, remaining, read = b"", max_bytes, 0
    while job is not None or read < len(result_jobs):
        args: list[Arg] = ["" if job is None else job, remaining, PORTION_BYTES]
        args += result_jobs[read:]
        reply = await store.run(owner, "workflow_inputs", keys, args, idempotent=True)
        remaining, values = reply[1], reply[2:]
        definition, job = definition or reply[0], None
        found.update(zip(result_jobs[read:], values, strict=False))
        read += len(values)
    return definition, {number: value for number, value in found.items() if value}
