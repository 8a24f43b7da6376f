"""The option ``rate_limit`` of jobs of the fake server (spec: ojs-rate-limiting)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ojs_client.testing.refusals import not_allowed
from ojs_client.testing.times import duration_ms

_KEY: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:\-]{0,254}")
_ON_LIMIT: Final = ("wait", "reschedule", "drop")
_PERIODS_MS: Final = {"second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_MAX_LIMIT: Final = 1_000_000_000
_PATH: Final = "options.rate_limit"


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``count`` starts in any period.

    Args:
        count: number of starts.
        period_ms: length of the period in milliseconds.
    """

    count: int
    period_ms: int


@dataclass(frozen=True, slots=True)
class Policy:
    """The rate limit of a job.

    Args:
        key: the rate limit key; that of ``max_per_second`` names the queue.
        concurrency: maximum number of active jobs; None for any.
        rate: maximum number of starts; None for any.
        throttle: maximum number of evenly spaced starts; None for any.
        on_limit: what happens to a job that may not start.
    """

    key: str
    concurrency: int | None = None
    rate: Rate | None = None
    throttle: Rate | None = None
    on_limit: str = "wait"


def queue_key(queue: str) -> str:
    """Return the key of the limit of a queue. No rate limit key contains a space."""
    return f"queue {queue}"


def policy_of(given: Mapping[str, Any] | None, queue: str) -> Policy | None:
    """Return the rate limit that a job declares; None without one.

    Args:
        given: the option ``rate_limit`` of the job.
        queue: the queue of the job.

    Raises:
        Refusal: the rate limit is not allowed.
    """
    if given is None:
        return None
    if (most := given.get("max_per_second")) is not None:
        if given.get("key") is not None:
            raise not_allowed("max_per_second cannot be combined with a key", _PATH)
        return Policy(queue_key(queue), rate=Rate(_whole(most, "max_per_second", 1), 1000))
    key, on_limit = given.get("key"), given.get("on_limit") or "wait"
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise not_allowed(f"{key!r} is not a rate limit key", f"{_PATH}.key")
    if on_limit not in _ON_LIMIT:
        raise not_allowed(
            f"on_limit must be one of {', '.join(_ON_LIMIT)}, not {on_limit!r}", f"{_PATH}.on_limit"
        )
    concurrency = given.get("concurrency")
    if concurrency is not None:
        _whole(concurrency, "concurrency", 0)
    policy = Policy(key, concurrency, _rate(given, "rate"), _rate(given, "throttle"), on_limit)
    if (policy.concurrency, policy.rate, policy.throttle) == (None, None, None):
        raise not_allowed("a key needs concurrency, rate or throttle", f"{_PATH}.concurrency")
    return policy


def _rate(given: Mapping[str, Any], name: str) -> Rate | None:
    value = given.get(name)
    if value is None:
        return None
    count, period = value, given.get("period")
    if isinstance(value, dict):
        count, period = value.get("limit"), value.get("period")
    ms = _PERIODS_MS.get(period) if isinstance(period, str) else None
    return Rate(_whole(count, name, 1), ms or duration_ms(period, f"{_PATH}.{name}"))


def _whole(value: Any, name: str, low: int) -> int:
    if type(value) is not int or not low <= value <= _MAX_LIMIT:
        raise not_allowed(f"{name} must be a whole number from {low}", f"{_PATH}.{name}")
    return value
