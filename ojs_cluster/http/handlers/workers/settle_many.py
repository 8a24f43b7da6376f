"""Ack or nack many jobs in one request.

Each item of the request is an ack or nack and gets its own result. An item that is invalid or
rejected gets an error, and the other items are not affected. The whole request is rejected only if
it has no items, or too many items.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Generic, TypeVar

import msgspec

from ojs_cluster.core.errors import InvalidRequest, OJSError
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.json_scan import has_more_items
from ojs_cluster.core.raw_json import array_items, object_members, string
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import access_errors
from ojs_cluster.http.errors import entry_for, item_error
from ojs_cluster.http.handlers.workers.settle import (
    AckBody,
    NackBody,
    lease_of,
    raw_or_none,
    releases,
)
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode_error, decode_large
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.http.shapes.workers import SettleResult, SettleResults
from ojs_cluster.store.engine.jobs import ack as store_ack
from ojs_cluster.store.engine.jobs import nack as store_nack
from ojs_cluster.store.engine.jobs.by_ids import JobOutcome
from ojs_cluster.store.ground.off_loop import off_loop


def _array_of(item: type) -> msgspec.Meta:
    """Return the keywords of an array whose items are decoded one by one."""
    return keywords(
        type="array", minItems=1, items={"$ref": f"#/components/schemas/{item.__name__}"}
    )


class AcksBody(msgspec.Struct, frozen=True):
    """The body of many acks. Its ``worker_id`` applies to all items; an item's is ignored."""

    acks: Annotated[msgspec.Raw, _array_of(AckBody)]
    worker_id: str | None = None


class NacksBody(msgspec.Struct, frozen=True):
    """The body of many nacks. Its ``worker_id`` applies to all items; an item's is ignored."""

    nacks: Annotated[msgspec.Raw, _array_of(NackBody)]
    worker_id: str | None = None


ItemBody = TypeVar("ItemBody", AckBody, NackBody)
Report = TypeVar("Report", store_ack.Ack, store_nack.Nack)


@dataclass(frozen=True, slots=True)
class _SettleItem(Generic[Report]):
    """One item of the request.

    Attributes:
        job_id: the job that the item names; None if it names none.
        report: the ack or nack, or the error of an invalid item.
    """

    job_id: str | None
    report: Report | OJSError


_MAX_ID = 100  # characters of an id in a response
_OUTER_LEVELS = 2
"""The two levels around an item: the body, and the array in it.

The limit on nesting does not count them, so an item may be nested as deeply as a single ack.
"""

_acks_decoder = msgspec.json.Decoder(AcksBody)
_nacks_decoder = msgspec.json.Decoder(NacksBody)
_ack_decoder = msgspec.json.Decoder(AckBody)
_nack_decoder = msgspec.json.Decoder(NackBody)


async def ack_many(app: App, request: Request) -> Response:
    """Complete many jobs."""
    body = await decode_large(
        _acks_decoder, request, app.settings.limits, outer_levels=_OUTER_LEVELS
    )
    pieces = await _split_items(app, "acks", body.acks)
    worker_id = fields.worker_id(body.worker_id)

    def read(item: AckBody, job_id: str) -> store_ack.Ack:
        return store_ack.Ack(job_id, lease_of(app, item.lease_id), raw_or_none(item.result))

    items = [_read_item(_ack_decoder, piece, read) for piece in pieces]
    settle = partial(store_ack.ack_many, app.store, worker_id=worker_id)
    return await _settle(app, request, items, settle)


async def nack_many(app: App, request: Request) -> Response:
    """Fail the attempts of many jobs."""
    body = await decode_large(
        _nacks_decoder, request, app.settings.limits, outer_levels=_OUTER_LEVELS
    )
    pieces = await _split_items(app, "nacks", body.nacks)
    worker_id = fields.worker_id(body.worker_id)
    max_bytes = app.settings.limits.failure_bytes

    def read(item: NackBody, job_id: str) -> store_nack.Nack:
        failure = parse_failure(raw_or_none(item.error), max_bytes=max_bytes)
        lease_id = lease_of(app, item.lease_id)
        return store_nack.Nack(job_id, lease_id, failure, item.requeue is True, releases(item))

    items = [_read_item(_nack_decoder, piece, read) for piece in pieces]
    settle = partial(store_nack.nack_many, app.store, worker_id=worker_id)
    return await _settle(app, request, items, settle)


