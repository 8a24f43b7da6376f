"""What follows a failed attempt (spec: ojs-retry)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ojs_client.options import is_non_retryable
from ojs_client.testing.refusals import not_allowed
from ojs_client.testing.times import duration_ms, iso_duration

_ACTIONS: Final = {"DISCARD", "FAIL", "DEAD_LETTER"}
_STRATEGIES: Final = {"exponential", "linear", "polynomial", "constant", "none"}
_MAX_COEFFICIENT: Final = 1e6


class Retries:
    """The retry policy of a job.

    Args:
        policy: the policy of the enqueue request.

    Raises:
        Refusal: the policy is not allowed.
    """

    def __init__(self, policy: Mapping[str, Any]) -> None:
        path = "options.retry"
        self.max_attempts: int = policy.get("max_attempts", 3)
        self._first_ms = duration_ms(
            policy.get("initial_interval", "PT1S"), f"{path}.initial_interval"
        )
        self._max_ms = duration_ms(policy.get("max_interval", "PT5M"), f"{path}.max_interval")
        self._jitter = bool(policy.get("jitter", True))
        self._on_exhaustion = policy.get("on_exhaustion")
        self._coefficient: float = policy.get("backoff_coefficient", 2.0)
        self._strategy: str = policy.get("backoff_strategy", "exponential")
        self._patterns: list[str] = policy.get("non_retryable_errors", [])
        if type(self.max_attempts) is not int or self.max_attempts < 0:
            raise not_allowed("max_attempts must not be negative", f"{path}.max_attempts")
        if not 1 <= self._coefficient <= _MAX_COEFFICIENT:
            raise not_allowed(
                "backoff_coefficient must be from 1 to 1000000", f"{path}.backoff_coefficient"
            )
        if self._strategy not in _STRATEGIES:
            raise not_allowed(
                f"backoff_strategy must be one of {', '.join(sorted(_STRATEGIES))}",
                f"{path}.backoff_strategy",
            )
        if self._max_ms < self._first_ms:
            raise not_allowed(
                "max_interval must not be shorter than initial_interval", f"{path}.max_interval"
            )

    def json(self) -> dict[str, Any]:
        """Return the policy as the envelope shows it."""
        value: dict[str, Any] = {
            "max_attempts": self.max_attempts,
            "initial_interval": iso_duration(self._first_ms),
            "backoff_coefficient": float(self._coefficient),
            "max_interval": iso_duration(self._max_ms),
            "jitter": self._jitter,
            "non_retryable_errors": self._patterns,
        }
        if self._on_exhaustion is not None:
            value["on_exhaustion"] = self._on_exhaustion
        if self._strategy != "exponential":
            value["backoff_strategy"] = self._strategy
        return value

    def allow(self, attempt: int, error: Mapping[str, Any]) -> bool:
        """Return whether a job runs again after this error of an attempt."""
        code = error.get("code") or "handler_error"
        names = {code, error.get("type") or code}
        if error.get("retryable") is False or {error.get("action"), code} & _ACTIONS:
            return False
        return attempt < self.max_attempts and not is_non_retryable(names, self._patterns)

    def delay_ms(self, attempt: int) -> int:
        """Return the backoff after a failed attempt in milliseconds.

        The fake server has no jitter. A random delay would make tests random.
        """
        delay: float = self._first_ms
        if self._strategy == "exponential":
            delay *= self._coefficient ** (attempt - 1)
        elif self._strategy == "linear":
            delay *= attempt
        elif self._strategy == "polynomial":
            delay *= attempt**self._coefficient
        return round(min(delay, self._max_ms))
