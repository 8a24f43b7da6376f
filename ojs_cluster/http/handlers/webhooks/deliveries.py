"""List and retry the deliveries of webhooks (spec: ojs-webhooks 10)."""

from __future__ import annotations

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes import events as shapes
from ojs_cluster.store.features.webhooks import deliveries
from ojs_cluster.store.features.webhooks.deliveries import STATES, Delivery


async def list_newest(app: App, request: Request) -> Response:
    """List the newest deliveries, newest first.

    (spec: ojs-webhooks 10)
    """
    given = query.parameters(request.query)
    limit = query.integer(given, "limit", 50, low=1, high=200)
    status = given.get("status")
    states = [state for state in STATES if state == status] if status else STATES
    if not states:
        raise InvalidRequest(f"status must be one of {', '.join(STATES)}", field="status")
    found = await deliveries.list_newest(
        app.store,
        limit=limit,
        states=states,
        subscription_id=given.get("subscription_id") or None,
    )
    shown = [_members(each) for each in found]
    value: shapes.DeliveryList = {"deliveries": shown, "items": shown}
    if found.truncated:
        value["truncated"] = True
    return replies.json_response(200, value)


async def get(app: App, _request: Request, delivery_id: str) -> Response:
    """Return a delivery with its event.

    (spec: ojs-webhooks 10)
    """
    found = await deliveries.get(app.store, delivery_id)
    members = replies.dumps(_members(found))
    return Response(200, b'{"delivery":%b,"event":%b}' % (members, found.body()))


async def retry(app: App, _request: Request, delivery_id: str) -> Response:
    """Retry a dead delivery, which gets all its attempts again.

    (spec: ojs-webhooks 10)
    """
    found = await deliveries.retry(app.store, delivery_id)
    members = _members(found)
    return replies.json_response(200, shapes.DeliveryRetried({**members, "delivery": members}))


def _members(delivery: Delivery) -> shapes.DeliveryMembers:
    members: shapes.DeliveryMembers = {
        "id": delivery.id,
        "subscription_id": delivery.subscription_id,
        "event_type": delivery.kind,
        "status": delivery.state,
        "attempts": delivery.attempts,
        "status_code": delivery.status or None,
        "created_at": replies.iso(delivery.created_ms),
        "last_attempt_at": replies.iso(delivery.tried_ms) if delivery.tried_ms else None,
    }
    if delivery.error:
        members["error"] = delivery.error
    return members
