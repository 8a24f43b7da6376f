"""Types that many bodies use."""

from __future__ import annotations

from typing import Annotated, Any, Final, NotRequired, TypedDict

from ojs_cluster.core.jobs.options import MAX_PRIORITY, MAX_QUEUE_LENGTH, MAX_VISIBILITY_TIMEOUT_MS
from ojs_cluster.http.shapes.keywords import between, keywords

JOB_ID_PATTERN: Final = "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
QUEUE_PATTERN: Final = r"^[a-z0-9][a-z0-9.\-]*$"
TYPE_PATTERN: Final = r"^[a-z][a-z0-9_\-]*(\.[a-z][a-z0-9_\-]*)*$"

JobId = Annotated[str, keywords(pattern=JOB_ID_PATTERN)]
QueueName = Annotated[str, keywords(pattern=QUEUE_PATTERN, maxLength=MAX_QUEUE_LENGTH)]
JobType = Annotated[str, keywords(pattern=TYPE_PATTERN, maxLength=255)]
Moment = Annotated[str, keywords(format="date-time")]
Count = Annotated[int, keywords(minimum=0)]
Milliseconds = Annotated[float, keywords(minimum=0)]
Priority = Annotated[int, between(-MAX_PRIORITY, MAX_PRIORITY)]
VisibilityTimeout = Annotated[int, between(0, MAX_VISIBILITY_TIMEOUT_MS)]
Duration = Annotated[str, keywords(pattern="^P", examples=["PT30S"])]


class Pagination(TypedDict):
    """The page of a list. ``next_cursor`` is there if other pages follow.

    ``index`` is the field by which the index of the search has found the jobs. Then ``complete`` is
    false, because the index may lack jobs.
    """

    limit: Annotated[int, keywords(minimum=1)]
    offset: Count
    page: Annotated[int, keywords(minimum=1)]
    per_page: Annotated[int, keywords(minimum=1)]
    has_more: bool
    total: NotRequired[Count]
    total_exact: NotRequired[bool]
    examined: NotRequired[Count]
    index: NotRequired[str]
    complete: NotRequired[bool]
    next_cursor: NotRequired[str]


class ErrorMembers(TypedDict):
    """The error: a code for programs, a message for people, and a hint."""

    code: str
    type: str
    message: str
    retryable: bool
    hint: str
    docs_url: str
    doc_url: str
    details: dict[str, Any]
    request_id: str


class Error(TypedDict):
    """The body of every error response."""

    error: ErrorMembers


class ItemError(TypedDict):
    """The error of one item of a request."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]


class Deleted(TypedDict):
    """The job, dead letter or checkpoint is deleted."""

    deleted: bool
    job_id: JobId
