"""Rate limits in responses."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from ojs_cluster.http.shapes.common import Count, Moment, Pagination, QueueName
from ojs_cluster.http.shapes.queues import ShownRate


class ConcurrencyUsage(TypedDict):
    """A limit on active jobs, and how much of it is used."""

    limit: Count
    active: Count
    available: Count


class RateUsage(ShownRate):
    """A limit on starts, and how much of it is used."""

    current_count: Count
    window_resets_at: NotRequired[Moment]


class ThrottleUsage(ShownRate):
    """A limit on starts, evenly spaced, and when the next may happen."""

    next_allowed_at: NotRequired[Moment]


class LimitUsage(TypedDict):
    """The limits that are set, and how much of them is used."""

    concurrency: NotRequired[ConcurrencyUsage]
    rate: NotRequired[RateUsage]
    throttle: NotRequired[ThrottleUsage]


class FirstLimit(TypedDict):
    """One of the limits that are set. A limit on active jobs has an empty period."""

    limit: NotRequired[Count]
    period: NotRequired[str]


class ShownOverride(FirstLimit):
    """Limits that override those that jobs carry."""

    concurrency: NotRequired[Count]
    rate: NotRequired[ShownRate]
    throttle: NotRequired[ShownRate]
    expires_at: NotRequired[Moment]


class RateLimitKey(FirstLimit, LimitUsage):
    """A rate limit key, its limits and their usage."""

    key: str
    active: Count
    waiting: Count
    waiting_count: Count
    override: NotRequired[ShownOverride]
    held_until: NotRequired[Moment]


class HeldRateLimitKey(RateLimitKey):
    """A rate limit key, and ids of jobs that have a token of it."""

    holders: list[str]


class RateLimitKeys(TypedDict):
    """A page of rate limit keys, under two names."""

    rate_limits: list[RateLimitKey]
    items: list[RateLimitKey]
    pagination: Pagination


class QueueLimits(LimitUsage):
    """The limits of a queue and their usage."""

    queue: QueueName
    name: QueueName
    max_per_second: NotRequired[Count]
