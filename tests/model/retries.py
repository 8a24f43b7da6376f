"""The model of retries: what the Lua scripts compute for backoff and error patterns."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ojs_cluster.core.jobs.retry import RetryPolicy


def backoff_ms(policy: RetryPolicy, failed_attempt: int, jitter_factor: float = 0.5) -> int:
    """Return the delay in milliseconds after attempt number ``failed_attempt`` (from 1) has failed.

    The cap holds before and after jitter (spec: ojs-retry section 5). Halves are rounded up, as in
    Lua.

    Args:
        policy: the retry policy.
        failed_attempt: number of the failed attempt.
        jitter_factor: in [0, 1), mapped to a multiplier in [0.5, 1.5); unused without jitter.
    """
    n = max(1, failed_attempt)
    try:
        if policy.strategy == "constant":
            delay: float = policy.initial_ms
        elif policy.strategy == "linear":
            delay = policy.initial_ms * n
        elif policy.strategy == "polynomial":
            delay = policy.initial_ms * float(n) ** policy.coefficient
        else:
            delay = policy.initial_ms * policy.coefficient ** (n - 1)
    except OverflowError:
        delay = policy.max_ms
    delay = min(delay, policy.max_ms)
    if policy.jitter:
        delay = min(delay * (0.5 + jitter_factor), policy.max_ms)
    return math.floor(delay + 0.5)


def matches_pattern(patterns: Iterable[str], names: Iterable[str]) -> bool:
    """Return whether one of an error's ``names`` matches a non-retryable pattern.

    A pattern matches an equal name. A pattern that ends in ``.*`` also matches a longer name that
    starts with the text before the dot: ``Auth.*`` matches ``Auth.TokenExpired`` and
    ``AuthenticationError``, but not ``Auth``. The table of the spec requires the first, the prose
    of the conformance suites the second. A prefix with the dot would satisfy only the table.
    """
    candidates = tuple(names)
    for pattern in patterns:
        if pattern in candidates:
            return True
        if pattern.endswith(".*"):
            prefix = pattern[:-2]
            if any(len(name) > len(prefix) and name.startswith(prefix) for name in candidates):
                return True
    return False
