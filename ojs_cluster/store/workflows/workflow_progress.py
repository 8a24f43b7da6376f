"""How far a workflow is: its state and node statuses, and the part that never changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.workflow import (
    Plan,
    decode_plan,
)
from ojs_cluster.store.context import Store
from ojs_cluster.store.workflows.workflows import event_data

_MAX_CACHED_WORKFLOWS = 256
"""Maximum number of workflows whose immutable part a process caches."""


@dataclass(frozen=True, slots=True)
class WorkflowProgress:
    """A workflow's state and node statuses.

    Args:
        workflow_id: id of the workflow.
        state: state of the workflow.
        node_statuses: one character per job, in the order of the jobs' numbers (``core.workflow``).
        now_ms: Unix time in ms of the shard's clock when state and statuses were read.
    """

    workflow_id: str
    state: str
    node_statuses: str
    now_ms: int


async def read_progress(store: Store, workflow_id: str) -> WorkflowProgress | None:
    """Return the workflow's progress; None when the workflow does not exist."""
    return await record_enqueued(store, workflow_id, ())  # without jobs the script only reads


async def record_enqueued(
    store: Store, workflow_id: str, numbers: Iterable[int]
) -> WorkflowProgress | None:
    """Record that jobs were enqueued, and return the workflow's progress afterwards."""
    owner = store.keys.shard_of_id(workflow_id)
    reply = await store.run(
        owner,
        "workflow_record_enqueued",
        [owner.workflow(workflow_id)],
        list(numbers),
        idempotent=True,
    )
    return progress_of(workflow_id, reply)


def progress_of(workflow_id: str, reply: list[Any]) -> WorkflowProgress | None:
    """Return the progress in a script's reply; None when the workflow does not exist."""
    if reply[0] != b"ok":
        return None
    return WorkflowProgress(workflow_id, reply[1].decode(), reply[2].decode(), int(reply[3]))


@dataclass(frozen=True, slots=True)
class ImmutablePart:
    """The part of a workflow that never changes, and so may be cached.

    Args:
        plan: the plan.
        event_data: JSON members that the data of all events of the workflow have.
    """

    plan: Plan
    event_data: bytes


_immutable_parts: dict[str, ImmutablePart] = {}


async def read_immutable_part(store: Store, workflow_id: str) -> ImmutablePart | None:
    """Return the workflow's immutable part; None if the workflow has been deleted."""
    immutable = _immutable_parts.get(workflow_id)
    if immutable is None:
        owner = store.keys.shard_of_id(workflow_id)
        reply: Any = await store.redis.call(
            owner.slot, "HMGET", owner.workflow(workflow_id), "plan", "name", idempotent=True
        )
        if reply[0] is None:
            return None
        plan = decode_plan(reply[0])
        immutable = ImmutablePart(plan, event_data(workflow_id, reply[1].decode(), plan))
        if len(_immutable_parts) >= _MAX_CACHED_WORKFLOWS:
            _immutable_parts.pop(next(iter(_immutable_parts)))
        _immutable_parts[workflow_id] = immutable
    return immutable
