"""The job envelope: from the bytes of an enqueue request to what the store writes.

Validation follows the spec (ojs-core, ojs-json-format). ``args``, ``meta`` and unknown attributes
must be strict JSON and are kept byte for byte. All other attributes are validated and written in
one canonical form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from ojs_cluster.core.errors import (
    Duplicate,
    InvalidRequest,
    OJSError,
    PayloadTooLarge,
    Unsupported,
)
from ojs_cluster.core.jobs.fingerprint import fingerprint
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.options import DEFAULT_OPTIONS, TOP_LEVEL, parse_options
from ojs_cluster.core.jobs.retry import RetryPolicy
from ojs_cluster.core.jobs.tenant import add_tenant, tenant_of
from ojs_cluster.core.jobs.trace_context import add_trace
from ojs_cluster.core.jobs.unique import UniquePolicy
from ojs_cluster.core.json_scan import has_more_items
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS, PayloadLimits
from ojs_cluster.core.rate_limit import RateLimitPolicy
from ojs_cluster.core.raw_json import (
    Raw,
    array_items,
    join,
    members,
    object_members,
    show,
    string,
)
from ojs_cluster.core.timestamps import TimePoint

MAX_TYPE_LENGTH: Final = 255
# The text of the spec has no hyphen here. Its OpenAPI document has it, and the conformance suites
# use types with hyphens.
_matches_type: Final = re.compile(r"[a-z][a-z0-9_\-]*(?:\.[a-z][a-z0-9_\-]*)*").fullmatch

# Attributes that the server writes. A client's value is dropped, because responses would otherwise
# have the attribute twice.
SYSTEM_FIELDS: Final = frozenset(
    {
        "attempt",
        "cancelled_at",
        "checkpoint",
        "completed_at",
        "created_at",
        "discarded_at",
        "enqueued_at",
        "error",
        "errors",
        "job_id",
        "lease_id",
        "max_attempts",
        "next_attempt_at",
        "parent_id",
        "parent_results",
        "parent_results_by_id",
        "progress",
        "progress_data",
        "replay_count",
        "result",
        "retry_delay_ms",
        "specversion",
        "started_at",
        "state",
        "worker_id",
        "workflow_id",
        "workflow_step",
    }
)
_KNOWN_ATTRIBUTES: Final = SYSTEM_FIELDS | TOP_LEVEL


def is_type(text: str) -> bool:
    """Return whether a text may be the type of a job."""
    return len(text) <= MAX_TYPE_LENGTH and _matches_type(text) is not None


class NewJob(msgspec.Struct, frozen=True):
    """A valid job without a shard and, unless the client chose one, without an id.

    Args:
        id: id that the client chose; None if it chose none.
        type: job type.
        queue: queue name.
        priority: from -100 to 100.
        retry: retry policy.
        timeout_ms: execution timeout in ms, 0 for no limit, None for the default.
        visibility_timeout_ms: visibility timeout in ms, None for the default, 0 for that of the
            server.
        scheduled: when the job is due, None for now.
        expires: when the job expires, None for never.
        pending: whether the job waits until it is activated.
        body: all other members of the envelope, as JSON members separated by commas, without
            braces. A relative time is left out, because the store adds the absolute time.
        unique: uniqueness policy, None for a job that is not unique.
        fingerprint: fingerprint of a unique job. Jobs with the same fingerprint count as the same.
        rate_limit: rate limit policy; None if the job has none.
        tenant: the tenant that the job's meta names; '' if it names none.
        retention: how long the finished job is kept, as ``store.jobs.fields.KEEP``; '' for the
            retention of the server.
        indexed: hashes of the values that the index of the search has of the job, which the store
            adds (``store.search.index_values``).
        warnings: texts for the response, as ``JobOptions.warnings``.
    """

    id: str | None
    type: str
    queue: str
    priority: int
    retry: RetryPolicy
    timeout_ms: int | None
    visibility_timeout_ms: int | None
    scheduled: TimePoint | None
    expires: TimePoint | None
    pending: bool
    body: bytes
    unique: UniquePolicy | None = None
    fingerprint: str = ""
    rate_limit: RateLimitPolicy | None = None
    tenant: str = ""
    retention: str = ""
    indexed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def envelope_head(
    job_id: bytes, job_type: bytes, queue: bytes, priority: bytes, max_attempts: bytes
) -> bytes:
    """Return the beginning of an envelope; the job's ``body`` follows it.

    Valid types and queue names have no characters that JSON must escape.
    """
    return (
        b'{"specversion":"1.0","id":"%b","type":"%b","queue":"%b","priority":%b,"max_attempts":%b,'
        % (job_id, job_type, queue, priority, max_attempts)
    )


def parse_job(
    raw: bytes,
    *,
    limits: PayloadLimits = DEFAULT_LIMITS,
    trace: bytes = b"",
    tenant: str = "",
) -> NewJob:
    """Parse one job from the body of an enqueue request. All errors have ``details.field``.

    Args:
        raw: the body.
        limits: size limits.
        trace: members that ``trace_context`` has returned. They become part of the job's meta if it
            has no trace context.
        tenant: the tenant of the request, '' for none. It becomes part of the job's meta.

    Raises:
        InvalidPayload: the body is not strict JSON.
        InvalidRequest: an attribute is missing or has a wrong form, or the job names another tenant
            than the request.
        ValidationFailed: an option has a value that the spec does not allow.
        Unsupported: the specversion is not 1.x.
        PayloadTooLarge: the envelope or a part of it is larger than its limit.
    """
    _check_size(raw, limits)
    return _job(members(raw, limits), limits, trace, tenant)


def parse_batch(
    raw: bytes,
    *,
    limits: PayloadLimits = DEFAULT_LIMITS,
    trace: bytes = b"",
    tenant: str = "",
) -> list[NewJob]:
    """Parse all jobs of a batch request ``{"jobs": [...]}``. The caller checks the body's size.

    Args:
        raw: the body.
        limits: size limits.
        trace: see ``parse_job``.
        tenant: see ``parse_job``.

    Raises:
        Duplicate: two jobs have the same id.
        OJSError: a job is invalid. The error is that of ``parse_job`` for the first invalid job,
            with the position of the job in ``details.index``.
    """
    parsed: list[NewJob] = []
    jobs = members(raw, limits, outer_levels=2).get("jobs")
    for job in parse_items(jobs, limits, trace, tenant):
        if isinstance(job, OJSError):
            raise job
        parsed.append(job)
    return parsed


def parse_items(
    jobs: Raw | None, limits: PayloadLimits, trace: bytes = b"", tenant: str = ""
) -> Iterator[NewJob | OJSError]:
    """Parse the jobs of a batch request one by one; yield each job, or the error of an invalid one.

    Args:
        jobs: the JSON of the jobs.
        limits: size limits.
        trace: see ``parse_job``.
        tenant: see ``parse_job``.

    Raises:
        InvalidRequest: ``jobs`` is no array, or an empty one.
        PayloadTooLarge: there are too many jobs.
    """
    if jobs is not None and has_more_items(bytes(jobs), limits.batch_jobs):
        raise PayloadTooLarge(
            f"a batch holds at most {limits.batch_jobs} jobs", field="jobs", limit=limits.batch_jobs
        )
    items = None if jobs is None else array_items(jobs)
    if not items:
        raise InvalidRequest("jobs must be a non-empty array", field="jobs")
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        try:
            job = _item(item, limits, trace, tenant)
            if job.id is not None and seen.setdefault(job.id, index) != index:
                raise Duplicate(
                    f"the id is also that of jobs[{seen[job.id]}]", field="id", id=job.id
                )
        except OJSError as error:
            error.message = f"jobs[{index}]: {error.message}"
            error.args = (error.message,)
            error.details["index"] = index
            inner = "" if error.field == "body" else f".{error.field}"
            error.details["field"] = f"jobs[{index}]{inner}"
            yield error
        else:
            yield job


def _item(item: Raw, limits: PayloadLimits, trace: bytes, tenant: str) -> NewJob:
    _check_size(bytes(item), limits)
    attributes = object_members(item)
    if attributes is None:
        raise InvalidRequest("a job must be an object", field="body")
    return _job(attributes, limits, trace, tenant)


def _check_size(raw: bytes, limits: PayloadLimits) -> None:
    if len(raw) > limits.envelope_bytes:
        raise PayloadTooLarge(
            f"a job envelope has at most {limits.envelope_bytes} bytes, not {len(raw)}",
            field="body",
            limit=limits.envelope_bytes,
        )


def _job(attributes: dict[str, Raw], limits: PayloadLimits, trace: bytes, tenant: str) -> NewJob:
    """Build a job from its attributes. Removes members from ``attributes``."""
    job_type = _type(attributes.pop("type", None))
    args = args_of(attributes.pop("args", None))
    job_id = _id(attributes.pop("id", None))
    meta = attributes.pop("meta", None)
    options = attributes.pop("options", None)
    top_level: dict[str, Raw] = {}
    if attributes and not _KNOWN_ATTRIBUTES.isdisjoint(attributes):
        _check_specversion(attributes.get("specversion"))
        top_level = {name: attributes[name] for name in attributes if name in TOP_LEVEL}
        attributes = {
            name: raw for name, raw in attributes.items() if name not in _KNOWN_ATTRIBUTES
        }
    parsed = DEFAULT_OPTIONS
    if options is not None or top_level:
        parsed = parse_options(options, top_level)
    client_meta = meta_of(meta, parsed.metadata, limits)
    if tenant:
        client_meta = add_tenant(client_meta, tenant, limits.meta_bytes)
    else:
        tenant = tenant_of(client_meta)
    stored_meta = add_trace(client_meta, trace, limits.meta_bytes) if trace else client_meta
    body = b'"args":%b,"meta":%b' % (args, stored_meta)
    if parsed.members:
        body += b"," + parsed.members
    if attributes:
        body += b"," + join(attributes)
    job = NewJob(
        id=job_id,
        type=job_type,
        queue=parsed.queue,
        priority=parsed.priority,
        retry=parsed.retry,
        timeout_ms=parsed.timeout_ms,
        visibility_timeout_ms=parsed.visibility_timeout_ms,
        scheduled=parsed.scheduled,
        expires=parsed.expires,
        pending=parsed.pending,
        body=body,
        unique=parsed.unique,
        rate_limit=parsed.rate_limit,
        tenant=tenant,
        fingerprint=(
            ""
            if parsed.unique is None
            else fingerprint(
                parsed.unique,
                job_type=job_type,
                queue=parsed.queue,
                args=args,
                meta=client_meta,  # without the trace context, which each request has for itself
                tenant=tenant,
                max_bytes=limits.fingerprint_bytes,
            )
        ),
    )
    # One more argument of the call would make each job a tenth more expensive.
    return msgspec.structs.replace(job, warnings=parsed.warnings) if parsed.warnings else job


def _type(piece: Raw | None) -> str:
    if piece is None:
        raise InvalidRequest("a job needs a type", field="type")
    text = string(piece)
    if text is None or not is_type(text):
        given = "the given value" if text is None else show(text)
        raise InvalidRequest(
            "type must be lower-case words of a-z, 0-9, '_' and '-', joined by dots, each "
            f"starting with a letter, {MAX_TYPE_LENGTH} characters at most; {given} is not",
            field="type",
        )
    return text


def args_of(piece: Raw | None) -> bytes:
    """Return the args of a job.

    Raises:
        InvalidRequest: they are absent or no array.
    """
    if piece is None:
        raise InvalidRequest("a job needs args; an empty array is enough", field="args")
    args = bytes(piece)
    if not args.startswith(b"["):
        raise InvalidRequest("args must be an array", field="args")
    return args


def _id(piece: Raw | None) -> str | None:
    if piece is None:
        return None
    text = string(piece)
    if text is None or not is_job_id(text):
        if bytes(piece) == b"null":
            return None
        raise InvalidRequest("id must be a UUIDv7 in lower case", field="id")
    return text


def _check_specversion(piece: Raw | None) -> None:
    if piece is None:
        return
    text = string(piece)
    if text is None or not (text == "1" or text.startswith("1.")):
        raise Unsupported("specversion must be 1.0", field="specversion")


def meta_of(piece: Raw | None, metadata: bytes | None, limits: PayloadLimits) -> bytes:
    """Return the job's meta, merged with the option ``metadata``; ``meta`` has priority.

    Raises:
        InvalidRequest: the meta is no object.
        PayloadTooLarge: it is larger than its limit.
    """
    meta = b"{}" if piece is None else bytes(piece)
    if meta == b"null":
        meta = b"{}"
    if not meta.startswith(b"{"):
        raise InvalidRequest("meta must be an object", field="meta")
    if metadata is not None:
        meta = _merge(defaults=metadata, members=meta)
    if len(meta) > limits.meta_bytes:
        raise PayloadTooLarge(
            f"meta has at most {limits.meta_bytes} bytes, not {len(meta)}",
            field="meta",
            limit=limits.meta_bytes,
        )
    return meta


def _merge(*, defaults: bytes, members: bytes) -> bytes:
    """Return a JSON object with the members of both objects; ``members`` has priority."""
    merged = {**(object_members(defaults) or {}), **(object_members(members) or {})}
    return b"{%b}" % join(merged)
