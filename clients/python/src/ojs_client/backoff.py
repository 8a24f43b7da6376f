"""Pauses between two tries."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Pauses that double. Each of them is random, so that clients do not retry all at once.

    Args:
        first_s: the longest first pause in seconds.
        max_s: the longest pause in seconds.
    """

    first_s: float = 0.1
    max_s: float = 5.0
    failures: int = 0

    def next_s(self, at_least_s: float | None = None) -> float:
        """Return the length of the next pause in seconds.

        Args:
            at_least_s: the shortest pause, as a server asks for by ``Retry-After``.
        """
        limit = min(self.max_s, self.first_s * 2 ** min(self.failures, 30))
        self.failures += 1
        # Half of the limit at least: a pause near zero would repeat a request into the same fault.
        return (at_least_s or 0) + random.uniform(limit / 2, limit)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Start again with a short pause, after a success."""
        self.failures = 0
