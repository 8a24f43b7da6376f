"""Record the outcomes of jobs in the record of their workflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from ojs_cluster.core import raw_json
from ojs_cluster.core.workflow import (
    STATUS_OF_JOB_STATE,
)
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.workflows.unique_steps import StepRefused
from ojs_cluster.store.features.workflows.workflow_progress import (
    WorkflowProgress,
    malformed,
    progress_of,
    read_immutable_part,
)

_MAX_ERROR_BYTES = 2048
"""Maximum size of a job's error in the record of its workflow."""


@dataclass(frozen=True, slots=True)
class RecordedOutcome:
    """The outcome of a job is recorded.

    Args:
        progress: the workflow's progress afterwards.
        newly: whether this call has recorded the outcome.
        definitions: the definition of a job that waits for this one alone, by its number.
    """

    progress: WorkflowProgress
    newly: bool
    definitions: Mapping[int, bytes]


async def record_job_outcome(
    store: Store, workflow_id: str, number: int, state: str, job: JobRecord | None
) -> RecordedOutcome | None:
    """Record the outcome of a job.

    Args:
        store: the store.
        workflow_id: the workflow.
        number: the number of the job.
        state: its state.
        job: the job; None when it does not exist any more.

    Returns:
        None when the workflow does not exist any more.

    Raises:
        MalformedRecord: the workflow's stored fields are malformed.
    """
    done = state == "completed"
    result = error = b""
    began = finished = attempt = 0
    if job is not None:  # a client may have removed it before the effect was delivered
        began, finished, attempt = job.started_ms or 0, job.finished_ms or 0, job.attempt
        result = (job.result or b"") if done else b""
        errors = job.errors()
        error = b"" if done or not errors else _brief(errors[-1])
    ran_ms = max(0, finished - began) if began else 0
    times = f"{began} {finished} {attempt}"
    outcome = JobOutcomeFields(STATUS_OF_JOB_STATE[state], times, result, error, ran_ms)
    return await write_outcome(store, workflow_id, number, outcome)


async def record_refused_step(
    store: Store, workflow_id: str, number: int, refused: StepRefused
) -> None:
    """Record that a unique step has ended without a job."""
    state, error = "completed", b""
    if not refused.ignored:
        existing_job = f": '{refused.existing}'" if refused.existing else ""
        state = "discarded"
        error = orjson.dumps(
            {
                "code": "duplicate",
                "type": "duplicate",
                "message": f"a job of the same uniqueness exists{existing_job}",
                "details": {"existing_job_id": refused.existing or None},
            }
        )
    outcome = JobOutcomeFields(STATUS_OF_JOB_STATE[state], error=error)
    await write_outcome(store, workflow_id, number, outcome)


@dataclass(frozen=True, slots=True)
class JobOutcomeFields:
    """The outcome of a job as ``workflow_record_outcome.lua`` stores it.

    Args:
        node_status: one of ``ENDED_STATUSES``.
        times: Unix times in ms of start and end, and the attempt, separated by blanks; 0 for
            unknown.
        result: the result as JSON; empty for none.
        error: the error as JSON; empty for none.
        ran_ms: how long the job ran, in milliseconds.
    """

    node_status: str
    times: str = "0 0 0"
    result: bytes = b""
    error: bytes = b""
    ran_ms: int = 0


async def write_outcome(
    store: Store, workflow_id: str, number: int, outcome: JobOutcomeFields
) -> RecordedOutcome | None:
    """Run ``workflow_record_outcome.lua``; return the same value as ``record_job_outcome``.

    Args:
        store: the store.
        workflow_id: the workflow.
        number: the number of the job.
        outcome: the outcome.
    """
    immutable = await read_immutable_part(store, workflow_id)
    if immutable is None:
        return None
    owner = store.keys.shard_of_id(workflow_id)
    if not 0 <= number < len(immutable.plan.jobs):  # the plan was replaced by another one
        raise malformed(workflow_id)
    node = immutable.plan.jobs[number]
    data = b'%b,"step_id":%b,"step_type":%b' % (
        immutable.event_data,
        orjson.dumps(node.label or f"step-{number}"),
        orjson.dumps(node.type),
    )
    following = None
    if outcome.node_status == STATUS_OF_JOB_STATE["completed"]:
        following = immutable.successors.next_job(number)
    reply = await store.run(
        owner,
        "workflow_record_outcome",
        [
            *(owner.workflow(workflow_id), owner.workflow_results(workflow_id), owner.events),
            *(owner.running_workflows, owner.workflow_definitions(workflow_id)),
        ],
        [
            *(store.events_arg, workflow_id, number),
            *(outcome.node_status, outcome.times, outcome.result, outcome.error),
            *(data, outcome.ran_ms),
            *(() if following is None else (following,)),
        ],
        idempotent=True,
    )
    progress = progress_of(workflow_id, reply)
    if progress is None:
        return None
    definitions = {} if following is None else {following: reply[5]}
    return RecordedOutcome(progress, bool(reply[4]), definitions)


def _brief(error: bytes) -> bytes:
    """Return an error without its large members."""
    if len(error) <= _MAX_ERROR_BYTES:
        return error
    known = raw_json.stored_members(error) or {}
    kept: dict[str, raw_json.Raw] = {}
    kept |= {name: known[name] for name in ("code", "type", "attempt") if name in known}
    message = raw_json.string(known.get("message", b'""')) or ""
    kept["message"] = raw_json.Raw(orjson.dumps(message[:512]))
    return b"{%b}" % raw_json.join(kept)
