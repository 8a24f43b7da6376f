"""Rate limits: validation and the canonical JSON form (spec: ojs-rate-limiting sections 5 and 6).

The limit of a queue is the ``max_per_second`` that its jobs declare, or limits that an operator has
set. A rate limit key also has limits, which the jobs with this key share across all queues. Three
kinds of limit may be combined: a number of active jobs, a number of starts in any window of a given
length, and evenly spaced starts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypedDict

import orjson

from ojs_cluster.core.durations import format_duration, parse_duration_ms
from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.raw_json import show

ON_LIMIT: Final = ("wait", "reschedule", "drop")
MAX_KEY_LENGTH: Final = 255
MAX_LIMIT: Final = 1_000_000_000
_is_key: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:\-]*").fullmatch
_is_count: Final = re.compile(r"[0-9]{1,15}").fullmatch
_is_rate: Final = re.compile(r"([1-9][0-9]{0,14}):([1-9][0-9]{0,14})").fullmatch
_is_packed: Final = re.compile(
    r"(\S+) (?:-|[0-9]{1,10}),(?:-|[0-9]{1,10}:[0-9]{1,15}),(?:-|[0-9]{1,10}:[0-9]{1,15}) [wrd]"
).fullmatch
_PERIODS_MS: Final = {"second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}


class RateMembers(TypedDict):
    """A rate in JSON."""

    limit: int
    period: str


class LimitMembers(TypedDict, total=False):
    """The limits that are set, in JSON."""

    concurrency: int
    rate: RateMembers
    throttle: RateMembers


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``limit`` starts in any ``period_ms`` milliseconds."""

    limit: int
    period_ms: int

    def json(self) -> RateMembers:
        """Return the JSON form that clients get."""
        return {"limit": self.limit, "period": format_duration(self.period_ms)}


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits that must all hold; None means that there is no such limit.

    Args:
        concurrency: maximum number of active jobs; with 0, no job can start.
        rate: maximum number of starts in any window of the period.
        throttle: maximum number of starts in any window of the period, spaced evenly.
    """

    concurrency: int | None = None
    rate: Rate | None = None
    throttle: Rate | None = None

    def overriding(self, base: RateLimits) -> RateLimits:
        """Return the limits that hold when these override ``base``.

        A kind of limit that is not set here is taken from ``base``.
        """
        return RateLimits(
            base.concurrency if self.concurrency is None else self.concurrency,
            self.rate or base.rate,
            self.throttle or base.throttle,
        )

    def partition_quota(self, number: int, count: int) -> RateLimits:
        """Return the partition quota: the part of these limits that one partition may use.

        The quotas of all partitions add up to the limit, if the limit is at least ``count``. A
        closed partition may get a late job. The quota of a closed partition is 1, so that such a
        job can start.

        Args:
            number: number of the partition, from 0.
            count: number of partitions that producers use. Partitions from this number on are
                closed to producers.
        """

        def part(limit: int) -> int:
            if limit == 0:
                return 0
            return max(1, limit // count + (number < limit % count)) if number < count else 1

        def rate_part(rate: Rate | None) -> Rate | None:
            return None if rate is None else Rate(part(rate.limit), rate.period_ms)

        return RateLimits(
            None if self.concurrency is None else part(self.concurrency),
            rate_part(self.rate),
            rate_part(self.throttle),
        )

    @property
    def most_partitions(self) -> int:
        """Largest number of partitions of which each has a quota of at least 1 of each limit."""
        numbers = [rate.limit for rate in (self.rate, self.throttle) if rate]
        if self.concurrency:
            numbers.append(self.concurrency)
        return min(numbers, default=MAX_LIMIT)

    def packed(self) -> str:
        """Return the form that scripts read: ``concurrency,limit:period,limit:period``.

        A limit that is not set is ``-``. ``store/include/limits/count_starts.lua`` reads this form.
        """
        pairs = [f"{r.limit}:{r.period_ms}" if r else "-" for r in (self.rate, self.throttle)]
        concurrency = "-" if self.concurrency is None else str(self.concurrency)
        return ",".join([concurrency, *pairs])

    def json(self) -> LimitMembers:
        """Return the limits that are set, in the JSON form that clients get."""
        shown: LimitMembers = {}
        if self.concurrency is not None:
            shown["concurrency"] = self.concurrency
        if self.rate is not None:
            shown["rate"] = self.rate.json()
        if self.throttle is not None:
            shown["throttle"] = self.throttle.json()
        return shown


@dataclass(frozen=True, slots=True)
class RateLimitPolicy:
    """The rate limit that a job declares, either for its queue or for a rate limit key.

    Args:
        max_per_second: maximum number of starts of the whole queue in any second.
        key: the rate limit key, None with ``max_per_second``.
        limits: the limits of the key.
        on_limit: what happens to a job that may not start yet, one of ``ON_LIMIT``.
    """

    max_per_second: int | None = None
    key: str | None = None
    limits: RateLimits = RateLimits()
    on_limit: str = "wait"

    def packed(self) -> str:
        """Return the form that a job stores: key, limits, first letter of ``on_limit``."""
        return f"{self.key} {self.limits.packed()} {self.on_limit[0]}"

    def json(self) -> bytes:
        """Return the policy as a JSON object in the canonical form."""
        if self.max_per_second is not None:
            return b'{"max_per_second":%d}' % self.max_per_second
        return orjson.dumps({"key": self.key, **self.limits.json(), "on_limit": self.on_limit})


def unpack_limits(text: str) -> RateLimits:
    """Return the limits that ``RateLimits.packed`` has written.

    Damaged text means no limits, as in ``store/include/limits/count_starts.lua``.
    """
    parts = text.split(",")
    if len(parts) != 3:
        return RateLimits()
    concurrency, *pairs = parts
    rates = [
        Rate(int(found[1]), int(found[2])) if (found := _is_rate(pair)) else None for pair in pairs
    ]
    return RateLimits(int(concurrency) if _is_count(concurrency) else None, rates[0], rates[1])


def is_packed_policy(text: str) -> bool:
    """Return whether ``text`` has the form of ``RateLimitPolicy.packed`` with a key."""
    match = _is_packed(text)
    return match is not None and bool(_is_key(match[1])) and len(match[1]) <= MAX_KEY_LENGTH


def check_key(key: object, *, field: str = "key") -> str:
    """Return ``key`` if it is a valid rate limit key.

    Raises:
        ValidationFailed: ``key`` is not a valid rate limit key.
    """
    if not isinstance(key, str) or not _is_key(key) or len(key) > MAX_KEY_LENGTH:
        raise ValidationFailed(
            f"a rate limit key has 1 to {MAX_KEY_LENGTH} of a-z, A-Z, 0-9, '.', '_', ':' and '-', "
            f"and starts with a letter or digit; {show(key)} is not one",
            field=field,
        )
    return key


RATE_LIMIT_MEMBERS: Final = frozenset(
    {"max_per_second", "key", "concurrency", "rate", "throttle", "period", "on_limit"}
)
"""The members that ``parse_rate_limit`` reads. Others are ignored."""


def parse_rate_limit(
    values: Mapping[str, Any], *, path: str = "options.rate_limit"
) -> RateLimitPolicy:
    """Return the policy that decoded JSON ``values`` declare. Null members count as absent.

    Raises:
        ValidationFailed: a member is not valid; ``details.field`` names it.
    """
    max_per_second = values.get("max_per_second")
    if max_per_second is not None:
        if values.get("key") is not None:
            raise _rejected(
                path, "max_per_second", "limits the queue and cannot be combined with a key"
            )
        return RateLimitPolicy(_whole_number(max_per_second, path, "max_per_second", low=1))
    key = check_key(values.get("key"), field=f"{path}.key")
    on_limit = values.get("on_limit")
    if on_limit is None:
        on_limit = ON_LIMIT[0]
    if on_limit not in ON_LIMIT:
        raise _rejected(
            path, "on_limit", f"must be one of {', '.join(ON_LIMIT)}, not {show(on_limit)}"
        )
    limits = parse_limits(values, path=path)
    if limits == RateLimits():
        raise _rejected(
            path, "concurrency", "is missing: a key needs concurrency, rate or throttle"
        )
    return RateLimitPolicy(key=key, limits=limits, on_limit=on_limit)


def parse_limits(values: Mapping[str, Any], *, path: str) -> RateLimits:
    """Return the limits among decoded JSON ``values``; each of them may be missing.

    Raises:
        ValidationFailed: a limit is not valid; ``details.field`` names it.
    """
    concurrency = values.get("concurrency")
    return RateLimits(
        None if concurrency is None else _whole_number(concurrency, path, "concurrency", low=0),
        _rate(values, path, "rate"),
        _rate(values, path, "throttle"),
    )


def parse_rate(value: Mapping[str, Any], *, path: str) -> Rate:
    """Return the rate of a decoded object with ``limit`` and ``period``.

    Raises:
        ValidationFailed: one of them is not valid; ``details.field`` names it.
    """
    return Rate(
        _whole_number(value.get("limit"), path, "limit", low=1),
        _period(value.get("period"), path, "period"),
    )


def _rejected(path: str, name: str, rule: str) -> ValidationFailed:
    return ValidationFailed(f"rate_limit.{name} {rule}", field=f"{path}.{name}" if path else name)


def _whole_number(value: object, path: str, name: str, *, low: int) -> int:
    # `type is`, because a JSON true would pass as the integer 1
    if type(value) is not int or not low <= value <= MAX_LIMIT:
        raise _rejected(
            path, name, f"must be a whole number from {low} to {MAX_LIMIT}, not {show(value)}"
        )
    return value


def _rate(values: Mapping[str, Any], path: str, name: str) -> Rate | None:
    """Return the rate that the member ``name`` of ``values`` sets; None if there is none.

    The member is an object ``{"limit": N, "period": P}``, or a number N. The period of a number is
    the member ``period`` of ``values``.
    """
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, dict):
        limit, limit_name = value.get("limit"), f"{name}.limit"
        period, period_name = value.get("period"), f"{name}.period"
    else:
        limit, limit_name = value, name
        period, period_name = values.get("period"), "period"
    return Rate(
        _whole_number(limit, path, limit_name, low=1),
        _period(period, path, period_name),
    )


def _period(value: object, path: str, name: str) -> int:
    if not isinstance(value, str):
        raise _rejected(
            path,
            name,
            f"must be one of {', '.join(_PERIODS_MS)} or an ISO 8601 duration, not {show(value)}",
        )
    if value in _PERIODS_MS:
        return _PERIODS_MS[value]
    try:
        return parse_duration_ms(value)
    except ValueError as error:
        raise _rejected(path, name, str(error)) from None
