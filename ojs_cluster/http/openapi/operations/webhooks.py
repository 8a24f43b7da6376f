"""Webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers.webhooks import deliveries, subscriptions
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import Answer, OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import events as shapes
from ojs_cluster.store.features.webhooks.deliveries import STATES

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    subscriptions.create: OperationDetails(
        {
            201: Answer(
                shapes.SubscriptionCreated, headers={"Location": "The path of the subscription."}
            )
        },
        body=subscriptions.SubscriptionBody,
        errors=(409,),
    ),
    subscriptions.list_subscriptions: OperationDetails(
        {200: shapes.SubscriptionList}, parameters=p.numbered_page(50, 200)
    ),
    subscriptions.get: OperationDetails({200: shapes.SubscriptionAnswer}),
    subscriptions.change: OperationDetails(
        {200: shapes.SubscriptionChanged}, body=subscriptions.SubscriptionBody, errors=(409,)
    ),
    subscriptions.drop: OperationDetails({200: shapes.SubscriptionDeleted}),
    subscriptions.rotate_secret: OperationDetails(
        {200: shapes.SecretRotated},
        body=subscriptions.RotationBody,
        body_required=False,
        errors=(409,),
    ),
    subscriptions.test: OperationDetails({200: shapes.DeliveryTested}),
    deliveries.list_newest: OperationDetails(
        {200: shapes.DeliveryList},
        parameters=(
            p.text("subscription_id", "Only deliveries of this subscription."),
            p.text("status", "Only deliveries in this state.", enum=list(STATES)),
            p.limit(),
        ),
    ),
    deliveries.get: OperationDetails({200: shapes.DeliveryDetail}),
    deliveries.retry: OperationDetails({200: shapes.DeliveryRetried}, errors=(409,)),
}
