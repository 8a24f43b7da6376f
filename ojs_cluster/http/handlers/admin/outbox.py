"""List and retry outbox dead letters, the effects that failed too often (docs/metrics.md)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.http.shapes.system import OutboxList, OutboxRetried, ShownOutboxEntry
from ojs_cluster.store.engine.outbox import outbox_dead_letters
from ojs_cluster.store.engine.outbox.outbox_dead_letters import MAX_RETRIED, OutboxDeadLetter

_MAX_SHOWN_PAYLOAD = 2000  # characters
_MAX_AUDITED_IDS = 10
"""Maximum number of outbox dead letters that an audit entry names."""


class OutboxRetryBody(msgspec.Struct, frozen=True):
    """The outbox dead letters to retry: ``ids`` names them, or ``all`` is true."""

    ids: Annotated[list[str], keywords(maxItems=MAX_RETRIED)] | None = None
    all: bool = False


_retry_decoder = msgspec.json.Decoder(OutboxRetryBody)


async def list_dead_letters(app: App, request: Request) -> Response:
    """List outbox dead letters, in the order of their shards."""
    given = query.parameters(request.query)
    limit = query.integer(given, "limit", 50, low=1, high=200)
    dead_letters, cursor = await outbox_dead_letters.list_dead_letters(
        app.store, limit=limit, cursor=given.get("cursor") or None
    )
    total = await outbox_dead_letters.count(app.store)
    pages = replies.pagination(limit=limit, shown=len(dead_letters), total=total, cursor=cursor)
    pages["has_more"] = cursor is not None
    entries = [_entry(dead_letter) for dead_letter in dead_letters]
    members = OutboxList(entries=entries, total=total, pagination=pages)
    return replies.json_response(200, members)


async def retry(app: App, request: Request) -> Response:
    """Move outbox dead letters back to the outbox, where each gets all its attempts again."""
    body = decode(_retry_decoder, request, app.settings.limits)
    if body.all == (body.ids is not None):
        raise InvalidRequest(
            'name the entries to retry, as in {"ids": ["12-345"]}, or send {"all": true}',
            field="ids",
        )
    if body.ids is None:
        retried, remaining = await outbox_dead_letters.retry_all(app.store)
        return replies.json_response(
            200, OutboxRetried(retried=retried, left=remaining), audit_object="all"
        )
    if len(body.ids) > MAX_RETRIED:
        raise InvalidRequest(f"at most {MAX_RETRIED} entries at once", field="ids")
    retried, unknown = await outbox_dead_letters.retry(app.store, body.ids)
    audit_object = " ".join(body.ids[:_MAX_AUDITED_IDS])
    return replies.json_response(
        200, OutboxRetried(retried=retried, not_found=unknown), audit_object=audit_object
    )


def _entry(dead_letter: OutboxDeadLetter) -> ShownOutboxEntry:
    entry = dead_letter.entry
    return {
        "id": dead_letter.id,
        "kind": entry.kind,
        "shard": entry.shard.index,
        "attempts": entry.attempts,
        "last_tried_at": replies.iso(dead_letter.tried_ms),
        "payload": entry.payload.decode(errors="replace")[:_MAX_SHOWN_PAYLOAD],
        "last_error": dead_letter.error,
    }
