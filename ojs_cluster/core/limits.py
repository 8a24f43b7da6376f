"""Limits on the size and the nesting depth of requests."""

from __future__ import annotations

from dataclasses import dataclass

MOST_BATCH_JOBS = 10_000
"""Largest batch size that can be configured."""


@dataclass(frozen=True, slots=True)
class PayloadLimits:
    """Limits on one request (spec: ojs-payload-limits).

    Args:
        envelope_bytes: size of one job.
        meta_bytes: size of a job's ``meta``.
        batch_jobs: number of jobs in one batch.
        depth: nested arrays and objects; the body itself is the first level.
        failure_bytes: size of an error that a worker reports.
        fingerprint_bytes: size of the values that make a unique job unique.
        number_digits: digits of one number. Many JSON readers refuse a whole response because of
            one number that is too long.

    Raises:
        ValueError: ``depth`` is above 500, where decoding would reach Python's own recursion limit.
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


DEFAULT_LIMITS = PayloadLimits()
STORED_LIMITS = PayloadLimits(
    envelope_bytes=1 << 30,
    meta_bytes=1 << 30,
    depth=500,
    fingerprint_bytes=1 << 30,
    number_digits=1 << 30,
)
"""For stored data: lower limits never refuse what was accepted before."""
