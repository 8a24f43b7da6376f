"""Read the filters and the ids of requests about many jobs.

An unknown member of a filter is an error, because the client may mean it as a condition. A filter
may name one state (``state``) or several (``states``, or a list as ``state``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ojs_cluster.core.access.scopes import Principal, QueuePatterns, Scope
from ojs_cluster.core.bulk.selection import ALLOWED_STATES, DEFAULT_STATES, BulkAction, Selection
from ojs_cluster.core.durations import MAX_DURATION_MS, parse_duration_ms
from ojs_cluster.core.errors import InvalidRequest, PayloadTooLarge, PermissionDenied
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.options import check_priority, check_queue, is_queue
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.search import Search, parse_search
from ojs_cluster.http import fields
from ojs_cluster.http.authorization.queue_scope import check_queues
from ojs_cluster.http.handlers.jobs import state_of
from ojs_cluster.http.messages import Request
from ojs_cluster.http.shapes.common import Priority, QueueName
from ojs_cluster.store.features.bulk_records.operations import MAX_IDS

_SHORT_AGE: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d|w)")
_UNIT_MS: Final = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 7 * 86_400_000,
}
_MAX_TYPE: Final = 255  # characters
_MAX_ERROR: Final = 1000
"""Maximum number of characters of the type and the message of an error group."""


class ErrorBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last error of a job: its group, as ``GET /ojs/v1/admin/errors`` shows it, or its age."""

    type: str | None = None
    message: str | None = None
    since: str | None = None
    until: str | None = None


class FilterBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The filter of a request. A member that is absent admits all jobs."""

    queue: QueueName | None = None
    state: str | list[str] | None = None
    states: list[str] | None = None
    type: str | None = None
    priority: Priority | None = None
    older_than: str | None = None
    since: str | None = None
    until: str | None = None
    enqueued_after: str | None = None
    enqueued_before: str | None = None
    dead: bool = False
    error: ErrorBody | None = None
    query: str | None = None


def is_unconditional(given: FilterBody) -> bool:
    """Return whether a filter has no condition, so that it admits every job an action allows.

    The type ``*`` admits all jobs, so it is no condition. Neither is a search such as ``queue:*``.

    Raises:
        InvalidRequest: the search is invalid.
    """
    search = _search_of(given, 0, "filter")
    if search is not None and search.admits_all:
        given = msgspec.structs.replace(given, query=None)
    return given in (FilterBody(), FilterBody(type="*"))


def selection_of(
    action: BulkAction,
    given: FilterBody,
    request: Request,
    now_ms: int,
    field: str = "filter",
) -> Selection:
    """Return the jobs that a filter chooses for an action.

    Args:
        action: the action, which allows some states.
        given: the filter.
        request: the request. The selection has only jobs that it may access.
        now_ms: the present time in Unix milliseconds, from which ages are counted.
        field: path of the filter in the body, for errors.

    Raises:
        InvalidRequest: a member is invalid, or the action is not possible in a state.
        PermissionDenied: the API key may not access the queue.
    """
    queue, queues = None, request.queues
    if given.queue is not None:
        queue = check_queue(given.queue, field=f"{field}.queue")
        check_queues(queues, [queue])
    if given.priority is not None:
        check_priority(given.priority, field=f"{field}.priority")
    if given.type is not None and not 0 < len(given.type) <= _MAX_TYPE:
        raise InvalidRequest("must be a job type", field=f"{field}.type")
    search = _search_of(given, now_ms, field)
    if queue is None and search is not None:
        queue = _only_queue(search, queues)
    error = given.error
    if error is not None:
        _check_error(error, f"{field}.error")
    since_ms = _one_time(given.since, given.enqueued_after, f"{field}.since")
    until_ms = _one_time(given.until, given.enqueued_before, f"{field}.until")
    if search is not None:  # a job must match both
        since_ms = max((ms for ms in (since_ms, search.since_ms) if ms is not None), default=None)
        until_ms = min((ms for ms in (until_ms, search.until_ms) if ms is not None), default=None)
    return Selection(
        states=_states(action, given, search, field),
        queue=queue,
        type=given.type,
        since_ms=since_ms,
        until_ms=until_ms,
        older_than_ms=older_than_ms(given.older_than, now_ms, field=f"{field}.older_than"),
        priority=given.priority,
        dead=given.dead,
        within=None if queues is None or queue is not None else queues.patterns,
        error_type=None if error is None else error.type,
        error_message=None if error is None else error.message,
        error_since_ms=None
        if error is None
        else older_than_ms(error.since, now_ms, field="error.since"),
        error_until_ms=None
        if error is None
        else older_than_ms(error.until, now_ms, field="error.until"),
        query=_query_of(search, request.tenant, field),
        tenant=request.tenant,
    )


def _check_error(error: ErrorBody, field: str) -> None:
    if len(error.type or "") + len(error.message or "") > _MAX_ERROR:
        raise InvalidRequest("is longer than an error group", field=field)
    has_time = error.since is not None or error.until is not None
    if error.type is None and (error.message is not None or not has_time):
        raise InvalidRequest("needs a 'type', or a 'since' or an 'until' alone", field=field)


def _search_of(given: FilterBody, now_ms: int, field: str) -> Search | None:
    """Return the search of a filter. An empty one is refused: it is often a mistake."""
    if given.query is None:
        return None
    if not given.query.strip():
        raise InvalidRequest("is empty: leave it out to choose all jobs", field=f"{field}.query")
    try:
        return parse_search(given.query, now_ms=now_ms)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, field=f"{field}.query") from None


def _query_of(search: Search | None, tenant: str | None, field: str) -> str | None:
    """Return the search that is stored: without times, and only for jobs of the tenant, if any."""
    text = "" if search is None else search.untimed
    if tenant is not None:
        text = f'{text} meta.tenant_id:"{tenant}"'.strip()
        try:
            parse_search(text, now_ms=0)
        except InvalidRequest as error:  # the tenant makes it longer
            raise InvalidRequest(error.message, field=f"{field}.query") from None
    return text or None


def _only_queue(search: Search, queues: QueuePatterns | None) -> str | None:
    """Return the only queue that a search can find jobs in, so that its indexes are walked."""
    names = search.exact_values("queue") or frozenset()
    name = next(iter(names)) if len(names) == 1 else ""
    return name if is_queue(name) and (queues is None or queues.admits(name)) else None


def searched_ids(selection: Selection) -> list[str] | None:
    """Return the ids that the search of a selection lists, so that no index is walked.

    Returns:
        The ids; None if the selection has no search, or the search lists none.
    """
    search = selection.search
    ids = None if search is None else search.exact_values("id")
    return None if ids is None else sorted(filter(is_job_id, ids))


def _searched_states(action: BulkAction, search: Search, field: str) -> tuple[State, ...] | None:
    """Return the states that a search names, as far as an action is possible in them.

    A search for a worker finds active jobs only, so it names this state.
    """
    names = search.exact_values("state")
    if search.has_field("worker"):
        names = frozenset({State.ACTIVE.value}) & (names or {State.ACTIVE.value})
    if names is None:
        return None
    allowed = ALLOWED_STATES[action]
    found = tuple(state for state in State if state in names and state in allowed)
    if not found:
        raise _impossible(action, f"{field}.query")
    return found


def _impossible(action: BulkAction, field: str) -> InvalidRequest:
    allowed = ", ".join(state for state in State if state in ALLOWED_STATES[action])
    return InvalidRequest(
        f"'{action}' is possible for jobs in these states: {allowed}", field=field
    )


def _states(
    action: BulkAction, given: FilterBody, search: Search | None, field: str
) -> tuple[State, ...]:
    for name in ("states", "state"):
        # An empty list is often a variable that was not filled. It must not mean every state.
        if getattr(given, name) == []:
            raise InvalidRequest(
                "name at least one state, or leave it out", field=f"{field}.{name}"
            )
    names = given.states if given.states is not None else given.state
    if isinstance(names, str):
        names = [names]
    if given.dead:
        if action in (BulkAction.CANCEL, BulkAction.PRIORITY):
            raise InvalidRequest("dead letters can be retried or deleted", field=f"{field}.dead")
        names = names or [State.DISCARDED.value]
    if not names:
        searched = None if search is None else _searched_states(action, search, field)
        return searched or DEFAULT_STATES[action]
    found = tuple(dict.fromkeys(state for name in names if (state := state_of(name))))
    refused = [state for state in found if state not in ALLOWED_STATES[action]]
    if refused or not found:
        raise _impossible(action, f"{field}.state")
    return found


def _one_time(text: str | None, alias: str | None, field: str) -> int | None:
    return fields.absolute_time_ms(text if text is not None else alias, field=field)


def older_than_ms(text: str | None, now_ms: int, *, field: str) -> int | None:
    """Return the Unix time in ms that an age before now, or a time, means.

    Args:
        text: an age such as ``7d`` or ``PT24H``, or a time; the result is None if it is None.
        now_ms: the present time in Unix milliseconds, from which an age is counted.
        field: path of the text in the request, for errors.

    Raises:
        InvalidRequest: the text is none of these.
    """
    if text is None:
        return None
    short = _SHORT_AGE.fullmatch(text)
    try:
        if short is not None:
            age = int(short[1]) * _UNIT_MS[short[2]]
            if age > MAX_DURATION_MS:
                raise InvalidRequest("must be at most ten years", field=field)
        elif text.startswith("P"):
            age = parse_duration_ms(text)
        else:
            return fields.absolute_time_ms(text, field=field)
    except ValueError as error:
        raise InvalidRequest(f"{field} {error}", field=field) from None
    return now_ms - age


def job_ids_of(*given: Sequence[str] | None, field: str = "job_ids") -> list[str] | None:
    """Return the first of the lists that is not None, without repeated ids.

    Args:
        *given: the lists of ids of a body, which has one under each of several names.
        field: name of the member, for errors.

    Returns:
        The ids; None if all lists are None.

    Raises:
        InvalidRequest: the list is empty, or a text in it does not have the form of an id.
        PayloadTooLarge: there are more than ``MAX_IDS``.
    """
    named = next((ids for ids in given if ids is not None), None)
    if named is None:
        return None
    if not named:
        raise InvalidRequest("name at least one job", field=field)
    if len(named) > MAX_IDS:
        raise PayloadTooLarge(
            f"a request may name at most {MAX_IDS} jobs, not {len(named)}",
            field=field,
            max_batch_size=MAX_IDS,
        )
    for index, job_id in enumerate(named):
        if not is_job_id(job_id):
            raise InvalidRequest("is not the id of a job", field=f"{field}[{index}]")
    return list(dict.fromkeys(named))


def require_confirmation(confirm: Any, what: str) -> None:
    """Check the member ``confirm`` of a body (spec: ojs-admin-api 4).

    Raises:
        InvalidRequest: it is not true.
    """
    if confirm is not True:
        raise InvalidRequest(f"{what}: confirm that by confirm: true", field="confirm")


def check_may_delete(principal: Principal) -> None:
    """Check that an API key may delete many jobs (spec: ojs-admin-api 13.1).

    Raises:
        PermissionDenied: it lacks the scope.
    """
    if Scope.ADMIN_PURGE not in principal.scopes:
        raise PermissionDenied(
            f"the API key '{principal.name}' lacks the scope {Scope.ADMIN_PURGE.value}",
            required_scope=Scope.ADMIN_PURGE.value,
            principal=principal.name,
        )
