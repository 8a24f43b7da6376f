"""Create, configure and delete queues (spec: ojs-queue-config 5 and 9)."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import orjson

from ojs_cluster.core.errors import Conflict, InvalidRequest
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import principal_of
from ojs_cluster.http.authorization.queue_scope import check_queues
from ojs_cluster.http.handlers.admin import queue_config
from ojs_cluster.http.handlers.admin.queue_config_body import (
    QueueConfigBody,
    changes_of,
    check_members,
)
from ojs_cluster.http.handlers.admin.queue_config_changes import (
    ConfigChanges,
    apply_changes,
    check_changes,
)
from ojs_cluster.http.handlers.bulk.operations import new_operation_id
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import queues as shapes
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.bulk.execution import run_for
from ojs_cluster.store.features.bulk_records.operation import BulkOperation, BulkState
from ojs_cluster.store.features.bulk_records.operations import REQUEST_LEASE_MS
from ojs_cluster.store.features.queue_deletion.deletion import begin_deletion
from ojs_cluster.store.features.retention import lifecycle
from ojs_cluster.store.ground.partial_failures import after_first_write


class QueueBody(QueueConfigBody, frozen=True):
    """The configuration of a queue, as ``config`` or as members of the body."""

    config: QueueConfigBody | None = None


class QueueCreateBody(QueueBody, frozen=True, kw_only=True):
    """The name of a new queue, and its configuration."""

    name: str


class QueueDeleteBody(msgspec.Struct, frozen=True):
    """What to do with a queue that has waiting or active jobs.

    ``reject`` refuses to delete it, ``discard`` discards the jobs, and ``move`` moves the waiting
    jobs to ``target_queue``.
    """

    strategy: Annotated[str, keywords(enum=["reject", "discard", "move"])] = "reject"
    target_queue: str | None = None


_create_decoder = msgspec.json.Decoder(QueueCreateBody)
_put_decoder = msgspec.json.Decoder(QueueBody)
_delete_decoder = msgspec.json.Decoder(QueueDeleteBody)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OWN_MEMBERS: Final = frozenset({"name", "config"})
_RUN_S: Final = 10.0
"""Time in seconds after which a request leaves the rest of a deletion to the scheduler."""


async def create(app: App, request: Request) -> Response:
    """Create a queue. It is kept without jobs until it is deleted.

    If the process dies after the queue was created, a part of the configuration may be missing. The
    client then sends it by ``PUT /ojs/v1/queues/{name}``.

    (spec: ojs-queue-config 9.2)
    """
    body = decode(_create_decoder, request, app.settings.limits)
    check_queue(body.name, field="name")
    check_queues(request.queues, [body.name])
    changes = _changes(app, request, body)
    await check_changes(app.store, body.name, changes)
    await lifecycle.create_queue(app.store, body.name)
    with after_first_write():
        await apply_changes(app.store, body.name, changes)
        return await _response(app, request, body.name, 201)


async def put(app: App, request: Request, name: str) -> Response:
    """Change the configuration of a queue, or create the queue. Its jobs are not changed.

    The queue is kept without jobs until it is deleted.

    (spec: ojs-queue-config 9.1)
    """
    check_queue(name, field="name")
    body = decode(_put_decoder, request, app.settings.limits)
    changes = _changes(app, request, body, name)
    await check_changes(app.store, name, changes)
    members = decode(_members, request, app.settings.limits)
    within = members if body.config is None else _members.decode(members["config"])
    replaced = await queue_config.read_replaced(app, request, name, within)
    new = await lifecycle.create_queue(app.store, name, accept_existing=True)
    with after_first_write():
        await apply_changes(app.store, name, changes)
        response = await _response(app, request, name, 201 if new else 200)
    if new:
        return response
    old = replaced if body.config is None else {"config": replaced}
    return msgspec.structs.replace(response, audit_old=old)


async def delete(app: App, request: Request, name: str) -> Response:
    """Delete a queue, and discard or move its jobs if the request says so.

    The finished jobs are kept for their retention. A job that is enqueued later creates the queue
    again, with the configuration of the server.

    The response has the status 202 if jobs are left after some seconds. Then the scheduler
    continues the bulk operation that the response names, and the queue drains meanwhile.

    (spec: ojs-queue-config 9.4)
    """
    check_queue(name, field="name")
    body = decode(_delete_decoder, request, app.settings.limits, optional=True)
    if body.strategy not in ("reject", "discard", "move"):
        raise InvalidRequest("strategy must be 'reject', 'discard' or 'move'", field="strategy")
    if body.strategy == "move":
        check_queues(request.queues, [check_queue(body.target_queue, field="target_queue")])
    elif body.target_queue is not None:
        raise InvalidRequest("only the strategy 'move' has a target", field="target_queue")
    operation = None
    if body.strategy == "reject":
        await lifecycle.delete_queue(app.store, name)
    else:
        operation = await _delete_with_jobs(app, request, name, body.target_queue or "")
    target: shapes.MoveTarget = {}
    if body.target_queue is not None:
        target["target_queue"] = body.target_queue
    members: shapes.QueueDeletion = {
        "queue": name,
        "name": name,
        "strategy": body.strategy,
        **target,
        "jobs_affected": 0 if operation is None else operation.succeeded,
    }
    if operation is not None:
        members["operation_id"] = operation.id
        if operation.ended and operation.state is not BulkState.COMPLETED:
            raise Conflict(f"queue '{name}' was not deleted: {operation.reason}", **members)
    deleted = operation is None or operation.ended
    answer = shapes.QueueDeleted(
        **members, state="deleted" if deleted else "draining", deleted=deleted
    )
    audit_object = name if operation is None else f"{name} {body.strategy}"
    if body.target_queue is not None:
        audit_object += f" {body.target_queue}"
    return replies.json_response(200 if deleted else 202, answer, audit_object=audit_object)


async def _delete_with_jobs(
    app: App, request: Request, name: str, target: str
) -> BulkOperation | None:
    """Create the bulk operation that deletes a queue, and run it for ``_RUN_S`` at most.

    Returns:
        The operation; None if the queue was deleted before, by a request that had died.
    """
    extend_deadline(_RUN_S)
    operation = await begin_deletion(
        *(app.store, new_operation_id(app), name, target),
        principal=principal_of(app, request).name,
        delay_ms=REQUEST_LEASE_MS,
    )
    if operation is None:
        return None
    with after_first_write():
        return await run_for(app.store, operation, _RUN_S)


def _changes(app: App, request: Request, body: QueueBody, name: str | None = None) -> ConfigChanges:
    """Return the changes that a body asks for.

    Raises:
        OJSError: the body is invalid, or its ``name`` is not ``name``.
    """
    members = decode(_members, request, app.settings.limits)
    given_name = members.get("name")
    if name is not None and given_name is not None and orjson.loads(bytes(given_name)) != name:
        raise InvalidRequest("name must be that of the path", field="name")
    check_members(members, _OWN_MEMBERS)
    if body.config is None:
        return changes_of(body)
    if len(members.keys() - _OWN_MEMBERS):
        raise InvalidRequest("give the settings either in config or beside it", field="config")
    check_members(_members.decode(members["config"]))
    return changes_of(body.config)


async def _response(app: App, request: Request, name: str, status: int) -> Response:
    """Return the state and the configuration of a queue."""
    stats = await get_stats(app.store, name)
    config = orjson.loads((await queue_config.get(app, request, name)).body)["config"]
    members: shapes.CreatedQueue = {
        "name": name,
        "state": stats.status,
        "status": stats.status,
        "paused": stats.paused,
        "config": config,
        "created_at": replies.iso(stats.created_ms or stats.now_ms),
    }
    return replies.json_response(
        status,
        shapes.QueueCreated({"queue": members, **members}),
        (("Location", f"/ojs/v1/queues/{name}"),) if status == 201 else (),
        audit_object=name,
    )
