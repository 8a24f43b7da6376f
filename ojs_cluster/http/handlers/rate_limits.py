"""Rate limits: look at them, set them (spec: ojs-rate-limiting 7.2 and 10)."""

from __future__ import annotations

from typing import Any

import msgspec

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.options import check_queue
from ojs_cluster.core.rate_limit import Limits, parse_limits
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.bodies import decode
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store import rate_limits as store_limits
from ojs_cluster.store.rate_limits import QueueLimits, Usage


class LimitsBody(msgspec.Struct, frozen=True):
    """The limits to set; what is absent or null is no limit."""

    concurrency: Any = None
    rate: Any = None
    throttle: Any = None
    period: Any = None


_limits_decoder = msgspec.json.Decoder(LimitsBody)


async def set_queue(app: App, request: Request, name: str) -> Response:
    """PUT /ojs/v1/admin/queues/{name}/rate-limit. Replaces all limits of the queue."""
    check_queue(name, field="name")
    limits = _limits(app, request)
    if limits == Limits():
        raise InvalidRequest(
            "give concurrency, rate or throttle; DELETE takes the limits back", field="concurrency"
        )
    await store_limits.set_queue(app.store, name, limits)
    return _queue(name, await store_limits.of_queue(app.store, name))


async def get_queue(app: App, _request: Request, name: str) -> Response:
    """GET /ojs/v1/admin/queues/{name}/rate-limit. A queue without limits has none, not a 404."""
    check_queue(name, field="name")
    return _queue(name, await store_limits.of_queue(app.store, name))


async def drop_queue(app: App, _request: Request, name: str) -> Response:
    """DELETE /ojs/v1/admin/queues/{name}/rate-limit. What its jobs declared stays."""
    await store_limits.set_queue(app.store, check_queue(name, field="name"), Limits())
    return _queue(name, await store_limits.of_queue(app.store, name))


def _limits(app: App, request: Request) -> Limits:
    body = decode(_limits_decoder, request, app.settings.limits)
    return parse_limits(msgspec.structs.asdict(body), path="")


def _queue(name: str, found: QueueLimits) -> Response:
    shown: dict[str, Any] = {"queue": name, "name": name, **_usage(found.usage)}
    if found.max_per_second is not None:
        shown["max_per_second"] = found.max_per_second
    return replies.json_response(200, shown)


def _usage(usage: Usage) -> dict[str, Any]:
    limits = usage.limits
    shown: dict[str, Any] = {}
    if limits.concurrency is not None:
        shown["concurrency"] = {
            "limit": limits.concurrency,
            "active": usage.active,
            "available": max(0, limits.concurrency - usage.active),
        }
    if limits.rate is not None:
        shown["rate"] = {**limits.rate.json(), "current_count": usage.started}
        if usage.resets_ms is not None:
            shown["rate"]["window_resets_at"] = replies.iso(usage.resets_ms)
    if limits.throttle is not None:
        shown["throttle"] = limits.throttle.json()
        if usage.next_ms:
            shown["throttle"]["next_allowed_at"] = replies.iso(usage.next_ms)
    return shown
