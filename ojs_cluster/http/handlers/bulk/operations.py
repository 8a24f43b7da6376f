"""Bulk operations as objects: create, read, list and stop.

The scheduler carries an operation out, so the request that creates one answers at once. Clients
follow ``state`` and the counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.bulk.selection import REQUESTABLE, BulkAction, Selection
from ojs_cluster.core.errors import Conflict, InvalidRequest, NotFound
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.options import check_priority
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import principal_of
from ojs_cluster.http.handlers.bulk.bodies import (
    FilterBody,
    check_may_delete,
    job_ids_of,
    require_confirmation,
    searched_ids,
    selection_of,
)
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import bulk as shapes
from ojs_cluster.http.shapes.common import JobId
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.store.features.bulk_records import operations as store_bulk
from ojs_cluster.store.features.bulk_records.operation import BulkOperation, BulkState

_PATH = "/ojs/v1/admin/bulk"


class OperationBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a new operation: an action, and a filter, ids, or the dry run to follow.

    ``job_ids`` is an alias of ``ids``. The action ``priority`` gives the jobs this ``priority``.
    ``follows`` is the id of a completed dry run with the same action and priority, not of ids. The
    operation chooses the jobs by the filter of that dry run, which one operation may follow.
    """

    action: Annotated[str, keywords(enum=[action.value for action in REQUESTABLE])]
    filter: FilterBody | None = None
    ids: list[JobId] | None = None
    job_ids: list[JobId] | None = None
    follows: JobId | None = None
    priority: Annotated[Any, keywords(type=["integer", "null"], minimum=-100, maximum=100)] = None
    dry_run: bool = False
    confirm: Annotated[Any, keywords(type=["boolean", "null"])] = None


_decoder = msgspec.json.Decoder(OperationBody)


async def create(app: App, request: Request) -> Response:
    """Create a bulk operation, which the scheduler carries out."""
    body = decode(_decoder, request, app.settings.limits)
    action = action_of(body.action)
    priority = 0
    if action is BulkAction.PRIORITY:
        priority = check_priority(body.priority, field="priority")
    elif body.priority is not None:
        raise InvalidRequest("only the action 'priority' has a priority", field="priority")
    principal = principal_of(app, request)
    if action in (BulkAction.DELETE, BulkAction.PURGE) and not body.dry_run:
        check_may_delete(principal)
    ids = job_ids_of(body.ids, body.job_ids, field="ids")
    if body.follows is not None:
        if ids is not None or body.filter is not None or body.dry_run:
            raise InvalidRequest(
                "an operation that follows a dry run has no 'filter', 'ids' or 'dry_run'",
                field="follows",
            )
        selection = await _counted(app, request, body.follows, action, priority)
    elif ids is None and body.filter is None:
        raise InvalidRequest("name the jobs by 'filter', 'ids' or 'follows'", field="filter")
    else:
        selection = selection_of(
            action, body.filter or FilterBody(), request, app.store.clock.now_ms()
        )
    searched = searched_ids(selection) if ids is None else None
    if not body.dry_run:
        require_confirmation(body.confirm, f"this request is to {action} all jobs that it chooses")
    operation = await store_bulk.create(
        app.store,
        new_operation_id(app),
        action,
        selection,
        ids=ids if searched is None else searched,
        searched=searched is not None,
        dry_run=body.dry_run,
        priority=priority,
        principal=principal.name,
        follows=body.follows,
    )
    return replies.json_response(
        202,
        members(operation),
        (("Location", f"{_PATH}/{operation.id}"),),
        audit_object=audit_text(operation),
    )


async def get(app: App, request: Request, operation_id: str) -> Response:
    """Return a bulk operation."""
    operation = await _visible(app, request, operation_id)
    shown: shapes.ShownBulkOperation
    (shown,) = await _with_followers(app, [operation])
    return replies.json_response(200, shown)


async def list_operations(app: App, request: Request) -> Response:
    """List bulk operations: unfinished operations, then finished ones, each newest first."""
    # The cursor contains an offset: an operation moves when it ends, and the list is short.
    page = query.numbered_page(query.parameters(request.query))
    queues = request.queues
    found, total = await store_bulk.list_operations(
        app.store,
        limit=page.limit,
        offset=page.offset,
        wanted=None if queues is None else partial(is_visible, queues=queues),
    )
    shown = await _with_followers(app, found)
    pages = query.pagination(page, len(found), total)
    return replies.json_response(200, shapes.BulkOperationList(items=shown, pagination=pages))


async def stop(app: App, request: Request, operation_id: str) -> Response:
    """Stop a bulk operation after the jobs that it is changing now. The request body is ignored."""
    await _visible(app, request, operation_id)
    return replies.json_response(200, members(await store_bulk.stop(app.store, operation_id)))


async def _with_followers(
    app: App, found: Sequence[BulkOperation]
) -> list[shapes.ShownBulkOperation]:
    """Return operations as JSON members, with the states of the operations that follow dry runs.

    A follower has the same selection, so everybody who may see the dry run may see it.
    """
    followers = [each.followed_by for each in found if each.followed_by is not None]
    states = await store_bulk.read_states(app.store, followers)
    return [members(operation, states) for operation in found]


