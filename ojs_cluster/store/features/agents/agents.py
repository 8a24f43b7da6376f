"""Change the agent that a job runs: pause, resume, fork, merge, retry of a tool call.

The record of the agent is a field of the job, so it ends with the job. ``agent_write.lua`` stores a
new record and holds or releases the job in one step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

import orjson

from ojs_cluster.core.agents import record as core
from ojs_cluster.core.agents.record import AgentRecord, Branch, HumanDecision
from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.by_id import RecordChanged, run_for_reply
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.progress.checkpoints import read_checkpoint
from ojs_cluster.store.ground import job_fields as f

T = TypeVar("T")

_MAX_TRIES: Final = 20
"""How often a change is made again because other clients have changed the record."""


async def read(store: Store, job_id: str) -> tuple[JobRecord, AgentRecord]:
    """Return a job and the record of its agent; an empty record if nothing was recorded.

    Raises:
        NotFound: no such job.
        MalformedJob: the job's stored fields are malformed.
        BackendUnavailable: Redis did not answer in time.
    """
    job = await read_jobs.get(store, job_id)
    return job, core.decode(job.fields.get(f.AGENT, b""))


async def pause(store: Store, job_id: str, reason: str) -> None:
    """Pause an agent. No fetch takes its job until it is resumed; an attempt that runs may end.

    Raises:
        NotFound: no such job.
        Conflict: the agent is paused, or the job has ended.
        BackendUnavailable: Redis did not answer in time.
    """
    await _change(store, job_id, "pause", lambda _, old: (core.pause(old, reason), None))


async def resume(store: Store, job_id: str, decision: HumanDecision) -> None:
    """Resume a paused agent.

    Raises:
        NotFound: no such job.
        Conflict: the agent is not paused, or the job has ended.
        BackendUnavailable: Redis did not answer in time.
    """
    await _change(store, job_id, "resume", lambda _, old: (core.resume(old, decision), None))


async def fork(store: Store, job_id: str, at_turn: int, name: str) -> Branch:
    """Add a branch; see ``core.agents.record.fork``.

    Raises:
        NotFound: no such job.
        Conflict: the turn does not exist, the name is taken, or the job has ended.
        InvalidRequest: ``at_turn`` is out of range.
        BackendUnavailable: Redis did not answer in time.
    """
    checkpoint = await read_checkpoint(store, job_id)
    state = orjson.loads(checkpoint.state) if checkpoint is not None else None
    found = state.get("turns") if isinstance(state, dict) else None
    turns = found if isinstance(found, list) else []

    def change(job: JobRecord, old: AgentRecord) -> tuple[AgentRecord, Branch]:
        envelope = orjson.loads(job.json())
        content = {name: envelope.get(name) for name in ("type", "args")}
        return core.fork(old, content, turns, at_turn, name)

    return await _change(store, job_id, "", change)


async def merge(
    store: Store, job_id: str, first: str, second: str, strategy: str
) -> tuple[Branch, list[str]]:
    """Merge two branches; return the merged branch and the turns at which they conflict.

    Raises:
        NotFound: no such job or branch.
        Conflict: there are too many branches or turns, or the job has ended.
        BackendUnavailable: Redis did not answer in time.
    """

    def change(_: JobRecord, old: AgentRecord) -> tuple[AgentRecord, tuple[Branch, list[str]]]:
        new, branch, conflicts = core.merge(old, first, second, strategy)
        return new, (branch, conflicts)

    return await _change(store, job_id, "", change)


async def retry_tool(
    store: Store, job_id: str, call_id: str, use_alternate: bool
) -> tuple[str | None, int]:
    """Count a retry of a tool call; return the provider to use and the number of the retry.

    Raises:
        NotFound: no such job.
        Conflict: there is no alternate provider or no retry left, or the job has ended.
        BackendUnavailable: Redis did not answer in time.
    """

    def change(job: JobRecord, old: AgentRecord) -> tuple[AgentRecord, tuple[str | None, int]]:
        new, provider, number = core.retry_tool(old, tool_options(job), call_id, use_alternate)
        return new, (provider, number)

    return await _change(store, job_id, "", change)


def tool_options(job: JobRecord) -> dict[str, Any]:
    """Return the member ``tool_retry`` of the job's ``ext_agent_v2``; empty if it is no object."""
    agent = orjson.loads(job.json()).get("ext_agent_v2")
    options = agent.get("tool_retry") if isinstance(agent, dict) else None
    return options if isinstance(options, dict) else {}


async def _change(
    store: Store,
    job_id: str,
    action: Literal["pause", "resume", ""],
    change: Callable[[JobRecord, AgentRecord], tuple[AgentRecord, T]],
) -> T:
    """Store what ``change`` makes of a job and the record of its agent."""
    for _ in range(_MAX_TRIES):
        job, old = await read(store, job_id)
        if job.state in TERMINAL:
            raise Conflict(f"job '{job_id}' is {job.state}", job_id=job_id, state=str(job.state))
        new, result = change(job, old)
        args = [store.events_arg, job.fields.get(f.AGENT, b""), core.encode(new), action]
        keys = ("expiring", "pending", "events")
        try:
            await run_for_reply(store, "agent_write", job_id, keys, args, idempotent=True)
        except RecordChanged:
            continue
        return result
    raise Conflict(f"the agent of job '{job_id}' is being changed by others", job_id=job_id)
