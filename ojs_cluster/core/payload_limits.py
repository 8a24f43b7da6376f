"""Limits on the size and the nesting depth of jobs. ``http.request_body`` limits request bodies."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.config.parsers import integer
from ojs_cluster.core.config.variable import variable

_MIB = 1024 * 1024
_MAX_JOB_BYTES = 16 * _MIB
"""Maximum value of ``OJS_MAX_JOB_BYTES``. A job with its result and errors must fit into one Redis
reply of at most 64 MiB."""

MAX_DEPTH = 500
"""Maximum value of ``OJS_MAX_JSON_DEPTH``, below Python's recursion limit."""

MAX_BATCH_JOBS = 10_000
"""Maximum value of ``OJS_MAX_BATCH``."""


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
        ValueError: ``depth`` is below 1 or above ``MAX_DEPTH``.
    """

    envelope_bytes: int = variable(
        "OJS_MAX_JOB_BYTES",
        integer(minimum=1024, maximum=_MAX_JOB_BYTES),
        "1048576",
        "Maximum size of the envelope of one job, in bytes.",
    )
    meta_bytes: int = variable(
        "OJS_MAX_META_BYTES",
        integer(minimum=1024, maximum=64 * _MIB),
        "65536",
        "Maximum size of the `meta` of one job, in bytes.",
    )
    batch_jobs: int = variable(
        "OJS_MAX_BATCH",
        integer(minimum=1, maximum=MAX_BATCH_JOBS),
        "1000",
        "Maximum number of jobs in one batch; at most 10000.",
    )
    depth: int = variable(
        "OJS_MAX_JSON_DEPTH",
        integer(minimum=4, maximum=MAX_DEPTH),
        "64",
        "Maximum number of nested arrays and objects in the JSON of a request.",
    )
    failure_bytes: int = 64 * 1024
    fingerprint_bytes: int = variable(
        "OJS_MAX_FINGERPRINT_BYTES",
        integer(minimum=1024, maximum=_MIB),
        "65536",
        "Maximum size of the data that identifies a unique job (its args, chosen meta or key), in "
        "bytes.",
    )
    number_digits: int = variable(
        "OJS_MAX_NUMBER_DIGITS",
        integer(minimum=20, maximum=4300),
        "1000",
        "Maximum number of digits of one number in a request. Many clients cannot read a response "
        "with a longer number.",
    )

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= MAX_DEPTH:
            raise ValueError(f"depth must be from 1 to {MAX_DEPTH}, not {self.depth}")


DEFAULT_LIMITS = PayloadLimits()
STORED_LIMITS = PayloadLimits(
    envelope_bytes=1 << 30,
    meta_bytes=1 << 30,
    depth=MAX_DEPTH,
    fingerprint_bytes=1 << 30,
    number_digits=1 << 30,
)
"""Limits for data from Redis or an archive, high enough for every job that was ever accepted."""
