"""Retry policies and their backoff (spec: ojs-retry)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ojs_cluster.core.durations import MAX_DURATION_MS, format_duration, parse_duration_ms
from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.raw_json import show

MAX_ATTEMPTS: Final = 2**31 - 1
"""The largest 32-bit integer. Some producers send it for "no limit"."""
MAX_COEFFICIENT: Final = 1e6
MAX_PATTERNS: Final = 100
MAX_PATTERN_LENGTH: Final = 255

_is_packed: Final = re.compile(
    r"([a-z]+):([0-9]{1,12}):([0-9]{1,7}\.[0-9]{1,17}):([0-9]{1,12}):[01]"
).fullmatch
STRATEGIES: Final[Mapping[str, str]] = {
    "exponential": "exponential",
    "linear": "linear",
    "constant": "constant",
    "none": "constant",
    "polynomial": "polynomial",
}
"""Each accepted backoff strategy, and the one that the Lua scripts implement for it."""
ON_EXHAUSTION_VALUES: Final = ("discard", "dead_letter")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What happens after a failed attempt.

    Args:
        max_attempts: maximum number of attempts, with the first one.
        initial_ms: backoff before the second attempt, in milliseconds.
        coefficient: factor (exponential) or exponent (polynomial) of the backoff's growth.
        max_ms: maximum backoff in milliseconds.
        jitter: whether the backoff has a random part.
        strategy: how the backoff grows, one of the values of ``STRATEGIES``.
        on_exhaustion: what happens when the last attempt fails, one of ``ON_EXHAUSTION_VALUES``.
            None: the queue's setting applies, or ``OJS_ON_EXHAUSTION`` if the queue has none.
        non_retryable: patterns of errors that end the job at once.
    """

    max_attempts: int = 3
    initial_ms: int = 1_000
    coefficient: float = 2.0
    max_ms: int = 300_000
    jitter: bool = True
    strategy: str = "exponential"
    on_exhaustion: str | None = None
    non_retryable: tuple[str, ...] = ()

    def packed(self) -> bytes:
        """Return the backoff for the Lua scripts, empty when it is the default one.

        Returns:
            ``strategy:initial_ms:coefficient:max_ms:jitter``, where jitter is 0 or 1.
        """
        backoff = (
            self.strategy,
            self.initial_ms,
            self.coefficient,
            self.max_ms,
            self.jitter,
        )
        if backoff == _DEFAULT_BACKOFF:
            return b""
        return (
            f"{self.strategy}:{self.initial_ms}:{self.coefficient!r}:{self.max_ms}:{self.jitter:d}"
        ).encode()

    def patterns(self) -> bytes:
        """Return the non-retryable patterns, joined by newlines, which no pattern contains."""
        return "\n".join(self.non_retryable).encode()

    def json(self) -> bytes:
        """Return the policy as a JSON object in canonical form."""
        policy: dict[str, Any] = {
            "max_attempts": self.max_attempts,
            "initial_interval": format_duration(self.initial_ms),
            "backoff_coefficient": self.coefficient,
            "max_interval": format_duration(self.max_ms),
            "jitter": self.jitter,
            "non_retryable_errors": self.non_retryable,
        }
        if self.on_exhaustion is not None:
            policy["on_exhaustion"] = self.on_exhaustion
        if self.strategy != "exponential":  # not part of the spec, so it is left out by default
            policy["backoff_strategy"] = self.strategy
        return orjson.dumps(policy)


DEFAULT_RETRY: Final = RetryPolicy()
_DEFAULT_BACKOFF: Final = (
    DEFAULT_RETRY.strategy,
    DEFAULT_RETRY.initial_ms,
    DEFAULT_RETRY.coefficient,
    DEFAULT_RETRY.max_ms,
    DEFAULT_RETRY.jitter,
)


RETRY_MEMBERS: Final = frozenset(
    {
        *("max_attempts", "initial_interval", "initial_interval_ms", "initial_delay_ms"),
        *("max_interval", "max_interval_ms", "backoff_coefficient", "jitter"),
        *("backoff_strategy", "backoff_type", "strategy", "backoff"),
        *("on_exhaustion", "non_retryable_errors"),
    }
)
"""The members that ``parse_retry`` reads. Others are ignored."""


def is_packed_retry(text: str) -> bool:
    """Return whether ``text`` is a packed backoff of a policy that ``parse_retry`` accepts."""
    match = _is_packed(text)
    if match is None or match[1] not in STRATEGIES.values():
        return False
    initial_ms, coefficient, max_ms = int(match[2]), float(match[3]), int(match[4])
    return 1 <= initial_ms <= max_ms <= MAX_DURATION_MS and 1 <= coefficient <= MAX_COEFFICIENT


