"""Jobs, results, workflows and cron jobs as the server returns them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ojs_client.options import JSON, State


def parse_time(text: Any) -> datetime | None:
    """Return a time of a server's response; None if there is none."""
    return datetime.fromisoformat(text) if isinstance(text, str) else None


@dataclass(frozen=True, slots=True)
class JobError:
    """The error of a failed attempt.

    Args:
        attempt: the number of the attempt.
        code: its code, such as ``handler_error``.
        type: its type: the class of the exception, or the code.
        message: its message.
        occurred_at: when the attempt failed.
        members: all members that the server sent, such as ``backtrace``.
    """

    attempt: int
    code: str
    type: str
    message: str
    occurred_at: datetime | None
    members: Mapping[str, JSON]

    @classmethod
    def from_json(cls, members: Mapping[str, JSON]) -> JobError:
        """Return the error that the server sent as ``members``."""
        return cls(
            attempt=members.get("attempt", 0),
            code=members.get("code", ""),
            type=members.get("type", ""),
            message=members.get("message", ""),
            occurred_at=parse_time(members.get("occurred_at")),
            members=members,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A job.

    Args:
        id: its id.
        type: its type.
        queue: its queue.
        state: its state, such as ``available``.
        args: its arguments.
        meta: its metadata.
        priority: its priority; higher runs earlier.
        attempt: number of attempts that have started.
        max_attempts: number of attempts that its retry policy allows.
        created_at: when it was created.
        error: the error of its last failed attempt; None if it has none.
        deduplicated: whether an enqueue returned this earlier job and created no job.
        members: all members that the server sent.
    """

    id: str
    type: str
    queue: str
    state: State
    args: list[JSON]
    meta: dict[str, JSON]
    priority: int
    attempt: int
    max_attempts: int
    created_at: datetime | None
    error: Mapping[str, JSON] | None
    deduplicated: bool
    members: Mapping[str, JSON]

    @classmethod
    def from_json(cls, members: Mapping[str, JSON], *, deduplicated: bool = False) -> Job:
        """Return the job that the server sent as ``members``."""
        return cls(
            id=members["id"],
            type=members["type"],
            queue=members["queue"],
            state=members["state"],
            args=members.get("args") or [],
            meta=members.get("meta") or {},
            priority=members.get("priority", 0),
            attempt=members.get("attempt", 0),
            max_attempts=members.get("max_attempts", 0),
            created_at=parse_time(members.get("created_at")),
            error=members.get("error"),
            deduplicated=deduplicated,
            members=members,
        )

    @property
    def tags(self) -> list[str]:
        """Its tags."""
        return self.members.get("tags") or []

    @property
    def progress(self) -> float | None:
        """How far it is, from 0 to 1; None if no handler has reported it."""
        return self.members.get("progress")

    @property
    def result(self) -> JSON:
        """What its handler has returned; None if it is not completed."""
        return self.members.get("result")

    @property
    def errors(self) -> list[JobError]:
        """The errors of its failed attempts, oldest first."""
        return [JobError.from_json(each) for each in self.members.get("errors") or ()]

    @property
    def finished(self) -> bool:
        """Whether the job has ended: completed, cancelled or discarded."""
        return self.state in ("completed", "cancelled", "discarded")


@dataclass(frozen=True, slots=True)
class WorkflowStep:
    """A step of a workflow. ``job_id`` is None until the step is enqueued."""

    id: str
    type: str
    state: str
    job_id: str | None
    result: JSON
    error: Mapping[str, JSON] | None


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow.

    Args:
        id: its id.
        type: chain, group, batch or dag.
        name: its name; empty without one.
        state: running, completed, failed or cancelled.
        steps: its steps, callbacks not included.
        members: all members that the server sent.
    """

    id: str
    type: str
    name: str
    state: str
    steps: tuple[WorkflowStep, ...]
    members: Mapping[str, JSON]

    @classmethod
    def from_json(cls, members: Mapping[str, JSON]) -> Workflow:
        """Return the workflow of a response."""
        steps = tuple(
            WorkflowStep(
                step["id"],
                step["type"],
                step["state"],
                step.get("job_id"),
                step.get("result"),
                step.get("error"),
            )
            for step in members.get("steps", ())
        )
        name = members.get("name") or ""
        return cls(members["id"], members["type"], name, members["state"], steps, members)

    @property
    def finished(self) -> bool:
        """Whether the workflow has ended."""
        return self.state != "running"


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron job. ``next_run_at`` is None while it is disabled."""

    name: str
    expression: str
    timezone: str
    enabled: bool
    next_run_at: datetime | None
    members: Mapping[str, JSON]

    @classmethod
    def from_json(cls, members: Mapping[str, JSON]) -> Cron:
        """Return the cron job of a response."""
        return cls(
            members["name"],
            members["expression"],
            members.get("timezone") or "UTC",
            bool(members.get("enabled", True)),
            parse_time(members.get("next_run_at")),
            members,
        )
