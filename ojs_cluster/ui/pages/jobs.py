"""The list of jobs: by state, by queue, by type, and by a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.raw_json import object_members, string
from ojs_cluster.core.search import parse_search
from ojs_cluster.ui.json_view import short_json
from ojs_cluster.ui.languages.translate import _, ngettext
from ojs_cluster.ui.pages.bulk import ACTIONS, SCOPES
from ojs_cluster.ui.redaction.redaction import ERROR, Value
from ojs_cluster.ui.redaction.rules import HIDDEN_JSON
from ojs_cluster.ui.redaction.searches import why_not_searched
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit

PER_PAGE: Final = 50
MAX_SORTED: Final = 2000
"""Maximum number of active jobs that are sorted by their start, to bound what a refresh costs."""
_FILTERS: Final = ("state", "queue", "type", "query")
_MAX_IN_ROW: Final = 8 * 1024
"""Maximum size in bytes of a value in which a row hides parts; see ``hide_in_rows``."""
_NO_ARGS: Final = msgspec.Raw(b"[]")
_ABSENT: Final = msgspec.Raw(b"null")
STATES: Final = (
    State.AVAILABLE,
    State.ACTIVE,
    State.SCHEDULED,
    State.RETRYABLE,
    State.PENDING,
    State.COMPLETED,
    State.DISCARDED,
    State.CANCELLED,
)


class JobRow(msgspec.Struct):
    """What a row shows of a job. The args stay raw: they can be large, or have large numbers."""

    id: str
    type: str
    state: str
    queue: str
    created_at: str
    attempt: int = 0
    max_attempts: Any = None
    priority: int = 0
    args: msgspec.Raw = _NO_ARGS
    enqueued_at: str | None = None
    scheduled_at: str | None = None
    started_at: str | None = None
    next_attempt_at: str | None = None
    completed_at: str | None = None
    cancelled_at: str | None = None
    discarded_at: str | None = None
    worker_id: str | None = None
    error: msgspec.Raw = _ABSENT

    @property
    def changed_at(self) -> str:
        """When the job reached its state; if it waits for a time, that time."""
        return (
            {
                "scheduled": self.scheduled_at,
                "retryable": self.next_attempt_at,
                "active": self.started_at,
                "completed": self.completed_at,
                "cancelled": self.cancelled_at,
                "discarded": self.discarded_at,
            }.get(self.state)
            or self.enqueued_at
            or self.created_at
        )

    @property
    def error_message(self) -> str:
        """The message of the last error; empty if there is none."""
        message = (object_members(self.error) or {}).get("message", _ABSENT)
        return (string(message) or "")[:300]


class _Listed(msgspec.Struct):
    items: list[JobRow]
    pagination: dict[str, Any]


decode_jobs: Final = msgspec.json.Decoder(_Listed).decode
"""Return a page of jobs as the API lists them."""


async def show_all(visit: Visit) -> Answer:
    """List jobs, newest first. A search for one id opens the job."""
    filters = {name: visit.query.get(name, "").strip() for name in _FILTERS}
    if filters["state"] not in [state.value for state in STATES]:
        filters["state"] = ""
    named = _only_id(filters["query"] or filters["type"] or filters["queue"])
    if named and (target := await _place_of(visit, named)):
        return SeeOther(target)
    if is_job_id(filters["query"].lower()):
        filters["query"] = f"id:{named}"
    refusal = why_not_searched(filters["query"], visit.redaction)
    listed = _Listed([], {})
    cursor = visit.query.get("cursor", "")
    by_start = await _sorts_by_start(visit, filters, cursor)
    scan = "1" if visit.query.get("scan") else ""
    order = {"sort": "started_at", "order": "asc"} if by_start else {}
    try:
        if not refusal:
            listed = decode_jobs(
                await visit.get(
                    "admin",
                    "jobs",
                    **filters,
                    **order,
                    index="false" if scan else "",
                    cursor=cursor,
                    per_page=PER_PAGE,
                )
            )
    except ApiError as error:
        if error.status not in (400, 422):
            raise
        refusal = error.sentence  # a mistake in the search: the page explains it beside the form
    await hide_in_rows(visit, listed.items)
    return Page(
        "jobs.html",
        {
            "jobs": listed.items,
            "args_of": lambda job: short_json(bytes(job.args)),
            "pagination": listed.pagination,
            "filters": filters,
            "refusal": refusal,
            "named": named,
            "states": [state.value for state in STATES],
            "counts": await _counts(visit, filters),
            "cursor": cursor,
            "scan": scan,
            "by_start": by_start,
            # A refresh leaves the banner as it is.
            "newer": None
            if visit.is_refresh
            else {"some": _by_number(_new_jobs), "more": _by_number(_at_least)},
            "may_enqueue": visit.may_change(Scope.DATA_WRITE),
            "actions": [
                (name, _(label))
                for name, label in ACTIONS.items()
                if visit.may_change(SCOPES[name])
            ],
        },
        400 if refusal else 200,
    )


def _new_jobs(count: int) -> str:
    return ngettext(
        "%(number)s new job: show it", "%(number)s new jobs: show them", count, number="%"
    )


def _at_least(count: int) -> str:
    return ngettext(
        "%(number)s or more new jobs: show them",
        "%(number)s or more new jobs: show them",
        count,
        number="%",
    )


def _by_number(text_of: Callable[[int], str]) -> tuple[list[str], str]:
    """Return the texts for 1, 2 and so on up to a page, for scripts.

    Each is there once, followed by a digit for each number: which text it has.
    """
    texts = [text_of(count) for count in range(1, PER_PAGE + 1)]
    forms = list(dict.fromkeys(texts))
    return forms, "".join(str(forms.index(text)) for text in texts)


async def hide_in_rows(visit: Visit, rows: Sequence[JobRow]) -> None:
    """Replace what the operator hides in the args and errors of rows.

    Larger values are hidden as a whole: a row shows little of them.
    """
    if not visit.redaction.active:
        return
    parts = [(row, name) for row in rows for name in ("args", "error")]
    values = []
    for row, name in parts:
        path = ("args",) if name == "args" else ERROR
        raw = bytes(getattr(row, name))
        values.append(Value(raw if len(raw) <= _MAX_IN_ROW else HIDDEN_JSON, path, row.type))
    for (row, name), shown in zip(parts, await visit.redaction.apply(values), strict=True):
        setattr(row, name, msgspec.Raw(shown))


def _only_id(query: str) -> str:
    """Return the id that is all a search names: bare, or as ``id:ID``; empty for another search."""
    bare = query.lower()
    if is_job_id(bare):
        return bare
    try:
        search = parse_search(query, now_ms=0)
    except InvalidRequest:
        return ""
    ids = search.exact_values("id") or frozenset()
    is_only = len(search.terms) == 1 and search.since_ms is None and search.until_ms is None
    return next(iter(ids)) if is_only and len(ids) == 1 else ""


async def _place_of(visit: Visit, named: str) -> str:
    """Return the address of the job, or of the workflow, with this id; empty if there is none."""
    for page, path in (("jobs", ("admin", "jobs", named)), ("workflows", ("workflows", named))):
        try:
            await visit.get(*path)
        except ApiError as error:
            if error.status not in (400, 403, 404, 422):
                raise
        else:
            return visit.url(page, named)
    return ""


async def _sorts_by_start(visit: Visit, filters: dict[str, str], cursor: str) -> bool:
    """Return whether the list begins with the jobs that have run for the longest time.

    Only active jobs do, without a search. A page reads all of them to sort them, so there is a
    maximum number. The other pages of a list have the order of the first one.
    """
    if filters["state"] != State.ACTIVE or filters["query"]:
        return False
    if cursor:
        return visit.query.get("by") == "start"
    counts = await _counts(visit, {**filters, "type": ""})
    return counts.get(State.ACTIVE, MAX_SORTED + 1) <= MAX_SORTED


async def _counts(visit: Visit, filters: dict[str, str]) -> dict[str, int]:
    """Return the number of jobs by state, in the chosen queue; nothing for another filter."""
    if filters["query"] or filters["type"]:
        return {}
    try:
        raw = await visit.shared("admin", "stats", queue=filters["queue"])
    except ApiError:
        return {}
    counts: dict[str, int] = orjson.loads(raw)["jobs"]
    return counts
