"""A worker reports how many jobs ended, in one request.

Each item is a report of its own: one that cannot be read or is refused has an error as its result
and stops none of the others. A request is refused as a whole only when it has no items at all, or
more than the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from ojs_cluster.core.errors import InvalidRequest, NotFound, OJSError
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.json_scan import has_more_items
from ojs_cluster.core.raw_json import array_items, object_members, string
from ojs_cluster.http import fields, replies
from ojs_cluster.http.access.queue_scope import jobs_in_reach
from ojs_cluster.http.app import App
from ojs_cluster.http.bodies import decode_large, refused
from ojs_cluster.http.errors import entry_for
from ojs_cluster.http.handlers.settle import AckBody, NackBody, lease_of, raw_or_none
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.jobs import ack as store_ack
from ojs_cluster.store.jobs import nack as store_nack
from ojs_cluster.store.jobs.by_ids import Outcome
from ojs_cluster.store.off_loop import off_loop


class AcksBody(msgspec.Struct, frozen=True):
    """``worker_id`` speaks for all; an item's own is not read."""

    acks: msgspec.Raw
    worker_id: str | None = None


class NacksBody(msgspec.Struct, frozen=True):
    """As `AcksBody`."""

    nacks: msgspec.Raw
    worker_id: str | None = None


T = TypeVar("T", AckBody, NackBody)
Read = TypeVar("Read", store_ack.Ack, store_nack.Nack)


@dataclass(frozen=True, slots=True)
class _Item(Generic[Read]):
    """One item: the job it names, None where that cannot be told; what was read, or why not."""

    job_id: str | None
    read: Read | OJSError


_LONGEST_ID = 100
_AROUND = 2
"""Levels around an item: the body and its array. An item may be as deep as a body of its own."""

_acks_decoder = msgspec.json.Decoder(AcksBody)
_nacks_decoder = msgspec.json.Decoder(NacksBody)
_ack_decoder = msgspec.json.Decoder(AckBody)
_nack_decoder = msgspec.json.Decoder(NackBody)


async def ack_many(app: App, request: Request) -> Response:
    """POST /ojs/v1/workers/ack/batch"""
    body = await decode_large(_acks_decoder, request, app.settings.limits, around=_AROUND)
    pieces = await _pieces(app, "acks", body.acks)
    worker_id = fields.worker_id(body.worker_id)

    def read(item: AckBody, job_id: str) -> store_ack.Ack:
        return store_ack.Ack(job_id, lease_of(app, item.lease_id), raw_or_none(item.result))

    items = [_item(_ack_decoder, piece, read) for piece in pieces]
    items = await _in_reach(app, request, items)
    outcomes = await store_ack.ack_many(app.store, _good(items), worker_id=worker_id)
    return _response(items, outcomes)


async def nack_many(app: App, request: Request) -> Response:
    """POST /ojs/v1/workers/nack/batch"""
    body = await decode_large(_nacks_decoder, request, app.settings.limits, around=_AROUND)
    pieces = await _pieces(app, "nacks", body.nacks)
    worker_id = fields.worker_id(body.worker_id)
    most = app.settings.limits.failure_bytes

    def read(item: NackBody, job_id: str) -> store_nack.Nack:
        failure = parse_failure(raw_or_none(item.error), max_bytes=most)
        return store_nack.Nack(job_id, lease_of(app, item.lease_id), failure, item.requeue is True)

    items = [_item(_nack_decoder, piece, read) for piece in pieces]
    items = await _in_reach(app, request, items)
    outcomes = await store_nack.nack_many(app.store, _good(items), worker_id=worker_id)
    return _response(items, outcomes)


async def _in_reach(app: App, request: Request, items: list[_Item[Read]]) -> list[_Item[Read]]:
    """The items, those about jobs out of the key's reach as if there were no such job."""
    if request.queues is None:
        return items
    ids = {item.job_id for item in items if item.job_id is not None}
    reached = set(await jobs_in_reach(app, request.queues, ids))
    return [
        item
        if item.job_id is None or item.job_id in reached
        else _Item(item.job_id, NotFound("job", item.job_id))
        for item in items
    ]


async def _pieces(app: App, name: str, raw: msgspec.Raw) -> Sequence[msgspec.Raw]:
    """The items of the array ``raw``, which are counted before they are taken apart."""
    most = app.settings.limits.batch_jobs
    array = bytes(raw)

    def read() -> list[msgspec.Raw] | None:
        return None if has_more_items(array, most) else array_items(array)

    pieces = await off_loop(read, len(array))
    if not pieces:
        raise InvalidRequest(f"'{name}' must have 1 to {most} items", field=name)
    return pieces


def _item(
    decoder: msgspec.json.Decoder[T], piece: msgspec.Raw, read: Callable[[T, str], Read]
) -> _Item[Read]:
    try:
        item = decoder.decode(piece)
    except msgspec.ValidationError as error:
        return _Item(_named(piece), refused(error, what="item"))
    job_id = item.job_id or item.id
    if job_id is None:
        return _Item(None, InvalidRequest("'job_id' is required", field="job_id"))
    job_id = job_id[:_LONGEST_ID]  # what is no id belongs to no job
    try:
        return _Item(job_id, read(item, job_id))
    except OJSError as error:
        return _Item(job_id, error)


def _named(piece: msgspec.Raw) -> str | None:
    """The job that an item names which is wrong in something else."""
    members = object_members(piece) or {}
    for name in ("job_id", "id"):
        job_id = string(members.get(name, b""))
        if job_id:
            return job_id[:_LONGEST_ID]
    return None


def _good(items: Sequence[_Item[Read]]) -> list[Read]:
    return [item.read for item in items if not isinstance(item.read, OJSError)]


def _response(items: Sequence[_Item[Read]], outcomes: Sequence[Outcome]) -> Response:
    """200: what became of each job, in order. ``status`` is what it would have got alone.

    ``outcomes`` are those of the items that could be read.
    """
    of_read: Iterator[Outcome] = iter(outcomes)
    results: list[dict[str, Any]] = []
    for item in items:
        outcome = item.read if isinstance(item.read, OJSError) else next(of_read)
        if isinstance(outcome, OJSError):
            results.append(_refused(item.job_id, outcome))
        else:
            results.append({"job_id": item.job_id, "status": 200, "state": outcome.value})
    done = sum(result["status"] == 200 for result in results)
    return replies.json_response(
        200, {"results": results, "succeeded": done, "failed": len(results) - done}
    )


def _refused(job_id: str | None, error: OJSError) -> dict[str, Any]:
    entry = entry_for(error)
    return {
        "job_id": job_id,
        "status": entry.status,
        "error": {
            "code": entry.code,
            "message": error.message,
            "retryable": entry.retryable,
            "details": error.details,
        },
    }
