"""Build response bodies by joining bytes.

A job is inserted as the bytes that the store built. User JSON is not parsed and encoded again, so a
client reads exactly the bytes that it sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http.messages import Headers, Response
from ojs_cluster.http.shapes.common import Pagination
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground import job_fields as f

dumps: Final = orjson.dumps


def json_response(
    status: int,
    value: Mapping[str, object],
    headers: Headers = (),
    *,
    audit_object: str = "",
    audit_old: Mapping[str, Any] | None = None,
) -> Response:
    """Return a response whose body contains no user JSON. ``value`` has a type of the shapes."""
    return Response(
        status, orjson.dumps(value), headers, audit_object=audit_object, audit_old=audit_old
    )


def iso(ms: int) -> str:
    """Return milliseconds since the epoch as RFC 3339 text in UTC."""
    return format_ms(ms).decode()


def encoded(json: bytes) -> Any:
    """Return JSON as a member that ``json_response`` inserts as it is."""
    return orjson.Fragment(json)


def quoted(text: str) -> bytes:
    """Return text as a JSON string."""
    return orjson.dumps(text)


def flat_job(job: JobRecord) -> bytes:
    """Return members of a job, without braces, that some clients read at the top level.

    Ids, types and queue names need no escapes, because they have no characters that JSON escapes.
    """
    fields = job.fields
    return b'"id":"%b","type":"%b","state":"%b","queue":"%b","attempt":%d,"created_at":"%b"' % (
        job.id.encode(),
        fields[f.TYPE],
        fields[f.STATE],
        fields[f.QUEUE],
        job.attempt,
        format_ms(job.created_ms),
    )


def job_response(status: int, job: JobRecord, headers: Headers = ()) -> Response:
    """Return a response with ``job`` and, at the top level, the members of ``flat_job``."""
    body = b'{"job":%b,%b}' % (job.json(), flat_job(job))
    return Response(status, body, headers, object_ids=lambda: {"job_id": job.id})


def pressure_headers(depth: int, bound: int) -> Headers:
    """Return the headers that warn of a queue that is nearly full (spec: ojs-backpressure 7.3)."""
    return (
        ("X-OJS-Queue-Depth", str(depth)),
        ("X-OJS-Queue-Bound", str(bound)),
        ("X-OJS-Queue-Pressure", f"{depth / bound:.3g}"),
    )


def with_warnings(response: Response, warnings: Sequence[str]) -> Response:
    """Return a response whose JSON object also has ``warnings`` (spec: ojs-schema-registry 7.3)."""
    if not warnings:
        return response
    body = b'%b,"warnings":%b}' % (response.body[:-1], dumps(list(warnings)))
    return msgspec.structs.replace(response, body=body)


def whole_job_response(job: JobRecord) -> Response:
    """Return a response with ``job`` and, at the top level, all members of the job.

    ``job`` comes last, because a client may have stored a member of that name in its job, and
    parsers use the last one.
    """
    members = job.json()
    return Response(200, b'%b,"job":%b}' % (members[:-1], members))


def deduplicated_response(job: JobRecord) -> Response:
    """Return the response to an enqueue that was ignored because of the unique job ``job``."""
    body = b'{"job":%b,"deduplicated":true,%b}' % (job.json(), flat_job(job))
    return Response(200, body, object_ids=lambda: {"job_id": job.id})


def array(items: Iterable[bytes]) -> bytes:
    """Return a JSON array of items that are encoded as JSON already."""
    return b"[%b]" % b",".join(items)


def jobs_array(jobs: Iterable[JobRecord], *, error_text: bool = False) -> bytes:
    """Return a JSON array of complete job envelopes.

    Args:
        jobs: the jobs.
        error_text: as of ``JobRecord.json``.
    """
    return b"[%b]" % b",".join([job.json(error_text=error_text) for job in jobs])


def pagination(
    *,
    limit: int,
    shown: int,
    offset: int = 0,
    total: int | None = None,
    cursor: str | None = None,
) -> Pagination:
    """Return the ``pagination`` object, with the keys that the HTTP binding and the admin API name.

    Args:
        limit: the maximum number of entries of a page.
        shown: the number of entries of this page.
        offset: the number of entries before this page.
        total: the number of all entries. None if counting them would take a scan; then the object
            has no ``total``.
        cursor: the cursor of the next page; None on the last page.
    """
    value: Pagination = {
        "limit": limit,
        "offset": offset,
        "page": offset // limit + 1,
        "per_page": limit,
        "has_more": cursor is not None or (total is not None and offset + shown < total),
    }
    if total is not None:
        value["total"] = total
    if cursor is not None:
        value["next_cursor"] = cursor
    return value
