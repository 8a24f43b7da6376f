"""The jobs of the fake server."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ojs_client.options import is_job_type, is_queue
from ojs_client.testing.limit_policies import Policy, policy_of
from ojs_client.testing.refusals import invalid
from ojs_client.testing.retries import Retries
from ojs_client.testing.times import iso, time_ms
from ojs_client.testing.uniqueness import Uniqueness

ENDED: Final = ("completed", "cancelled", "discarded")
_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_OWN_FORM: Final = {"queue", "priority", "retry", "unique", "scheduled_at", "expires_at"}
"""Options that the envelope of a job shows in another form. It repeats the others as they are."""


def new_id(now_ms: int) -> str:
    """Return a UUIDv7."""
    random = os.urandom(10).hex()
    time = f"{now_ms:012x}"
    return f"{time[:8]}-{time[8:]}-7{random[:3]}-8{random[3:6]}-{random[6:18]}"


@dataclass(slots=True, eq=False)
class FakeJob:
    """A job.

    Attributes:
        id: its id.
        type: its type.
        queue: its queue.
        args: its arguments.
        meta: its metadata.
        options: the options of the enqueue request.
        priority: its priority.
        retries: its retry policy.
        uniqueness: its uniqueness policy; None if it is not unique.
        limit: the rate limit that it declares; None without one.
        created_ms: when it was created. All times are Unix times in milliseconds.
        enqueued_ms: when it became available, or was created.
        scheduled_ms: the time for which the producer has scheduled it; None for now.
        due_ms: when it becomes available; None if it is neither scheduled nor retryable.
        expired: whether it is discarded because it has expired.
        expires_ms: when it is discarded unless it has started; None for never.
        state: its state.
        order: its position among jobs of the same priority.
        attempt: number of attempts that have started.
        lease_id: the lease of the last attempt; empty before the first.
        lease_ms: length of this lease in milliseconds.
        lost_ms: when this lease ends, unless a heartbeat or a progress report extends it.
        worker_id: the worker of the last attempt.
        starts: number, time and worker of each attempt that has started.
        started_ms: when the last attempt has started.
        finished_ms: when it has ended.
        retry_delay_ms: the backoff after the last failure; None without a retry, and after the ack.
        errors: the errors of its failed attempts.
        result: its result.
        progress: what the worker has reported last.
        checkpoint: the last checkpoint; None without one.
        workflow: id of the workflow and number of the step; None if it is no step.
        parent_results: results of earlier steps.
        cancel_requested: whether it is cancelled instead of running again.
    """

    id: str
    type: str
    queue: str
    args: list[Any]
    meta: dict[str, Any]
    options: Mapping[str, Any]
    priority: int
    retries: Retries
    uniqueness: Uniqueness | None
    created_ms: int
    enqueued_ms: int
    limit: Policy | None = None
    scheduled_ms: int | None = None
    due_ms: int | None = None
    expires_ms: int | None = None
    expired: bool = False
    state: str = "available"
    order: int = 0
    attempt: int = 0
    lease_id: str = ""
    lease_ms: int = 0
    lost_ms: int = 0
    worker_id: str = ""
    starts: list[tuple[int, int, str]] = field(default_factory=list)
    started_ms: int | None = None
    finished_ms: int | None = None
    retry_delay_ms: int | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    result: Any = None
    progress: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] | None = None
    workflow: tuple[str, int] | None = None
    parent_results: list[Any] = field(default_factory=list)
    cancel_requested: bool = False

    @classmethod
    def from_request(cls, body: Any, now_ms: int) -> FakeJob:
        """Return the job that an enqueue request describes.

        Raises:
            Refusal: the job is invalid.
        """
        if not isinstance(body, dict):
            raise invalid("a job must be an object", "body")
        type, args, meta = body.get("type"), body.get("args"), body.get("meta") or {}
        options = body.get("options") or {}
        queue, priority = options.get("queue", "default"), options.get("priority", 0)
        if not isinstance(type, str) or not is_job_type(type):
            raise invalid(f"type must be lower-case words joined by dots, not {type!r}", "type")
        if not isinstance(args, list):
            raise invalid("args must be an array", "args")
        if not isinstance(queue, str) or not is_queue(queue):
            raise invalid(f"{queue!r} is not the name of a queue", "options.queue")
        if not isinstance(priority, int) or not -100 <= priority <= 100:
            raise invalid("priority must be an integer from -100 to 100", "options.priority")
        id = body.get("id")
        if id is not None and not _ID.fullmatch(str(id)):
            raise invalid("id must be a UUIDv7 in lower case", "id")
        unique = options.get("unique")
        job = cls(
            id=id or new_id(now_ms),
            type=type,
            queue=queue,
            args=args,
            meta=meta,
            options=options,
            priority=priority,
            retries=Retries(options.get("retry") or {}),
            uniqueness=Uniqueness(unique, type, queue, args, meta) if unique else None,
            created_ms=now_ms,
            enqueued_ms=now_ms,
            limit=policy_of(options.get("rate_limit"), queue),
        )
        if "scheduled_at" in options:
            job.schedule(time_ms(options["scheduled_at"], now_ms, "options.scheduled_at"), now_ms)
        if "expires_at" in options:
            job.expires_ms = time_ms(options["expires_at"], now_ms, "options.expires_at")
        return job

    def schedule(self, at_ms: int, now_ms: int) -> None:
        """Schedule a new job."""
        self.scheduled_ms = at_ms
        if at_ms > now_ms:
            self.due_ms, self.state = at_ms, "scheduled"

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.state in ENDED

    def is_held_by(self, worker_id: str, lease_id: str) -> bool:
        """Return whether a caller that names these ids holds the lease."""
        return lease_id in ("", self.lease_id) and worker_id in ("", self.worker_id)

    def json(self, *, lease: bool = False) -> dict[str, Any]:
        """Return the envelope.

        Args:
            lease: whether the response is that of the fetch that has created the lease.
        """
        value: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "type": self.type,
            "queue": self.queue,
            "priority": self.priority,
            "max_attempts": self.retries.max_attempts,
            "args": self.args,
            "meta": self.meta,
            **{name: self.options[name] for name in self.options if name not in _OWN_FORM},
            "state": self.state,
            "attempt": self.attempt,
            "created_at": iso(self.created_ms),
            "enqueued_at": iso(self.enqueued_ms),
        }
        if "retry" in self.options:
            value["retry"] = self.retries.json()
        if self.uniqueness is not None:
            value["unique"] = self.uniqueness.json()
        if self.scheduled_ms is not None:
            value["scheduled_at"] = iso(self.scheduled_ms)
        if self.expires_ms is not None:
            value["expires_at"] = iso(self.expires_ms)
        value |= self._attempt_json(lease)
        if self.finished_ms is not None:
            value[f"{self.state}_at"] = iso(self.finished_ms)
            if self.state == "discarded" and not self.expired:
                value["completed_at"] = iso(self.finished_ms)
        if self.state == "completed":
            value["result"] = self.result
        if self.workflow is not None:
            value |= {"workflow_id": self.workflow[0], "workflow_step": self.workflow[1]}
        if self.parent_results:
            value["parent_results"] = self.parent_results
        return value

    def _attempt_json(self, lease: bool) -> dict[str, Any]:
        value: dict[str, Any] = {}
        if self.started_ms is not None:
            value["started_at"] = iso(self.started_ms)
        if self.state == "active":
            value["worker_id"] = self.worker_id
            if lease:
                value["lease_id"] = self.lease_id
        if self.retry_delay_ms is not None:
            value["retry_delay_ms"] = self.retry_delay_ms
        if self.state == "retryable" and self.due_ms is not None:
            value["next_attempt_at"] = iso(self.due_ms)
        if self.errors:
            value["errors"] = self.errors
            if self.state != "completed":
                value["error"] = self.errors[-1]
        if "progress" in self.progress:
            value["progress"] = 1.0 if self.state == "completed" else self.progress["progress"]
        if "data" in self.progress:
            value["progress_data"] = self.progress["data"]
        if lease and self.checkpoint is not None:
            value["checkpoint"] = self.checkpoint
        return value