def parse_retry(
    values: Mapping[str, Any] | None,
    *,
    path: str = "options.retry",
    max_attempts: object = None,
    max_attempts_path: str = "options.max_attempts",
) -> RetryPolicy:
    """Return the policy of decoded JSON; missing fields have their defaults (spec: ojs-retry).

    Besides its name in the spec, a field may have the names that SDKs send. If a request uses
    several names of a field, the name in the spec has priority. A null field counts as absent.

    Args:
        values: the policy object, None for the default policy.
        path: path of the policy in the request, for errors.
        max_attempts: the option ``max_attempts`` outside of the policy. A value in the policy has
            priority.
        max_attempts_path: path of that option in the request, for errors.

    Raises:
        ValidationFailed: a field is invalid; its name is in the message and in ``details.field``.
    """
    fields = _Fields(values or {}, path)
    if values is None or values.get("max_attempts") is None:
        attempts = _attempts(max_attempts, max_attempts_path)
    else:
        attempts = _attempts(values["max_attempts"], f"{path}.max_attempts")
    policy = RetryPolicy(
        max_attempts=attempts,
        initial_ms=fields.interval_ms(
            "initial_interval",
            ("initial_interval_ms", "initial_delay_ms"),
            DEFAULT_RETRY.initial_ms,
        ),
        coefficient=fields.coefficient(),
        max_ms=fields.interval_ms("max_interval", ("max_interval_ms",), DEFAULT_RETRY.max_ms),
        jitter=fields.jitter(),
        strategy=fields.strategy(),
        on_exhaustion=fields.on_exhaustion(),
        non_retryable=fields.non_retryable(),
    )
    if policy.max_ms < policy.initial_ms:
        raise ValidationFailed(
            f"max_interval ({format_duration(policy.max_ms)}) must not be shorter than "
            f"initial_interval ({format_duration(policy.initial_ms)})",
            field=f"{path}.max_interval",
        )
    return policy


def _attempts(value: object, path: str) -> int:
    if value is None:
        return DEFAULT_RETRY.max_attempts
    if type(value) is not int or not 0 <= value <= MAX_ATTEMPTS:
        raise ValidationFailed(
            f"max_attempts must be an integer from 0 to {MAX_ATTEMPTS}, not {show(value)}",
            field=path,
        )
    return value


@dataclass(frozen=True, slots=True)
class _Fields:
    """Parse one retry object; every method raises ``ValidationFailed`` for its own field."""

    values: Mapping[str, Any]
    path: str

    def _rejected(self, name: str, rule: str) -> ValidationFailed:
        return ValidationFailed(f"{name} {rule}", field=f"{self.path}.{name}")

    def _first(self, *names: str) -> tuple[str, Any]:
        for name in names:
            value = self.values.get(name)
            if value is not None:
                return name, value
        return names[0], None

    def interval_ms(self, iso_name: str, ms_names: tuple[str, ...], default_ms: int) -> int:
        """Return an interval in ms, from an ISO 8601 duration or a number of milliseconds."""
        name, value = self._first(iso_name, *ms_names)
        if value is None:
            return default_ms
        if name == iso_name:
            if not isinstance(value, str):
                raise self._rejected(name, f"must be an ISO 8601 duration, not {show(value)}")
            try:
                return parse_duration_ms(value)
            except ValueError as error:
                raise self._rejected(name, str(error)) from None
        if type(value) is not int or not 1 <= value <= MAX_DURATION_MS:
            raise self._rejected(
                name, f"must be a positive integer of milliseconds, not {show(value)}"
            )
        return value

    def coefficient(self) -> float:
        value = self.values.get("backoff_coefficient")
        if value is None:
            return DEFAULT_RETRY.coefficient
        # Not isinstance: a JSON true would pass as the integer 1.
        if type(value) not in (int, float) or not 1 <= value <= MAX_COEFFICIENT:
            raise self._rejected(
                "backoff_coefficient", f"must be a number from 1.0 to 1000000, not {show(value)}"
            )
        return float(value)

    def jitter(self) -> bool:
        value = self.values.get("jitter")
        if value is None:
            return DEFAULT_RETRY.jitter
        if not isinstance(value, bool):
            raise self._rejected("jitter", f"must be true or false, not {show(value)}")
        return value

    def strategy(self) -> str:
        name, value = self._first("backoff_strategy", "backoff_type", "strategy", "backoff")
        if value is None:
            return DEFAULT_RETRY.strategy
        known = STRATEGIES.get(value) if isinstance(value, str) else None
        if known is None:
            raise self._rejected(name, f"must be one of {', '.join(STRATEGIES)}, not {show(value)}")
        return known

    def on_exhaustion(self) -> str | None:
        value = self.values.get("on_exhaustion")
        if value is None:
            return None
        if value not in ON_EXHAUSTION_VALUES:
            raise self._rejected(
                "on_exhaustion", f"must be 'discard' or 'dead_letter', not {show(value)}"
            )
        return str(value)

    def non_retryable(self) -> tuple[str, ...]:
        name = "non_retryable_errors"
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self._rejected(name, f"must be an array of strings, not {show(value)}")
        if len(value) > MAX_PATTERNS:
            raise self._rejected(name, f"must not have more than {MAX_PATTERNS} entries")
        for entry in value:
            if (
                not isinstance(entry, str)
                or not 1 <= len(entry) <= MAX_PATTERN_LENGTH
                or "\n" in entry
            ):
                raise self._rejected(
                    name,
                    f"must hold strings of 1 to {MAX_PATTERN_LENGTH} characters "
                    f"on one line, not {show(entry)}",
                )
        return tuple(value)
