"""Read and set the limits of rate limit keys and of queues (spec: ojs-rate-limiting 7.2 and 10)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Final

import msgspec

from ojs_cluster.core.errors import InvalidRequest, OJSError
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.rate_limit import RateLimits, check_key, parse_limits
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.cursor_kinds import RATE_LIMITS
from ojs_cluster.http.messages import Headers, Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes import rate_limits as shapes
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.store.features.rate_limits import rate_limits as store_limits
from ojs_cluster.store.features.rate_limits.rate_limits import (
    QueueRateLimits,
    RateLimitKeyStatus,
    RateLimitUsage,
)

_RATE: Final = keywords(
    type=["object", "integer", "null"],
    minimum=1,
    properties={"limit": {"type": "integer", "minimum": 1}, "period": {"type": "string"}},
)
"""A number of starts in any window, as an object or as a number with ``period`` beside it."""


class LimitsBody(msgspec.Struct, frozen=True):
    """The limits to set. A member that is absent or null sets no limit."""

    concurrency: Annotated[Any, keywords(type=["integer", "null"], minimum=0)] = None
    rate: Annotated[Any, _RATE] = None
    throttle: Annotated[Any, _RATE] = None
    period: Annotated[Any, keywords(type=["string", "null"])] = None


class OverrideBody(LimitsBody, frozen=True):
    """Limits that override the limits of a rate limit key until ``expires_at``.

    ``limit`` with a ``period`` has the same meaning as ``rate``. ``limit`` without a ``period`` has
    the same meaning as ``concurrency``.
    """

    expires_at: str | None = None
    limit: Annotated[Any, keywords(type=["integer", "null"], minimum=0)] = None

    def values(self) -> dict[str, Any]:
        """Return the members that ``parse_limits`` reads."""
        values = msgspec.structs.asdict(self)
        if self.limit is not None and self.rate is None and self.concurrency is None:
            if self.period:
                values["rate"] = {"limit": self.limit, "period": fields.iso_duration(self.period)}
            else:
                values["concurrency"] = self.limit
        return values


_MAX_HOLDERS: Final = 100
_override_decoder = msgspec.json.Decoder(OverrideBody)
_limits_decoder = msgspec.json.Decoder(LimitsBody)


async def list_keys(app: App, request: Request) -> Response:
    """List rate limit keys.

    (spec: ojs-rate-limiting 10)
    """
    given = query.parameters(request.query)
    page = query.numbered_page(given, RATE_LIMITS, default=50, max_limit=200)
    found, total, last = await store_limits.list_keys(
        app.store, limit=page.limit, offset=page.offset, after=page.after
    )
    keys = [_key(key) for key in found]
    pages = query.pagination(page, len(keys), total, last)
    members = shapes.RateLimitKeys(rate_limits=keys, items=keys, pagination=pages)
    return replies.json_response(200, members)


async def get_key(app: App, _request: Request, key: str) -> Response:
    """Return the limits and the usage of a rate limit key, and the jobs that count as active.

    ``holders`` has the ids of at most 100 of these jobs: those that run, then those that may start.

    (spec: ojs-rate-limiting 10)
    """
    key_status = await store_limits.get_key(app.store, check_key(key), holders=_MAX_HOLDERS)
    members = shapes.HeldRateLimitKey(**_key(key_status), holders=[*key_status.holders])
    return replies.json_response(200, members)


async def override_key(app: App, request: Request, key: str) -> Response:
    """Override the limits that jobs carry for a rate limit key.

    The override ends at ``expires_at``, or when it is removed if the body has no ``expires_at``.

    (spec: ojs-rate-limiting 10)
    """
    check_key(key)
    body = decode(_override_decoder, request, app.settings.limits)
    limits = parse_limits(body.values(), path="")
    if limits == RateLimits():
        raise InvalidRequest(
            "give concurrency, rate, throttle or limit; DELETE removes the override",
            field="concurrency",
        )
    until = fields.absolute_time_ms(body.expires_at, field="expires_at")
    key_status = await store_limits.override_key(app.store, key, limits, until)
    return replies.json_response(200, _key(key_status))


async def drop_override(app: App, _request: Request, key: str) -> Response:
    """Remove the override of a rate limit key, if there is one.

    (spec: ojs-rate-limiting 10)
    """
    key_status = await store_limits.override_key(app.store, check_key(key), RateLimits(), None)
    return replies.json_response(200, _key(key_status))


async def headers_of(app: App, job: NewJob) -> Headers:
    """Return response headers with the remaining capacity of a new job's rate limit key.

    The result is empty if the job has no rate limit key, or if the limits cannot be read. An error
    is not raised, because the job is enqueued already.
    """
    if job.rate_limit is None or job.rate_limit.key is None:
        return ()
    key_status = None
    with suppress(OJSError):
        key_status = await store_limits.get_key(app.store, job.rate_limit.key)
    if key_status is None:
        return ()
    usage, reset_ms = key_status.usage, key_status.now_ms
    if usage.limits.rate is not None:
        limit, remaining = usage.limits.rate.limit, usage.limits.rate.limit - usage.started
        reset_ms = usage.resets_ms or reset_ms
    elif usage.limits.concurrency is not None:
        limit, remaining = usage.limits.concurrency, usage.limits.concurrency - usage.active
    elif usage.limits.throttle is not None:
        reset_ms = max(reset_ms, usage.next_ms or 0)
        # A throttle spaces the starts evenly, so at most one job can start now.
        limit, remaining = usage.limits.throttle.limit, int(reset_ms == key_status.now_ms)
    else:
        return ()
    return (
        ("X-RateLimit-Limit", str(limit)),
        ("X-RateLimit-Remaining", str(max(0, remaining))),
        ("X-RateLimit-Reset", str(math.ceil(reset_ms / 1000))),
    )


async def set_queue(app: App, request: Request, name: str) -> Response:
    """Replace all limits of a queue.

    (spec: ojs-rate-limiting 7.2)
    """
    check_queue(name, field="name")
    limits = _limits(app, request)
    if limits == RateLimits():
        raise InvalidRequest(
            "give concurrency, rate or throttle; DELETE removes the limits", field="concurrency"
        )
    old = (await store_limits.get_queue_limits(app.store, name)).usage.limits.json()
    return _queue(name, await store_limits.set_queue_limits(app.store, name, limits), old)


async def get_queue(app: App, _request: Request, name: str) -> Response:
    """Return the limits of a queue. An unknown queue has none.

    (spec: ojs-rate-limiting 7.2)
    """
    check_queue(name, field="name")
    return _queue(name, await store_limits.get_queue_limits(app.store, name))


async def drop_queue(app: App, _request: Request, name: str) -> Response:
    """Remove all limits of a queue, whether an operator has set them or a job has carried them.

    (spec: ojs-rate-limiting 7.2)
    """
    check_queue(name, field="name")
    return _queue(name, await store_limits.clear_queue_limits(app.store, name))


def _limits(app: App, request: Request) -> RateLimits:
    body = decode(_limits_decoder, request, app.settings.limits)
    return parse_limits(msgspec.structs.asdict(body), path="")


def _key(key_status: RateLimitKeyStatus) -> shapes.RateLimitKey:
    members: shapes.RateLimitKey = {
        "key": key_status.key,
        "active": key_status.usage.active,
        **_limit_and_period(key_status.usage.limits),
        **_usage(key_status.usage),
        "waiting": key_status.waiting,
        "waiting_count": key_status.waiting,
    }
    if key_status.override is not None:
        members["override"] = {
            **_limit_and_period(key_status.override),
            **key_status.override.json(),
        }
        if key_status.override_until_ms is not None:
            members["override"]["expires_at"] = replies.iso(key_status.override_until_ms)
    if key_status.hold_until_ms is not None:
        members["held_until"] = replies.iso(key_status.hold_until_ms)
    return members


def _queue(
    name: str, limits: QueueRateLimits, replaced: Mapping[str, Any] | None = None
) -> Response:
    members: shapes.QueueLimits = {"queue": name, "name": name, **_usage(limits.usage)}
    if limits.max_per_second is not None:
        members["max_per_second"] = limits.max_per_second
    return replies.json_response(200, members, audit_old=replaced)


def _limit_and_period(limits: RateLimits) -> shapes.FirstLimit:
    """Return one limit as the admin UI shows it. A concurrency limit has an empty period."""
    rate = limits.rate or limits.throttle
    if rate is not None:
        return {"limit": rate.limit, "period": rate.json()["period"]}
    if limits.concurrency is not None:
        return {"limit": limits.concurrency, "period": ""}
    return {}


def _usage(usage: RateLimitUsage) -> shapes.LimitUsage:
    limits = usage.limits
    shown: shapes.LimitUsage = {}
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
        shown["throttle"] = {**limits.throttle.json()}
        if usage.next_ms:
            shown["throttle"]["next_allowed_at"] = replies.iso(usage.next_ms)
    return shown
