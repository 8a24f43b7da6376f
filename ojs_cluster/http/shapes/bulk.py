"""The results of requests about many jobs, and bulk operations."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.http.shapes.common import Count, JobId, Moment, Pagination, QueueName
from ojs_cluster.http.shapes.keywords import between


class BulkError(TypedDict):
    """A job that was not changed, and why."""

    job_id: str
    error: str


class BulkItem(TypedDict):
    """The result of one job."""

    index: Count
    job_id: str
    status: str
    reason: NotRequired[str]
    error: NotRequired[str | dict[str, str]]


Changed = Literal["cancelled", "retried", "deleted", "purged"]


class ChangedCounts(TypedDict):
    """The number of changed jobs under the name of the change."""

    cancelled: NotRequired[Count]
    retried: NotRequired[Count]
    deleted: NotRequired[Count]
    purged: NotRequired[Count]


class PurgeCounts(ChangedCounts):
    """The numbers of jobs that were changed. ``purged_count`` to ``left`` are those of a purge."""

    purged_count: NotRequired[Count]
    states: NotRequired[list[str]]
    queue: NotRequired[QueueName]
    left: NotRequired[Count]


class BulkResult(PurgeCounts):
    """The counts of a bulk operation, or of a request with ids.

    The scheduler continues the operation while ``has_more`` is true. Of a purge, ``left`` is the
    number of jobs for which the client has to repeat the request.
    """

    action: BulkAction
    operation_id: NotRequired[str]
    state: NotRequired[str]
    total: NotRequired[Count]
    matched: Count
    total_matched: Count
    succeeded: Count
    failed: Count
    skipped: Count
    errors: list[BulkError]
    items: list[BulkItem]
    has_more: bool


class RetriedJobs(TypedDict):
    """How many jobs matched and were retried. With a cursor, the next request continues."""

    action: Literal["retry"]
    matched: Count
    retried: Count
    succeeded: Count
    failed: Count
    errors: list[BulkError]
    has_more: bool
    next_cursor: NotRequired[str]


class ShownBulkFilter(TypedDict, total=False):
    """The filter of a bulk operation."""

    states: list[str]
    queue: str
    type: str
    priority: int
    dead: bool
    queues: tuple[str, ...]
    error: dict[str, str]
    query: str
    since: Moment
    until: Moment
    older_than: Moment


class BulkFollower(TypedDict):
    """The operation that follows a dry run. It has no state after its removal."""

    id: JobId
    state: NotRequired[str]


class ShownBulkOperation(TypedDict):
    """A bulk operation. A dry run has ``followed_by`` if an operation was created to follow it."""

    id: JobId
    action: BulkAction
    state: str
    dry_run: bool
    filter: ShownBulkFilter
    examined: Count
    matched: Count
    succeeded: Count
    failed: Count
    failures: list[BulkError]
    created_by: str | None
    created_at: Moment
    priority: NotRequired[Annotated[int, between(-100, 100)]]
    target_queue: NotRequired[QueueName]
    ids: NotRequired[Count]
    ids_searched: NotRequired[bool]
    ended_at: NotRequired[Moment]
    reason: NotRequired[str]
    followed_by: NotRequired[BulkFollower]


class BulkOperationList(TypedDict):
    """A page of bulk operations."""

    items: list[ShownBulkOperation]
    pagination: Pagination


class AuditList(TypedDict):
    """A page of audit entries, newest first."""

    entries: list[dict[str, Any]]
    pagination: Pagination
