"""The trace context of a request, as members of a job's meta (spec: ojs-observability 5.1).

A producer without an instrumented SDK often has an instrumented HTTP client. Its header
``traceparent`` then becomes a member of the meta of each job that the request enqueues, so workers
can link their spans to the span of the producer. A ``meta.traceparent`` that an SDK has written
has priority over the header.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from ojs_cluster.core.raw_json import object_members

# Version 00 of W3C Trace Context, section 3.2. Headers of later versions are ignored, because they
# may have more parts, whose form is unknown.
_is_traceparent: Final = re.compile(
    r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
).fullmatch
# Section 3.3 allows 512 characters and 32 members. The server leaves the members to the tracing
# library of the worker, which must check them anyway.
_is_tracestate: Final = re.compile(r"[\t -~]{1,512}").fullmatch
TRACE_MEMBERS: Final = frozenset({"traceparent", "tracestate"})
"""The members of meta that hold a trace context."""


def trace_context(headers: Mapping[str, str]) -> bytes:
    """Return the trace context of a request as JSON members, without braces.

    Args:
        headers: the headers of the request by lower-case name.

    Returns:
        The members; empty if the header is absent, repeated or invalid.
    """
    parent = headers.get("traceparent")
    if parent is None or not _is_traceparent(parent):
        return b""
    members = b'"traceparent":"%b"' % parent.encode()
    state = headers.get("tracestate")
    if state is not None and _is_tracestate(state):
        members += b',"tracestate":%b' % msgspec.json.encode(state)
    return members


def add_trace(meta: bytes, trace: bytes, max_bytes: int) -> bytes:
    """Return a job's meta with a trace context.

    Args:
        meta: the job's meta, a checked JSON object.
        trace: the members that ``trace_context`` has returned.
        max_bytes: maximum size of the result.

    Returns:
        The new meta. ``meta`` unchanged if it has its own trace context, or if the result would
        exceed ``max_bytes``: a header never causes the refusal of a job.
    """
    present = object_members(meta) or {}
    if not TRACE_MEMBERS.isdisjoint(present) or len(meta) + len(trace) + 1 > max_bytes:
        return meta
    if not present:
        return b"{%b}" % trace
    return b"%b,%b}" % (meta.rstrip()[:-1], trace)
