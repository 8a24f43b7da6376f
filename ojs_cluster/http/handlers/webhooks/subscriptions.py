"""Manage webhook subscriptions (spec: ojs-webhooks 6)."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Final

import msgspec
import orjson

from ojs_cluster.core import webhooks as core
from ojs_cluster.core.errors import InvalidRequest, RateLimited
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.core.webhooks import Secret, Subscription
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.cursor_kinds import SUBSCRIPTIONS
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import events as shapes
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.store.features.webhooks.counts import DeliveryCounts, read_counts
from ojs_cluster.store.ground import listed
from ojs_cluster.store.ground.process_state import subscriptions
from ojs_cluster.webhooks.addresses import check_literal, parse_url
from ojs_cluster.webhooks.signatures import signed_headers

_TEST_S: Final = 10.0
"""Maximum time of a test delivery in seconds, if ``OJS_WEBHOOK_TIMEOUT`` is not shorter."""
_SHOWN: Final = 1000
"""Maximum number of bytes of a receiver's response that a test shows."""


class SubscriptionFilterBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The queues and job types whose events the receiver gets.

    An unknown member is an error. The client may mean it as a condition, and without that condition
    the receiver would get all events.
    """

    queues: list[str] | None = None
    job_types: list[str] | None = None


class SubscriptionBody(msgspec.Struct, frozen=True):
    """The members of a subscription that a client may set."""

    url: str | None = None
    events: list[str] | None = None
    active: bool | None = None
    secret: str | None = None
    filter: SubscriptionFilterBody | msgspec.UnsetType | None = msgspec.UNSET
    metadata: Annotated[msgspec.Raw | msgspec.UnsetType, keywords(type=["object", "null"])] = (
        msgspec.UNSET
    )


class RotationBody(msgspec.Struct, frozen=True):
    """The new secret; without it the server makes one."""

    secret: str | None = None


_decoder = msgspec.json.Decoder(SubscriptionBody)
_rotation_decoder = msgspec.json.Decoder(RotationBody)


async def create(app: App, request: Request) -> Response:
    """Create a subscription. Only this response and that of a rotation show the secret.

    (spec: ojs-webhooks 6.1)
    """
    body = decode(_decoder, request, app.settings.limits)
    for field, given in (("url", body.url), ("events", body.events)):
        if given is None:
            raise InvalidRequest(f"'{field}' is required", field=field)
    secret = core.new_secret() if body.secret is None else core.check_secret(body.secret)

    def make(subscription_id: str, now_ms: int) -> Subscription:
        empty = Subscription(
            id=subscription_id,
            url="",
            events=(),
            secrets=(Secret(secret),),
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        return _changed(app, empty, body)

    made = await subscriptions.create(app.store, make)
    await app.store.webhooks.try_read(app.store)
    headers = (("Location", f"/ojs/v1/webhooks/subscriptions/{made.id}"),)
    members = shapes.SecretSubscription({**_counted(made, None), "secret": secret})
    value = shapes.SubscriptionCreated({**members, "subscription": members})
    return replies.json_response(201, value, headers, audit_object=made.id)


async def list_subscriptions(app: App, request: Request) -> Response:
    """List subscriptions, oldest first.

    (spec: ojs-webhooks 6.2)
    """
    page = query.numbered_page(
        query.parameters(request.query), SUBSCRIPTIONS, default=50, max_limit=200
    )
    found = subscriptions.oldest_first(await subscriptions.read_all(app.store))
    counts = await read_counts(app.store)
    part, follows = listed.cut(
        found,
        lambda each: (each.created_ms, each.id),
        limit=page.limit,
        offset=page.offset,
        after=page.after,
    )
    shown = [_counted(each, counts.get(each.id)) for each in part]
    last = (part[-1].created_ms, part[-1].id) if follows else None
    pages = query.pagination(page, len(shown), len(found), last)
    members = shapes.SubscriptionList(
        subscriptions=shown, items=shown, total=len(found), pagination=pages
    )
    return replies.json_response(200, members)


async def get(app: App, _request: Request, subscription_id: str) -> Response:
    """Return a subscription without its secret.

    (spec: ojs-webhooks 6.3)
    """
    found = await subscriptions.get(app.store, subscription_id)
    counts = await read_counts(app.store)
    members = _counted(found, counts.get(found.id))
    return replies.json_response(
        200, shapes.SubscriptionAnswer({**members, "subscription": members})
    )


async def change(app: App, request: Request, subscription_id: str) -> Response:
    """Change a subscription: replace those members that the request body has.

    If the server has deactivated the subscription, ``active: true`` activates it again.

    (spec: ojs-webhooks 6.4)
    """
    body = decode(_decoder, request, app.settings.limits)
    if body.secret is not None:
        raise InvalidRequest("rotate-secret replaces the secret", field="secret")
    changed = await subscriptions.change(
        app.store, subscription_id, lambda old: _changed(app, old, body)
    )
    await app.store.webhooks.try_read(app.store)
    members = _members(changed)
    return replies.json_response(
        200, shapes.SubscriptionChanged({**members, "subscription": members})
    )


async def drop(app: App, _request: Request, subscription_id: str) -> Response:
    """Delete a subscription.

    (spec: ojs-webhooks 6.5)
    """
    await subscriptions.delete(app.store, subscription_id)
    await app.store.webhooks.try_read(app.store)
    return replies.json_response(200, shapes.SubscriptionDeleted(deleted=True, id=subscription_id))


async def rotate_secret(app: App, request: Request, subscription_id: str) -> Response:
    """Replace the secret. For a day, deliveries are signed with the previous secret as well.

    (spec: ojs-webhooks 8.3)
    """
    body = decode(_rotation_decoder, request, app.settings.limits, optional=True)
    secret = core.new_secret() if body.secret is None else core.check_secret(body.secret)
    rotated = await subscriptions.rotate(app.store, subscription_id, secret)
    await app.store.webhooks.try_read(app.store)
    members = _members(rotated)
    old = [each for each in rotated.secrets[1:] if each.until_ms is not None]
    value: shapes.SecretRotated = {
        **members,
        "subscription": members,
        "secret": secret,
        "new_secret": secret,
        "previous_secret_expires_at": replies.iso(old[0].until_ms or 0) if old else None,
    }
    return replies.json_response(200, value)


async def test(app: App, _request: Request, subscription_id: str) -> Response:
    """Send an event ``webhook.test`` now, and return what the receiver answered.

    (spec: ojs-webhooks 6.6)
    """
    settings = app.store.settings.webhooks
    subscription = await subscriptions.get(app.store, subscription_id)
    url = parse_url(subscription.url, allow_http=settings.allow_http)
    now_s = int(app.store.clock.now_s())
    number = uuid.uuid4()
    timestamp = format_ms(now_s * 1000).decode()
    event = {
        "specversion": "1.0",
        "id": f"evt_{number}",
        "type": "webhook.test",
        "event": "webhook.test",
        "source": "ojs://ojs-cluster/api",
        "time": timestamp,
        "timestamp": timestamp,
        "subject": subscription.id,
        "datacontenttype": "application/json",
        "data": {"subscription_id": subscription.id},
    }
    body = orjson.dumps(event)
    headers = signed_headers(
        subscription.signing_keys(now_s * 1000),
        body,
        kind="webhook.test",
        delivery_id=f"del_{number}",
        subscription_id=subscription.id,
        now_s=now_s,
    )
    if app.webhook_tests.available_tokens < 1:
        raise RateLimited("too many test deliveries wait for their receivers")
    async with app.webhook_tests:
        timeout_s = min(_TEST_S, settings.timeout_s)
        result = await app.webhook_client.post(url, headers, body, timeout_s=timeout_s)
    value: shapes.DeliveryTested = {
        "success": result.delivered,
        "status_code": result.status,
        "status": result.status,
        "response_time_ms": result.elapsed_ms,
        "response_body": result.body[:_SHOWN].decode(errors="replace"),
        "delivery_id": f"del_{number}",
    }
    if result.error:
        value["error"] = result.error
    return replies.json_response(200, value)


def _changed(app: App, old: Subscription, body: SubscriptionBody) -> Subscription:
    """Check the members of a body, and return the subscription with these members replaced."""
    settings = app.store.settings.webhooks
    new: dict[str, Any] = {}
    if body.url is not None:
        url = parse_url(body.url, allow_http=settings.allow_http)
        check_literal(url, settings.allow_cidrs)
        new["url"] = body.url
    if body.events is not None:
        new["events"] = core.check_events(body.events)
    if body.active is not None:
        new.update(active=body.active, disabled_reason="")
    if body.filter is not msgspec.UNSET:
        wanted = body.filter or SubscriptionFilterBody()
        queues, types = wanted.queues or [], wanted.job_types or []
        core.check_filter(queues, types)
        new["queues"] = tuple(dict.fromkeys(queues))
        new["job_types"] = tuple(dict.fromkeys(types))
    if body.metadata is not msgspec.UNSET:
        new["metadata"] = _metadata(body.metadata)
    return msgspec.structs.replace(old, **new)


def _metadata(raw: msgspec.Raw) -> msgspec.Raw:
    text = bytes(raw)
    if text == b"null":
        text = b"{}"
    if text[:1] != b"{":
        raise InvalidRequest("'metadata' must be an object", field="metadata")
    if len(text) > core.MAX_METADATA:
        raise InvalidRequest(f"'metadata' may have {core.MAX_METADATA} bytes", field="metadata")
    return msgspec.Raw(text)


def _members(subscription: Subscription) -> shapes.SubscriptionMembers:
    """Return the members of a subscription that every response has. There is no secret."""
    members: shapes.SubscriptionMembers = {
        "id": subscription.id,
        "url": subscription.url,
        "events": list(subscription.events),
        "active": subscription.active,
        "metadata": replies.encoded(bytes(subscription.metadata) or b"{}"),
        "created_at": replies.iso(subscription.created_ms),
        "updated_at": replies.iso(subscription.updated_ms),
    }
    queues, job_types = core.filters(subscription)
    if queues:
        members["filter"] = {"queues": list(queues)}
    if job_types:
        members["filter"] = {**members.get("filter", {}), "job_types": list(job_types)}
    if subscription.disabled_reason:
        members["disabled_reason"] = subscription.disabled_reason
    return members


def _counted(
    subscription: Subscription, counts: DeliveryCounts | None
) -> shapes.CountedSubscription:
    """Return a subscription, the numbers of its deliveries by outcome, and the last delivery."""
    counts = counts or DeliveryCounts()
    members: shapes.CountedSubscription = {
        **_members(subscription),
        "success_count": counts.numbers["delivered"],
        "failure_count": counts.failed,
        "dead_count": counts.numbers["dead"],
        "dropped_count": counts.numbers["full"],
    }
    if counts.last_ms:
        members["last_delivery_at"] = replies.iso(counts.last_ms)
        members["last_delivery_status"] = counts.last_status
    if counts.failing_since_ms:
        members["failing_since"] = replies.iso(counts.failing_since_ms)
        if counts.last_error:
            members["last_error"] = counts.last_error
    return members