async def _settle(
    app: App,
    request: Request,
    items: list[_SettleItem[Report]],
    settle: Callable[[list[Report]], Awaitable[Sequence[JobOutcome]]],
) -> Response:
    items = await _hide_inaccessible(app, request, items)
    reports = [item.report for item in items if not isinstance(item.report, OJSError)]
    return _response(items, await settle(reports))


async def _hide_inaccessible(
    app: App, request: Request, items: list[_SettleItem[Report]]
) -> list[_SettleItem[Report]]:
    """Return the items; an item whose job the API key may not access gets an error."""
    ids = {item.job_id for item in items if item.job_id is not None}
    errors = await access_errors(app, request, ids)
    return [
        item
        if item.job_id is None or item.job_id not in errors
        else _SettleItem(item.job_id, errors[item.job_id])
        for item in items
    ]


async def _split_items(app: App, name: str, raw: msgspec.Raw) -> Sequence[msgspec.Raw]:
    """Return the items of the array ``raw``, the member ``name`` of the body.

    Raises:
        InvalidRequest: the array has no items, or too many items.
    """
    max_items = app.settings.limits.batch_jobs
    array = bytes(raw)

    def split() -> list[msgspec.Raw] | None:
        return None if has_more_items(array, max_items) else array_items(array)

    pieces = await off_loop(split, len(array))
    if not pieces:
        raise InvalidRequest(f"'{name}' must have 1 to {max_items} items", field=name)
    return pieces


def _read_item(
    decoder: msgspec.json.Decoder[ItemBody],
    piece: msgspec.Raw,
    read: Callable[[ItemBody, str], Report],
) -> _SettleItem[Report]:
    try:
        item = decoder.decode(piece)
    except msgspec.ValidationError as error:
        return _SettleItem(_named_job(piece), decode_error(error, what="item"))
    job_id = item.job_id or item.id
    if job_id is None:
        return _SettleItem(None, InvalidRequest("'job_id' is required", field="job_id"))
    job_id = job_id[:_MAX_ID]  # a longer text is not the id of any job
    try:
        return _SettleItem(job_id, read(item, job_id))
    except OJSError as error:
        return _SettleItem(job_id, error)


def _named_job(piece: msgspec.Raw) -> str | None:
    """Return the id of the job that an invalid item names; None if it names none."""
    members = object_members(piece) or {}
    for name in ("job_id", "id"):
        job_id = string(members.get(name, b""))
        if job_id:
            return job_id[:_MAX_ID]
    return None


def _response(items: Sequence[_SettleItem[Report]], outcomes: Sequence[JobOutcome]) -> Response:
    """Return the response with the results of all items, in the order of the items.

    The ``status`` of a result is the HTTP status that the item would get as a request of its own.

    Args:
        items: all items.
        outcomes: the outcomes of the valid items, in the order of the items.
    """
    remaining: Iterator[JobOutcome] = iter(outcomes)
    results: list[SettleResult] = []
    for item in items:
        outcome = item.report if isinstance(item.report, OJSError) else next(remaining)
        if isinstance(outcome, OJSError):
            results.append(_error_result(item.job_id, outcome))
        else:
            results.append({"job_id": item.job_id, "status": 200, "state": outcome})
    succeeded = sum(result["status"] == 200 for result in results)
    failed = len(results) - succeeded
    return replies.json_response(
        200, SettleResults(results=results, succeeded=succeeded, failed=failed)
    )


def _error_result(job_id: str | None, error: OJSError) -> SettleResult:
    return {"job_id": job_id, "status": entry_for(error).status, "error": item_error(error)}
