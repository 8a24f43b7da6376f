"""Pause, resume, fork and merge the agent that a job runs, and retry its tool calls.

The operations are those of ``ext_agent_v2``, as the conformance suites and the agent clients of the
SDKs use them. The server runs no agent and so cannot replay one: it has no such endpoint.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from ojs_cluster.core.agents.record import (
    MAX_NAME,
    MAX_TURNS,
    STRATEGIES,
    AgentRecord,
    Branch,
    HumanDecision,
)
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import agents as shapes
from ojs_cluster.http.shapes.keywords import between, keywords
from ojs_cluster.store.features.agents import agents

MAX_TEXT: Final = 2000
"""Maximum number of characters of a reason, a comment or an error."""
MAX_METADATA: Final = 4096
"""Maximum size in bytes of the metadata of a decision."""

# The annotations describe the bodies in the OpenAPI document. The handlers check the values, except
# the names of branches: one that is too long is the name of no branch.
_Text = Annotated[str, keywords(maxLength=MAX_TEXT)]
_Name = Annotated[str, keywords(maxLength=MAX_NAME)]


class PauseBody(msgspec.Struct, frozen=True):
    """Why the agent is paused."""

    reason: _Text = ""


class ResumeBody(msgspec.Struct, frozen=True):
    """The decision of a human. The agent goes on in either case, and reads the decision."""

    approved: bool = True
    comment: _Text = ""
    metadata: dict[str, Any] | None = None


class ForkBody(msgspec.Struct, frozen=True):
    """The number of turns of the branch, and its name."""

    at_turn: Annotated[int, between(0, MAX_TURNS)] = 0
    branch_name: _Name = ""


class MergeBody(msgspec.Struct, frozen=True):
    """Two branches, each by its id, its name or its content id."""

    branch_a: _Name
    branch_b: _Name
    strategy: Annotated[str, keywords(enum=list(STRATEGIES))] = "ours"


class ToolRetryBody(msgspec.Struct, frozen=True):
    """The tool call that failed, and whether the alternate provider is to be used.

    SDKs send the ``error`` too, which the server checks and does not store.
    """

    tool_call_id: Annotated[str, keywords(minLength=1, maxLength=MAX_NAME)]
    error: _Text = ""
    use_alternate: bool = False


_pause_decoder = msgspec.json.Decoder(PauseBody)
_resume_decoder = msgspec.json.Decoder(ResumeBody)
_fork_decoder = msgspec.json.Decoder(ForkBody)
_merge_decoder = msgspec.json.Decoder(MergeBody)
_tool_retry_decoder = msgspec.json.Decoder(ToolRetryBody)


async def pause(app: App, request: Request, job_id: str) -> Response:
    """Pause an agent. Its job is not fetched until the agent is resumed.

    An available job becomes pending. An attempt that runs may end; if it does not complete the job,
    the job waits for the agent too.
    """
    fields.job_id(job_id)
    body = decode(_pause_decoder, request, app.settings.limits, optional=True)
    await agents.pause(app.store, job_id, _text(body.reason, "reason"))
    return replies.json_response(
        200, shapes.AgentPaused(job_id=job_id, state="paused", reason=body.reason)
    )


async def resume(app: App, request: Request, job_id: str) -> Response:
    """Resume a paused agent with the decision of a human. A job that was held is available."""
    fields.job_id(job_id)
    body = decode(_resume_decoder, request, app.settings.limits, optional=True)
    metadata = body.metadata or {}
    if len(msgspec.json.encode(metadata)) > MAX_METADATA:
        raise InvalidRequest(f"metadata may have {MAX_METADATA} bytes", field="metadata")
    decision = HumanDecision(body.approved, _text(body.comment, "comment"), metadata)
    await agents.resume(app.store, job_id, decision)
    return replies.json_response(
        200, shapes.AgentResumed(job_id=job_id, state="running", decision=_decision(decision))
    )


async def fork(app: App, request: Request, job_id: str) -> Response:
    """Add a branch to an agent: its history up to a turn.

    Turn n is the n-th entry of the list ``turns`` in the checkpoint of the job.
    """
    fields.job_id(job_id)
    body = decode(_fork_decoder, request, app.settings.limits, optional=True)
    name = _text(body.branch_name, "branch_name", MAX_NAME)
    branch = await agents.fork(app.store, job_id, body.at_turn, name)
    forked: shapes.AgentForked = {
        **_branch(branch),
        "parent_id": job_id,
        "job_id": job_id,
        "at_turn": body.at_turn,
    }
    return replies.json_response(200, forked)


async def merge(app: App, request: Request, job_id: str) -> Response:
    """Merge two branches. They conflict at each turn that both have with different content."""
    fields.job_id(job_id)
    body = decode(_merge_decoder, request, app.settings.limits)
    if body.strategy not in STRATEGIES:
        raise InvalidRequest(f"strategy must be one of {', '.join(STRATEGIES)}", field="strategy")
    branch, conflicts = await agents.merge(
        app.store, job_id, body.branch_a, body.branch_b, body.strategy
    )
    merged: shapes.AgentMerged = {
        **_branch(branch),
        "merged_id": branch.content_id,
        "conflicts": conflicts,
        "job_id": job_id,
    }
    return replies.json_response(200, merged)


async def tool_retry(app: App, request: Request, job_id: str) -> Response:
    """Count the retry of a tool call, and return the provider that it goes to.

    ``ext_agent_v2.tool_retry`` of the job has ``max_attempts`` (3 by default), ``provider`` and
    ``alternate_provider``.
    """
    fields.job_id(job_id)
    body = decode(_tool_retry_decoder, request, app.settings.limits)
    call_id = _text(body.tool_call_id, "tool_call_id", MAX_NAME)
    _text(body.error, "error")
    if not call_id:
        raise InvalidRequest("tool_call_id must not be empty", field="tool_call_id")
    provider, number = await agents.retry_tool(app.store, job_id, call_id, body.use_alternate)
    return replies.json_response(
        200,
        shapes.ToolRetried(
            retried=True, provider=provider, tool_call_id=call_id, attempt=number, job_id=job_id
        ),
    )


async def state(app: App, _request: Request, job_id: str) -> Response:
    """Return the state of an agent, its last decision and its branches."""
    job, record = await agents.read(app.store, fields.job_id(job_id))
    return replies.json_response(
        200,
        shapes.AgentStateAnswer(
            job_id=job_id,
            state=_state(job.state, record),
            job_state=str(job.state),
            reason=record.reason,
            decision=None if record.decision is None else _decision(record.decision),
            branches=[_branch(each) for each in record.branches],
            tool_retries=record.retries,
        ),
    )


def _state(job_state: State, record: AgentRecord) -> shapes.AgentState:
    """Return the state by the names of the SDKs. The suites name that of ``pause`` otherwise."""
    if job_state is State.COMPLETED:
        return "completed"
    if job_state in (State.CANCELLED, State.DISCARDED):
        return "failed"
    return "paused_human" if record.paused else "running"


def _branch(branch: Branch) -> shapes.AgentBranch:
    return {
        "branch_id": branch.id,
        "branch_name": branch.name,
        "content_id": branch.content_id,
        "turns": len(branch.digests),
        "parents": list(branch.parents),
    }


def _decision(decision: HumanDecision) -> shapes.AgentDecision:
    return {
        "approved": decision.approved,
        "comment": decision.comment,
        # orjson has no integers beyond 64 bits.
        "metadata": replies.encoded(msgspec.json.encode(decision.metadata)),
    }


def _text(text: str, field: str, most: int = MAX_TEXT) -> str:
    """Return ``text``.

    Raises:
        InvalidRequest: it has more than ``most`` characters.
    """
    if len(text) > most:
        raise InvalidRequest(f"{field} may have {most} characters", field=field)
    return text
