"""Parse the request to enqueue many jobs (spec: ojs-bulk-operations 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ojs_cluster.core.errors import InvalidRequest, OJSError, PayloadTooLarge
from ojs_cluster.core.jobs.envelope import NewJob, parse_items
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS, PayloadLimits
from ojs_cluster.core.raw_json import Raw, members, string

_MEMBERS = frozenset({"jobs", "atomicity", "idempotency_key"})


@dataclass(frozen=True, slots=True)
class BulkEnqueue:
    """A request to enqueue many jobs.

    Args:
        jobs: each job in the order of the request, or the error of an invalid one.
        atomic: whether all jobs are enqueued or none.
        idempotency_key: the key of the request, None for none.
    """

    jobs: Sequence[NewJob | OJSError]
    atomic: bool
    idempotency_key: str | None


def parse_bulk_enqueue(
    raw: bytes,
    *,
    limits: PayloadLimits = DEFAULT_LIMITS,
    trace: bytes = b"",
    tenant: str = "",
) -> BulkEnqueue:
    """Parse the body of the request. The caller checks its size.

    Args:
        raw: the body.
        limits: size limits.
        trace: see ``parse_job``.
        tenant: see ``parse_job``.

    Raises:
        InvalidPayload: the body is not strict JSON.
        InvalidRequest: a member of the body is unknown or invalid. An invalid job is no error.
        PayloadTooLarge: there are too many jobs.
    """
    body = members(raw, limits, outer_levels=2)
    for name in body:
        if name not in _MEMBERS:
            raise InvalidRequest(f"unknown member '{name[:100]}'", field=name[:100])
    atomicity, key = _text(body, "atomicity"), _text(body, "idempotency_key")
    if atomicity not in (None, "atomic", "partial"):
        raise InvalidRequest("atomicity must be atomic or partial", field="atomicity")
    try:
        jobs = list(parse_items(body.get("jobs"), limits, trace, tenant))
    except PayloadTooLarge as error:
        error.details["max_batch_size"] = limits.batch_jobs
        raise
    return BulkEnqueue(jobs, atomicity == "atomic", key)


def _text(body: Mapping[str, Raw], name: str) -> str | None:
    """Return the text of a member of the body, None if it is absent.

    Raises:
        InvalidRequest: it is no string.
    """
    if name not in body:
        return None
    text = string(body[name])
    if text is None:
        raise InvalidRequest("must be a string", field=name)
    return text
