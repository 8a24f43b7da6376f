"""The routes of webhooks."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers.webhooks import deliveries as webhook_deliveries
from ojs_cluster.http.handlers.webhooks import subscriptions as webhooks
from ojs_cluster.http.routing.router import V1, Route

ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", f"{V1}/webhooks/subscriptions", webhooks.list_subscriptions, Scope.ADMIN_READ),
    Route(
        "POST",
        f"{V1}/webhooks/subscriptions",
        webhooks.create,
        Scope.ADMIN_WRITE,
        action="webhook.create",
    ),
    Route("GET", f"{V1}/webhooks/subscriptions/{{id}}", webhooks.get, Scope.ADMIN_READ),
    *(
        Route(
            method,
            f"{V1}/webhooks/subscriptions/{{id}}",
            webhooks.change,
            Scope.ADMIN_WRITE,
            action="webhook.change",
        )
        for method in ("PATCH", "PUT")
    ),
    Route(
        "DELETE",
        f"{V1}/webhooks/subscriptions/{{id}}",
        webhooks.drop,
        Scope.ADMIN_WRITE,
        action="webhook.delete",
    ),
    Route("GET", f"{V1}/webhooks/deliveries", webhook_deliveries.list_newest, Scope.ADMIN_READ),
    Route("GET", f"{V1}/webhooks/deliveries/{{id}}", webhook_deliveries.get, Scope.ADMIN_READ),
    Route(
        "POST",
        f"{V1}/webhooks/deliveries/{{id}}/retry",
        webhook_deliveries.retry,
        Scope.ADMIN_WRITE,
        action="webhook.retry_delivery",
    ),
    Route(
        "POST",
        f"{V1}/webhooks/subscriptions/{{id}}/test",
        webhooks.test,
        Scope.ADMIN_WRITE,
        action="webhook.test",
    ),
    Route(
        "POST",
        f"{V1}/webhooks/subscriptions/{{id}}/rotate-secret",
        webhooks.rotate_secret,
        Scope.ADMIN_WRITE,
        action="webhook.rotate_secret",
    ),
)
