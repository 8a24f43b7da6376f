"""Marks on the charts: when a version was deployed."""

from __future__ import annotations

import secrets
from typing import Annotated, Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import principal_of
from ojs_cluster.http.handlers.bulk.bodies import older_than_ms
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import dashboard as shapes
from ojs_cluster.http.shapes.common import Moment
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.store.operators.dashboard.marks import (
    KEPT_MS,
    MAX_LABEL,
    MAX_MARKS,
    Mark,
    add_mark,
    read_marks,
    remove_mark,
)

_AHEAD_MS: Final = 60_000
"""How far a mark may lie in the future, for clocks that differ."""
_ID_BYTES: Final = 8


class MarkBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mark. Without ``at`` it is set at the present time."""

    label: Annotated[str, keywords(minLength=1, maxLength=MAX_LABEL)]
    at: Moment | None = None


_decoder = msgspec.json.Decoder(MarkBody)


async def list_marks(app: App, request: Request) -> Response:
    """List the marks on the charts, the oldest first.

    Marks are about all queues and tenants, so API keys for some of them do not see them.
    """
    given = query.parameters(request.query)
    now_ms = app.store.clock.now_ms()
    since_ms = older_than_ms(given.get("since") or None, now_ms, field="since")
    until_ms = older_than_ms(given.get("until") or None, now_ms, field="until")
    shown = [_members(mark) for mark in await read_marks(app.store, since_ms, until_ms)]
    return replies.json_response(200, shapes.MarkList(items=shown, total=len(shown)))


async def add(app: App, request: Request) -> Response:
    """Set a mark on the charts, such as the version that was deployed.

    The newest 200 marks are kept for 30 days.
    """
    body = decode(_decoder, request, app.settings.limits)
    label = body.label.strip()
    if not 1 <= len(label) <= MAX_LABEL or not label.isprintable():
        raise InvalidRequest(f"must have 1 to {MAX_LABEL} printable characters", field="label")
    at_ms = _at_ms(body.at, app.store.clock.now_ms())
    mark = Mark(secrets.token_hex(_ID_BYTES), label, at_ms, principal_of(app, request).name)
    if not await add_mark(app.store, mark):
        raise InvalidRequest(f"there are {MAX_MARKS} newer marks, the maximum", field="at")
    return replies.json_response(201, _members(mark), audit_object=label)


async def drop(app: App, _request: Request, mark_id: str) -> Response:
    """Delete a mark."""
    mark = await remove_mark(app.store, mark_id)
    deleted = shapes.MarkDeleted(deleted=True, id=mark_id)
    return replies.json_response(200, deleted, audit_object=mark.label)


def _at_ms(text: str | None, now_ms: int) -> int:
    """Return the time of a mark in Unix milliseconds.

    Raises:
        InvalidRequest: it is malformed, in the future, or so old that the mark would not be kept.
    """
    at_ms = fields.absolute_time_ms(text, field="at")
    if at_ms is None:
        return now_ms
    if not now_ms - KEPT_MS < at_ms <= now_ms + _AHEAD_MS:
        raise InvalidRequest("at must be a time of the last 30 days", field="at")
    return at_ms


def _members(mark: Mark) -> shapes.Mark:
    return {
        "id": mark.id,
        "label": mark.label,
        "at": replies.iso(mark.at_ms),
        "created_by": mark.principal,
    }
