"""Agents in responses."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from ojs_cluster.http.shapes.common import Count

AgentState = Literal["running", "paused_human", "completed", "failed"]


class AgentDecision(TypedDict):
    """What a human decided."""

    approved: bool
    comment: str
    metadata: dict[str, Any]


class AgentPaused(TypedDict):
    """A paused agent."""

    job_id: str
    state: Literal["paused"]
    reason: str


class AgentResumed(TypedDict):
    """An agent that goes on."""

    job_id: str
    state: Literal["running"]
    decision: AgentDecision


class AgentBranch(TypedDict):
    """A branch. ``parents`` are the branches that were merged."""

    branch_id: str
    branch_name: str
    content_id: str
    turns: Count
    parents: list[str]


class AgentForked(AgentBranch):
    """A new branch."""

    parent_id: str
    job_id: str
    at_turn: Count


class AgentMerged(AgentBranch):
    """A merged branch, and the turns at which its parents conflict."""

    merged_id: str
    conflicts: list[str]
    job_id: str


class ToolRetried(TypedDict):
    """A counted retry. The provider is null if the job names none."""

    retried: bool
    provider: str | None
    tool_call_id: str
    attempt: Count
    job_id: str


class AgentStateAnswer(TypedDict):
    """An agent."""

    job_id: str
    state: AgentState
    job_state: str
    reason: str
    decision: AgentDecision | None
    branches: list[AgentBranch]
    tool_retries: dict[str, Count]
