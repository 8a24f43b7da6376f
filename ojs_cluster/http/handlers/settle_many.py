"""A worker reports how many jobs ended, in one request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ojs_cluster.core.errors import InvalidRequest, OJSError
from ojs_cluster.core.failure import parse_failure
from ojs_cluster.http import fields, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.bodies import decode
from ojs_cluster.http.errors import entry_for
from ojs_cluster.http.handlers.settle import AckBody, NackBody, raw_or_none
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store import ack as store_ack
from ojs_cluster.store import nack as store_nack
from ojs_cluster.store.many import Outcome


class AcksBody(msgspec.Struct, frozen=True):
    """``worker_id`` speaks for all; an item's own is not read."""

    acks: list[AckBody]
    worker_id: str | None = None


class NacksBody(msgspec.Struct, frozen=True):
    """As `AcksBody`."""

    nacks: list[NackBody]
    worker_id: str | None = None


_LONGEST_ID = 100

_acks_decoder = msgspec.json.Decoder(AcksBody)
_nacks_decoder = msgspec.json.Decoder(NacksBody)


async def ack_many(app: App, request: Request) -> Response:
    """POST /ojs/v1/workers/ack/batch"""
    body = decode(_acks_decoder, request, app.settings.limits)
    _check_count(app, "acks", body.acks)
    acks = [
        store_ack.Ack(
            _job(item, f"acks[{index}]"),
            fields.worker_id(item.lease_id, field=f"acks[{index}].lease_id"),
            raw_or_none(item.result),
        )
        for index, item in enumerate(body.acks)
    ]
    worker_id = fields.worker_id(body.worker_id)
    outcomes = await store_ack.ack_many(app.store, acks, worker_id=worker_id)
    return _response((ack.job_id for ack in acks), outcomes)


async def nack_many(app: App, request: Request) -> Response:
    """POST /ojs/v1/workers/nack/batch"""
    body = decode(_nacks_decoder, request, app.settings.limits)
    _check_count(app, "nacks", body.nacks)
    most = app.settings.limits.failure_bytes
    nacks = [
        store_nack.Nack(
            _job(item, f"nacks[{index}]"),
            fields.worker_id(item.lease_id, field=f"nacks[{index}].lease_id"),
            _failure(item, f"nacks[{index}]", most),
            item.requeue is True,
        )
        for index, item in enumerate(body.nacks)
    ]
    worker_id = fields.worker_id(body.worker_id)
    outcomes = await store_nack.nack_many(app.store, nacks, worker_id=worker_id)
    return _response((nack.job_id for nack in nacks), outcomes)


def _check_count(app: App, name: str, items: Sequence[object]) -> None:
    most = app.settings.limits.batch_jobs
    if not 1 <= len(items) <= most:
        raise InvalidRequest(f"'{name}' must have 1 to {most} items", field=name)


def _job(item: AckBody | NackBody, where: str) -> str:
    job_id = item.job_id or item.id
    if job_id is None:
        raise InvalidRequest(f"'{where}.job_id' is required", field=f"{where}.job_id")
    return job_id[:_LONGEST_ID]  # what is no id belongs to no job, and stops none of the others


def _failure(item: NackBody, where: str, most: int) -> Any:
    try:
        return parse_failure(raw_or_none(item.error), max_bytes=most)
    except InvalidRequest as error:
        field = error.details.get("field", "error")
        raise InvalidRequest(error.message, field=f"{where}.{field}") from error


def _response(job_ids: Iterable[str], outcomes: Sequence[Outcome]) -> Response:
    """200: what became of each job, in order. ``status`` is what it would have got alone."""
    results = []
    for job_id, outcome in zip(job_ids, outcomes, strict=True):
        if isinstance(outcome, OJSError):
            results.append(_refused(job_id, outcome))
        else:
            results.append({"job_id": job_id, "status": 200, "state": outcome.value})
    done = sum(result["status"] == 200 for result in results)
    return replies.json_response(
        200, {"results": results, "succeeded": done, "failed": len(results) - done}
    )


def _refused(job_id: str, error: OJSError) -> dict[str, Any]:
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
