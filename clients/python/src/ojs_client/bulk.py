"""Operations that change all jobs that match a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from ojs_client.options import JSON, State, iso_time


class JobFilter(TypedDict, total=False):
    """Which jobs an operation changes. A job must match all members, and the search too.

    Args:
        type: their type; a ``*`` at its end stands for any text.
        queue: their queue.
        states: their states.
        since: jobs that were created at this time or later.
        until: jobs that were created before this time.
        dead: True for dead letters only.
    """

    type: str
    queue: str
    states: Sequence[State]
    since: datetime
    until: datetime
    dead: bool


@dataclass(frozen=True, slots=True)
class BulkFailure:
    """A job that was not changed.

    Args:
        job_id: the job.
        reason: why.
    """

    job_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class BulkReport:
    """What became of all jobs that match.

    Args:
        operation_id: the id of the operation at the server.
        state: ``running``, ``stopping``, ``completed``, ``stopped`` or ``failed``.
        matched: number of jobs that matched so far.
        succeeded: number of jobs that were changed.
        failed: number of jobs that could not be changed.
        failures: the first of these.
    """

    operation_id: str
    state: str
    matched: int
    succeeded: int
    failed: int
    failures: tuple[BulkFailure, ...]

    @property
    def finished(self) -> bool:
        """Whether the operation has ended."""
        return self.state not in ("running", "stopping")

    @classmethod
    def from_json(cls, members: Mapping[str, JSON]) -> BulkReport:
        """Return the report of a response."""
        failures = members.get("failures", members.get("errors")) or ()
        return cls(
            operation_id=members.get("operation_id") or members["id"],
            state=members["state"],
            matched=members["matched"],
            succeeded=members["succeeded"],
            failed=members["failed"],
            failures=tuple(BulkFailure(each["job_id"], each["error"]) for each in failures),
        )


def filter_json(query: str | None, chosen: JobFilter) -> dict[str, JSON]:
    """Return the filter of a request.

    Raises:
        ValueError: a time has no time zone.
    """
    body: dict[str, JSON] = {} if query is None else {"query": query}
    for name, value in chosen.items():
        if isinstance(value, datetime):
            value = iso_time(value)
        body[name] = list(value) if name == "states" else value  # type: ignore[call-overload]
    return body