async def _counted(
    app: App, request: Request, dry_run_id: str, action: BulkAction, priority: int
) -> Selection:
    """Return the jobs that a dry run has counted, for an operation that follows it.

    Raises:
        NotFound: there is no such dry run, or the API key may not see it.
        InvalidRequest: it has another action or priority.
        Conflict: it is no dry run, has not completed, or has counted named jobs. Their ids are not
            kept after its end.
    """
    count = await _visible(app, request, dry_run_id)
    if (count.action, count.priority) != (action, priority):
        raise InvalidRequest(
            "action and priority must be those of the dry run that is followed", field="action"
        )
    if not count.dry_run or count.state is not BulkState.COMPLETED:
        raise Conflict(
            f"bulk operation '{dry_run_id}' is not a completed dry run", state=count.state.value
        )
    if count.named is not None and not count.searched:
        raise Conflict(
            "this dry run has counted named jobs, whose ids are not kept: name them again"
        )
    return count.selection


async def _visible(app: App, request: Request, operation_id: str) -> BulkOperation:
    operation = await store_bulk.get(app.store, operation_id)
    if not is_visible(operation.selection, request.queues):
        raise NotFound("bulk operation", operation_id)
    return operation


def is_visible(selection: Selection, queues: QueuePatterns | None) -> bool:
    """Return whether an API key may see the bulk operation that has this selection.

    It may if the operation is limited to one accessible queue, or to the same queue patterns.

    Args:
        selection: the jobs of the operation.
        queues: the queues that the API key may access; None for all queues.
    """
    if queues is None:
        return True
    if selection.queue is not None:
        return queues.admits(selection.queue)
    return selection.within == queues.patterns


def new_operation_id(app: App) -> str:
    """Return an id for an operation. Ids sort by the time of their creation."""
    return new_job_id(0, len(app.store.keys), app.store.clock.now_ms())


def action_of(text: str) -> BulkAction:
    """Return the action with this name.

    Raises:
        InvalidRequest: there is no such action.
    """
    for action in REQUESTABLE:
        if action.value == text:
            return action
    known = ", ".join(REQUESTABLE)
    raise InvalidRequest(f"action must be one of {known}", field="action")


def members(
    operation: BulkOperation, states: Mapping[str, BulkState] = MappingProxyType({})
) -> shapes.ShownBulkOperation:
    """Return an operation as JSON members.

    Args:
        operation: the operation.
        states: states of operations that follow dry runs, by their ids. An operation that was
            removed has none.
    """
    shown: shapes.ShownBulkOperation = {
        "id": operation.id,
        "action": operation.action,
        "state": operation.state.value,
        "dry_run": operation.dry_run,
        "filter": _filter_members(operation.selection),
        "examined": operation.examined,
        "matched": operation.matched,
        "succeeded": operation.succeeded,
        "failed": operation.failed,
        "failures": [{"job_id": job_id, "error": why} for job_id, why in operation.failures],
        "created_by": operation.principal,
        "created_at": replies.iso(operation.created_ms),
    }
    if operation.action is BulkAction.PRIORITY:
        shown["priority"] = operation.priority
    if operation.deletion is not None and operation.deletion.target:
        shown["target_queue"] = operation.deletion.target
    if operation.named is not None:
        shown["ids"] = operation.named
        shown["ids_searched"] = operation.searched
    if operation.ended_ms is not None:
        shown["ended_at"] = replies.iso(operation.ended_ms)
    if operation.reason:
        shown["reason"] = operation.reason
    if operation.followed_by is not None:
        shown["followed_by"] = {"id": operation.followed_by}
        if operation.followed_by in states:
            shown["followed_by"]["state"] = states[operation.followed_by].value
    return shown


def _filter_members(selection: Selection) -> shapes.ShownBulkFilter:
    shown: shapes.ShownBulkFilter = {"states": [state.value for state in selection.states]}
    if selection.queue is not None:
        shown["queue"] = selection.queue
    if selection.type is not None:
        shown["type"] = selection.type
    if selection.priority is not None:
        shown["priority"] = selection.priority
    if selection.dead:
        shown["dead"] = True
    if selection.within is not None:
        shown["queues"] = selection.within
    if selection.names_error:
        shown["error"] = _error_members(selection)
    if selection.query is not None:
        shown["query"] = selection.query
    if selection.since_ms is not None:
        shown["since"] = replies.iso(selection.since_ms)
    if selection.until_ms is not None:
        shown["until"] = replies.iso(selection.until_ms)
    if selection.older_than_ms is not None:
        shown["older_than"] = replies.iso(selection.older_than_ms)
    return shown


def _error_members(selection: Selection) -> dict[str, str]:
    since, until = selection.error_since_ms, selection.error_until_ms
    members = {
        "type": selection.error_type,
        "message": selection.error_message,
        "since": None if since is None else replies.iso(since),
        "until": None if until is None else replies.iso(until),
    }
    return {name: value for name, value in members.items() if value is not None}


def audit_text(operation: BulkOperation) -> str:
    """Return the description of an operation in the audit."""
    selection = operation.selection
    text = operation.action.value
    if operation.dry_run:
        text = f"count {text}"
    if operation.named is not None:
        text += f" {operation.named} ids"
    if selection.queue is not None:
        text += f" queue={selection.queue}"
    elif selection.within is not None:
        text += " all accessible queues"
    if selection.type is not None:
        text += f" type={selection.type}"
    if selection.error_type is not None:
        text += f" error={selection.error_type[:100]}"
    if selection.query is not None:
        # The values of a search may be secret, as those of args are.
        terms = () if selection.search is None else selection.search.terms
        text += " query of " + ",".join(dict.fromkeys(term.name for term in terms))[:100]
    return text
