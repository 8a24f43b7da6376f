"""Rate limits: validation and the canonical echo (spec: ojs-rate-limiting sections 5 and 6).

A limit belongs to a queue (``max_per_second``, or set by an operator) or to a key that jobs of any
queues share. Three strategies may be combined: so many at a time, so many starts in any window of
a length, starts spaced evenly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

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


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``limit`` starts in any ``period_ms`` milliseconds."""

    limit: int
    period_ms: int

    def json(self) -> dict[str, Any]:
        """As a client sees it."""
        return {"limit": self.limit, "period": format_duration(self.period_ms)}


@dataclass(frozen=True, slots=True)
class Limits:
    """What must hold together; None means that there is no such limit.

    Args:
        concurrency: most active jobs; 0 lets none start.
        rate: most starts in any window of the period.
        throttle: the same, spaced evenly.
    """

    concurrency: int | None = None
    rate: Rate | None = None
    throttle: Rate | None = None

    def over(self, under: Limits) -> Limits:
        """What holds when these are set over others: of each kind its own, if it has one."""
        return Limits(
            under.concurrency if self.concurrency is None else self.concurrency,
            self.rate or under.rate,
            self.throttle or under.throttle,
        )

    def share(self, number: int, count: int) -> Limits:
        """What partition ``number`` of ``count`` has of these limits.

        Shares add up to the limits where these are ``count`` or more. A partition beyond ``count``,
        which is closed but may get a late job, has the least there is: its jobs must not wait for
        ever.
        """

        def part(limit: int) -> int:
            if limit == 0:
                return 0
            return max(1, limit // count + (number < limit % count)) if number < count else 1

        def rate(whole: Rate | None) -> Rate | None:
            return None if whole is None else Rate(part(whole.limit), whole.period_ms)

        return Limits(
            None if self.concurrency is None else part(self.concurrency),
            rate(self.rate),
            rate(self.throttle),
        )

    def packed(self) -> str:
        """As the scripts read it: ``concurrency,limit:period,limit:period``, '-' for none.

        Twin of ``store/include/limits/count_starts.lua``.
        """
        pairs = [f"{r.limit}:{r.period_ms}" if r else "-" for r in (self.rate, self.throttle)]
        concurrency = "-" if self.concurrency is None else str(self.concurrency)
        return ",".join([concurrency, *pairs])

    def json(self) -> dict[str, Any]:
        """The members that are set, as a client sees them."""
        shown: dict[str, Any] = {}
        if self.concurrency is not None:
            shown["concurrency"] = self.concurrency
        if self.rate is not None:
            shown["rate"] = self.rate.json()
        if self.throttle is not None:
            shown["throttle"] = self.throttle.json()
        return shown


@dataclass(frozen=True, slots=True)
class RateLimitPolicy:
    """What a job asks for: either a limit of its queue, or limits of a key.

    Args:
        max_per_second: starts in any second, of the whole queue.
        key: what the limits are counted by, None with ``max_per_second``.
        on_limit: what becomes of a job that must not start yet.
    """

    max_per_second: int | None = None
    key: str | None = None
    limits: Limits = Limits()
    on_limit: str = "wait"

    def packed(self) -> str:
        """As a job keeps it: key, limits, first letter of what to do at the limit."""
        return f"{self.key} {self.limits.packed()} {self.on_limit[0]}"

    def json(self) -> bytes:
        """The policy as a JSON object in the canonical spelling."""
        if self.max_per_second is not None:
            return b'{"max_per_second":%d}' % self.max_per_second
        return orjson.dumps({"key": self.key, **self.limits.json(), "on_limit": self.on_limit})


def unpack_limits(text: str) -> Limits:
    """The reverse of ``Limits.packed``. What is damaged limits nothing, as in ``meter.lua``."""
    parts = text.split(",")
    if len(parts) != 3:
        return Limits()
    concurrency, *pairs = parts
    rates = [
        Rate(int(found[1]), int(found[2])) if (found := _is_rate(pair)) else None for pair in pairs
    ]
    return Limits(int(concurrency) if _is_count(concurrency) else None, rates[0], rates[1])


def is_packed_policy(text: str) -> bool:
    """Whether ``text`` is what ``RateLimitPolicy.packed`` makes of a policy with a key."""
    match = _is_packed(text)
    return match is not None and bool(_is_key(match[1])) and len(match[1]) <= MAX_KEY_LENGTH


def check_key(key: object, *, field: str = "key") -> str:
    """``key`` when it is a valid rate limit key. Raises ValidationFailed otherwise."""
    if not isinstance(key, str) or not _is_key(key) or len(key) > MAX_KEY_LENGTH:
        raise ValidationFailed(
            f"a rate limit key has 1 to {MAX_KEY_LENGTH} of a-z, A-Z, 0-9, '.', '_', ':' and '-', "
            f"and starts with a letter or digit; {show(key)} is none",
            field=field,
        )
    return key


def parse_rate_limit(
    values: Mapping[str, Any], *, path: str = "options.rate_limit"
) -> RateLimitPolicy:
    """The policy that decoded JSON ``values`` ask for. Null members count as absent.

    Raises ValidationFailed with ``details.field``.
    """
    most = values.get("max_per_second")
    if most is not None:
        if values.get("key") is not None:
            raise _rejected(path, "max_per_second", "limits the queue and goes with no key")
        return RateLimitPolicy(_whole(most, path, "max_per_second", low=1))
    key = check_key(values.get("key"), field=f"{path}.key")
    on_limit = values.get("on_limit")
    if on_limit is None:
        on_limit = ON_LIMIT[0]
    if on_limit not in ON_LIMIT:
        raise _rejected(
            path, "on_limit", f"must be one of {', '.join(ON_LIMIT)}, not {show(on_limit)}"
        )
    limits = parse_limits(values, path=path)
    if limits == Limits():
        raise _rejected(path, "concurrency", "or rate or throttle must be given beside a key")
    return RateLimitPolicy(key=key, limits=limits, on_limit=on_limit)


def parse_limits(values: Mapping[str, Any], *, path: str) -> Limits:
    """The limits among decoded JSON ``values``; every one may be missing.

    Raises ValidationFailed with ``details.field``.
    """
    concurrency = values.get("concurrency")
    return Limits(
        None if concurrency is None else _whole(concurrency, path, "concurrency", low=0),
        _rate(values, path, "rate"),
        _rate(values, path, "throttle"),
    )


def _rejected(path: str, name: str, rule: str) -> ValidationFailed:
    return ValidationFailed(f"rate_limit.{name} {rule}", field=f"{path}.{name}" if path else name)


def _whole(value: object, path: str, name: str, *, low: int) -> int:
    # `type is`, because a JSON true would pass as the integer 1
    if type(value) is not int or not low <= value <= MAX_LIMIT:
        raise _rejected(
            path, name, f"must be a whole number from {low} to {MAX_LIMIT}, not {show(value)}"
        )
    return value


def _rate(values: Mapping[str, Any], path: str, name: str) -> Rate | None:
    """``{"limit": N, "period": P}``, or the flat spelling with ``period`` beside the number."""
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, dict):
        limit, period, limit_name, period_name = (
            *(value.get("limit"), value.get("period")),
            *(f"{name}.limit", f"{name}.period"),
        )
    else:
        limit, period, limit_name, period_name = value, values.get("period"), name, "period"
    return Rate(
        _whole(limit, path, limit_name, low=1),
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
