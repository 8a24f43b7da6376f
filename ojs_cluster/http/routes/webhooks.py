"""The routes of webhooks."""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers.webhooks import deliveries as webhook_deliveries
from ojs_cluster.http.handlers.webhooks import subscriptions as webhooks
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.described import Answer
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import events as event_shapes
from ojs_cluster.store.features.webhooks.deliveries import STATES

ROUTES: Final = table(
    Route(
        "GET /ojs/v1/webhooks/subscriptions",
        webhooks.list_subscriptions,
        a.ADMIN_READ,
        {200: event_shapes.SubscriptionList},
        parameters=p.numbered_page(50, 200),
    ),
    Route(
        "POST /ojs/v1/webhooks/subscriptions",
        webhooks.create,
        a.ADMIN_WRITE,
        {
            201: Answer(
                event_shapes.SubscriptionCreated,
                headers={"Location": "The path of the subscription."},
            )
        },
        body=webhooks.SubscriptionBody,
        errors=(409,),
        action="webhook.create",
    ),
    Route(
        "GET /ojs/v1/webhooks/subscriptions/{id}",
        webhooks.get,
        a.ADMIN_READ,
        {200: event_shapes.SubscriptionAnswer},
    ),
    Route(
        "PATCH /ojs/v1/webhooks/subscriptions/{id}",
        webhooks.change,
        a.ADMIN_WRITE,
        {200: event_shapes.SubscriptionChanged},
        body=webhooks.SubscriptionBody,
        errors=(409,),
        action="webhook.change",
        aliases=("PUT /ojs/v1/webhooks/subscriptions/{id}",),
    ),
    Route(
        "DELETE /ojs/v1/webhooks/subscriptions/{id}",
        webhooks.drop,
        a.ADMIN_WRITE,
        {200: event_shapes.SubscriptionDeleted},
        action="webhook.delete",
    ),
    Route(
        "GET /ojs/v1/webhooks/deliveries",
        webhook_deliveries.list_newest,
        a.ADMIN_READ,
        {200: event_shapes.DeliveryList},
        parameters=(
            p.text("subscription_id", "Only deliveries of this subscription."),
            p.text("status", "Only deliveries in this state.", enum=list(STATES)),
            p.limit(),
        ),
    ),
    Route(
        "GET /ojs/v1/webhooks/deliveries/{id}",
        webhook_deliveries.get,
        a.ADMIN_READ,
        {200: event_shapes.DeliveryDetail},
    ),
    Route(
        "POST /ojs/v1/webhooks/deliveries/{id}/retry",
        webhook_deliveries.retry,
        a.ADMIN_WRITE,
        {200: event_shapes.DeliveryRetried},
        errors=(409,),
        action="webhook.retry_delivery",
    ),
    Route(
        "POST /ojs/v1/webhooks/subscriptions/{id}/test",
        webhooks.test,
        a.ADMIN_WRITE,
        {200: event_shapes.DeliveryTested},
        action="webhook.test",
    ),
    Route(
        "POST /ojs/v1/webhooks/subscriptions/{id}/rotate-secret",
        webhooks.rotate_secret,
        a.ADMIN_WRITE,
        {200: event_shapes.SecretRotated},
        optional_body=webhooks.RotationBody,
        errors=(409,),
        action="webhook.rotate_secret",
    ),
)
