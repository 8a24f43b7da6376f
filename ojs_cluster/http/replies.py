"""Response bodies, built by joining bytes.

A job is spliced in as the bytes the store made of it: user JSON is neither parsed nor re-encoded
on its way out, so it comes back exactly as it came in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http.messages import Headers, Response
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.record import JobRecord

dumps: Final = orjson.dumps


def json_response(
    status: int, value: dict[str, Any], headers: Headers = (), *, about: str = ""
) -> Response:
    """A response whose body holds nothing of the user's; ``about`` as in `Response`."""
    return Response(status, orjson.dumps(value), headers, about=about)


def iso(ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339 UTC text."""
    return format_ms(ms).decode()


def quoted(text: str) -> bytes:
    """Text as a JSON string."""
    return orjson.dumps(text)


def flat_job(job: JobRecord) -> bytes:
    """The members that some clients read beside ``job``, without braces.

    Ids, queues and types are limited to characters that JSON does not escape.
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
    """``{"job": {…}}`` with the members of `flat_job` beside it."""
    body = b'{"job":%b,%b}' % (job.json(), flat_job(job))
    return Response(status, body, headers, made=lambda: {"job_id": job.id})


def existing_job(job: JobRecord) -> Response:
    """The answer to an enqueue that another job of the same uniqueness stands in for."""
    body = b'{"job":%b,"deduplicated":true,%b}' % (job.json(), flat_job(job))
    return Response(200, body, made=lambda: {"job_id": job.id})


def array(items: Iterable[bytes]) -> bytes:
    """A JSON array of pieces that are JSON already."""
    return b"[%b]" % b",".join(items)


def jobs_array(jobs: Iterable[JobRecord]) -> bytes:
    """A JSON array of complete envelopes."""
    return b"[%b]" % b",".join([job.json() for job in jobs])


def pagination(
    *,
    limit: int,
    shown: int,
    offset: int = 0,
    total: int | None = None,
    cursor: str | None = None,
) -> dict[str, Any]:
    """The ``pagination`` object with the keys of every dialect (binding, OpenAPI, admin).

    ``total`` is left out where it is not known without a scan. ``cursor`` is that of the next page.
    """
    value: dict[str, Any] = {
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
