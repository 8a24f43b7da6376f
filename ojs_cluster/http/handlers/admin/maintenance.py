"""Switch maintenance mode on and off (spec: ojs-admin-api 12.1)."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from ojs_cluster.core.durations import parse_duration_ms
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import principal_of
from ojs_cluster.http.maintenance import maintenance_members
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.store.features.maintenance.maintenance import (
    REFUSABLE,
    read_maintenance,
    set_maintenance,
)

_MAX_REASON: Final = 500  # characters


class MaintenanceBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body.

    ``estimated_duration`` tells clients when the mode may end. ``duration`` is its alias.
    """

    enabled: bool
    reason: Annotated[str, keywords(maxLength=_MAX_REASON)] | None = None
    refuse: list[Annotated[str, keywords(enum=list(REFUSABLE))]] | None = None
    duration: str | None = None
    estimated_duration: str | None = None


_decoder = msgspec.json.Decoder(MaintenanceBody)


async def get(app: App, _request: Request) -> Response:
    """Return whether maintenance mode is on."""
    current = await read_maintenance(app.store)
    app.maintenance.set(current)
    return replies.json_response(200, maintenance_members(current))


async def change(app: App, request: Request) -> Response:
    """Switch maintenance mode on or off.

    Without ``refuse`` only fetches are refused, as the specification says: producers go on.
    """
    body = decode(_decoder, request, app.settings.limits)
    refused = _refused(body)
    reason = body.reason or ""
    if len(reason) > _MAX_REASON or not reason.isprintable():
        raise InvalidRequest(f"must be at most {_MAX_REASON} printable characters", field="reason")
    current = await set_maintenance(
        app.store,
        refused,
        reason=reason,
        ends_ms=_ends_ms(app, body.estimated_duration or body.duration),
        principal=principal_of(app, request).name,
    )
    app.maintenance.set(current)
    audit_object = "off" if current is None else f"on: {', '.join(sorted(current.refused))}"
    return replies.json_response(200, maintenance_members(current), audit_object=audit_object)


def _refused(body: MaintenanceBody) -> list[str]:
    if not body.enabled:
        return []
    if body.refuse is None:
        return ["fetch"]
    if not body.refuse or not set(body.refuse) <= set(REFUSABLE):
        known = ", ".join(REFUSABLE)
        raise InvalidRequest(f"name at least one of {known}", field="refuse")
    return body.refuse


def _ends_ms(app: App, duration: str | None) -> int | None:
    if not duration:
        return None
    try:
        return app.store.clock.now_ms() + parse_duration_ms(duration)
    except ValueError as error:
        raise InvalidRequest(f"estimated_duration {error}", field="estimated_duration") from None
