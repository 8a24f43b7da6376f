"""Read ids, names, times and trace contexts that several handlers get from their requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ojs_cluster.core.config.parsers import go_duration_ns
from ojs_cluster.core.durations import format_duration
from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.options import MAX_VISIBILITY_TIMEOUT_MS, check_queue
from ojs_cluster.core.jobs.trace_context import trace_context
from ojs_cluster.core.timestamps import parse_timestamp
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request

MAX_WORKER_ID: Final = 255
"""Maximum number of characters of a worker id."""
MAX_QUEUES: Final = 256
"""Maximum number of queues that a request may name."""


def job_id(text: str) -> str:
    """Return ``text`` if it can be the id of a job.

    Raises:
        NotFound: ``text`` has not the form of a job id, so no job has it.
    """
    if not is_job_id(text):
        raise NotFound("job", text[:100])
    return text


def queue_names(names: Sequence[str], *, field: str = "queues") -> Sequence[str]:
    """Return ``names`` if it has 1 to ``MAX_QUEUES`` valid queue names.

    Raises:
        InvalidRequest: the number of names or one of the names is not valid.
    """
    if not 1 <= len(names) <= MAX_QUEUES:
        raise InvalidRequest(f"name between 1 and {MAX_QUEUES} queues", field=field)
    for index, name in enumerate(names):
        check_queue(name, field=f"{field}[{index}]")
    return names


def worker_id(text: str | None, *, field: str = "worker_id") -> str | None:
    """Return ``text`` if it is a valid worker id, None if it is empty.

    Raises:
        InvalidRequest: ``text`` is too long, or has characters that are not printable.
    """
    if not text:
        return None
    if len(text) > MAX_WORKER_ID or not text.isprintable():
        raise InvalidRequest(f"must be at most {MAX_WORKER_ID} printable characters", field=field)
    return text


def iso_duration(text: Any) -> Any:
    """Return a short duration such as ``5m`` or ``7d`` as ISO 8601, anything else as it is."""
    try:
        return format_duration(go_duration_ns(text) // 1_000_000)
    except (TypeError, ValueError):
        return text


def absolute_time_ms(text: str | None, *, field: str) -> int | None:
    """Return the time that ``text`` names, in milliseconds since the epoch; None for None.

    Raises:
        InvalidRequest: the text is not an absolute time.
    """
    return None if text is None else time_ms(text, field=field)


def time_ms(text: str, *, field: str) -> int:
    """Return the time that ``text`` names, in milliseconds since the epoch.

    Raises:
        InvalidRequest: the text is not an absolute time.
    """
    try:
        return parse_timestamp(text, allow_delay=False).ms
    except ValueError as error:
        raise InvalidRequest(f"{field} {error}", field=field) from None


def visibility_timeout_ms(value: int | None, *, field: str = "visibility_timeout_ms") -> int | None:
    """Return a visibility timeout, in milliseconds, if it is valid; None if it is 0 or None.

    Raises:
        InvalidRequest: the timeout is negative or longer than 30 days.
    """
    if not value:
        return None
    if not 0 < value <= MAX_VISIBILITY_TIMEOUT_MS:
        raise InvalidRequest(f"must be between 0 and {MAX_VISIBILITY_TIMEOUT_MS} ms", field=field)
    return value


def trace(app: App, request: Request) -> bytes:
    """Return the trace context for the meta of the request's jobs; empty bytes for none.

    A request without the header costs one lookup.
    """
    if "traceparent" not in request.headers or not app.settings.trace_inject:
        return b""
    return trace_context(request.headers)
