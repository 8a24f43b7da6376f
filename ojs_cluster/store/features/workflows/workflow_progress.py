"""How far a workflow is: its state and node statuses, and the part that never changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ojs_cluster.core.errors import MalformedRecord
from ojs_cluster.core.workflow import Plan
from ojs_cluster.core.workflow_successors import Successors
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.workflows import validate_workflow
from ojs_cluster.store.features.workflows.workflows import event_data

_MAX_CACHED_NODES = 100_000
"""Maximum number of nodes of all workflows whose immutable part a process caches, about 50 MB."""


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
    """Return the workflow's progress; None when the workflow does not exist.

    Raises:
        MalformedRecord: the workflow's stored fields are malformed.
    """
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
    """Return the progress in a script's reply; None when the workflow does not exist.

    Raises:
        MalformedRecord: the workflow's stored fields are malformed.
    """
    if reply[0] == b"malformed":
        raise malformed(workflow_id)
    if reply[0] != b"ok":
        return None
    state, statuses = (value.decode(errors="replace") for value in reply[1:3])
    return WorkflowProgress(workflow_id, state, statuses, int(reply[3]))


def malformed(workflow_id: str) -> MalformedRecord:
    """Return the error for a workflow that a script has found malformed."""
    return MalformedRecord("workflow", workflow_id, "fields are missing or not numbers")


@dataclass(frozen=True, slots=True)
class ImmutablePart:
    """The part of a workflow that never changes, and so may be cached.

    Args:
        successors: the plan, by what each node's end may start.
        event_data: JSON members that the data of all events of the workflow have.
    """

    successors: Successors
    event_data: bytes

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.successors.plan


class ImmutableParts:
    """The immutable parts of the workflows that were used last."""

    def __init__(self) -> None:
        self._parts: dict[str, ImmutablePart] = {}
        self._nodes = 0

    def get(self, workflow_id: str) -> ImmutablePart | None:
        """Return the part of a workflow, None if it is not cached."""
        part = self._parts.pop(workflow_id, None)
        if part is not None:
            self._parts[workflow_id] = part  # as the last one
        return part

    def add(self, workflow_id: str, part: ImmutablePart) -> None:
        """Cache a part, and remove those that were not used for the longest time."""
        if workflow_id in self._parts:  # another task has read it at the same time
            return
        self._parts[workflow_id] = part
        self._nodes += len(part.plan.nodes)
        while self._nodes > _MAX_CACHED_NODES and len(self._parts) > 1:
            self._nodes -= len(self._parts.pop(next(iter(self._parts))).plan.nodes)

    def clear(self) -> None:
        """Remove all parts."""
        self._parts.clear()
        self._nodes = 0


_immutable_parts = ImmutableParts()


async def read_immutable_part(store: Store, workflow_id: str) -> ImmutablePart | None:
    """Return the workflow's immutable part; None if the workflow has been deleted.

    Raises:
        MalformedRecord: the workflow's plan is malformed.
    """
    immutable = _immutable_parts.get(workflow_id)
    if immutable is None:
        owner = store.keys.shard_of_id(workflow_id)
        names = ("plan", "name", "state")
        try:
            reply: Any = await store.redis.call(
                owner.slot, "HMGET", owner.workflow(workflow_id), *names, idempotent=True
            )
        except RedisReplyError as error:
            if error.has_wrong_type:
                raise malformed(workflow_id) from error
            raise
        if reply[0] is None:
            if reply[1] is None and reply[2] is None:
                return None
            raise malformed(workflow_id)
        plan = validate_workflow.parse_plan(workflow_id, reply[0])
        name = (reply[1] or b"").decode(errors="replace")
        immutable = ImmutablePart(Successors(plan), event_data(workflow_id, name, plan))
        _immutable_parts.add(workflow_id, immutable)
    return immutable
