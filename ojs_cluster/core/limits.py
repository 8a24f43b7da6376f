"""How large and how deep what a client sends may be."""

from __future__ import annotations

from dataclasses import dataclass

MOST_BATCH_JOBS = 10_000
"""Largest number of jobs that one batch may be configured to have."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one request, in bytes unless said otherwise (spec: ojs-payload-limits).

    ``depth`` counts nested arrays and objects, the body itself being the first level.
    ``fingerprint_bytes`` bounds what tells unique jobs apart. ``number_digits`` bounds the digits
    of one number: many JSON readers refuse a whole response for one that is too long. Raises
    ValueError above 500 levels, where decoding would meet Python's own limit on recursion.
    """

    envelope_bytes: int = 1024 * 1024
    meta_bytes: int = 64 * 1024
    batch_jobs: int = 1000
    depth: int = 64
    failure_bytes: int = 64 * 1024
    fingerprint_bytes: int = 64 * 1024
    number_digits: int = 1000

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 500:
            raise ValueError(f"depth must be from 1 to 500, not {self.depth}")


DEFAULT_LIMITS = Limits()
STORED_LIMITS = Limits(
    envelope_bytes=1 << 30,
    meta_bytes=1 << 30,
    depth=500,
    fingerprint_bytes=1 << 30,
    number_digits=1 << 30,
)
"""For what is stored: what was accepted under the limits of its time is not refused later."""
