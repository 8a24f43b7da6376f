"""Pauses between two tries."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Pauses whose limit doubles after each failure.

    A pause is random, between half of the limit and the limit, so that clients do not retry all at
    once.

    Args:
        first_s: the first limit in seconds.
        max_s: the highest limit in seconds.
        failures: number of failures so far.
    """

    first_s: float = 0.1
    max_s: float = 5.0
    failures: int = 0

    def next_s(self, at_least_s: float | None = None) -> float:
        """Return the length of the next pause in seconds.

        Args:
            at_least_s: the minimum pause in seconds, such as that of the header ``Retry-After``.
        """
        limit = min(self.max_s, self.first_s * 2 ** min(self.failures, 30))
        self.failures += 1
        # A pause near zero would repeat the request before the server has recovered.
        return (at_least_s or 0) + random.uniform(limit / 2, limit)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Start again with a short pause, after a success."""
        self.failures = 0
