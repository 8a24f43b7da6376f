"""Limits on the size and the nesting depth of requests."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.config.parsers import integer
from ojs_cluster.core.config.variable import variable

_MIB = 1024 * 1024
_MOST_JOB_BYTES = 16 * _MIB
"""Maximum value of ``OJS_MAX_JOB_BYTES``. A job with its result and errors must fit into one Redis
reply of at most 64 MiB."""

MOST_BATCH_JOBS = 10_000
"""Largest batch size that can be configured."""


@dataclass(frozen=True, slots=True)
class PayloadLimits:
    """Limits on one request (spec: ojs-payload-limits).

    Args:
        envelope_bytes: maximum size of one job.
        meta_bytes: maximum size of a job's ``meta``.
        batch_jobs: maximum number of jobs in one batch.
        depth: maximum number of nested arrays and objects. The body itself is the first level.
        failure_bytes: maximum size of an error that a worker reports.
        fingerprint_bytes: maximum size of the values that the fingerprint of a unique job covers.
        number_digits: maximum number of digits of one number. Many JSON parsers refuse a whole
            response because of one number that is too long.

    Raises:
        ValueError: ``depth`` is above 500, where decoding would reach Python's own recursion limit.
    """

    envelope_bytes: int = variable(
        "OJS_MAX_JOB_BYTES",
        integer(least=1024, most=_MOST_JOB_BYTES),
        "1048576",
        "Largest envelope of one job.",
    )
    meta_bytes: int = variable(
        "OJS_MAX_META_BYTES",
        integer(least=1024, most=64 * _MIB),
        "65536",
        "Largest `meta` of one job.",
    )
    batch_jobs: int = variable(
        "OJS_MAX_BATCH",
        integer(least=1, most=MOST_BATCH_JOBS),
        "1000",
        "Jobs in one batch; 10000 at most.",
    )
    depth: int = variable(
        "OJS_MAX_JSON_DEPTH",
        integer(least=4, most=512),
        "64",
        "Nesting of a job's JSON.",
    )
    failure_bytes: int = 64 * 1024
    fingerprint_bytes: int = variable(
        "OJS_MAX_FINGERPRINT_BYTES",
        integer(least=1024, most=_MIB),
        "65536",
        "Data that identifies a unique job: its args, chosen meta or key.",
    )
    number_digits: int = variable(
        "OJS_MAX_NUMBER_DIGITS",
        integer(least=20, most=4300),
        "1000",
        "Digits of one number in a request; longer ones make a page unreadable for many clients.",
    )

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
"""Limits for stored data. They are so high that no job is refused that was accepted before."""
