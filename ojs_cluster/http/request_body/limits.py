"""Limits on request bodies: their size, and how long they may take to arrive.

``core.payload_limits`` limits the jobs inside them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.config.parsers import integer
from ojs_cluster.core.config.variable import variable

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits on request bodies.

    Attributes:
        max_bytes: maximum size of a request body, unless it is a batch. This size exceeds the limit
            of a job envelope, 1 MiB. So the server reads an envelope that is slightly too large,
            and its error names the reason.
        max_batch_bytes: maximum size of the body of a batch.
        total_bytes: size of the body memory budget (``memory``).
        timeout_s: how long a body may take to arrive, in seconds.
        linger_s: how long the server reads and discards the rest of a body that it has refused, in
            seconds.
    """

    max_bytes: int = variable(
        "OJS_MAX_BODY_BYTES",
        integer(minimum=1024, maximum=256 * _MIB),
        "2097152",
        "Maximum size of a request body in bytes, unless the body is a batch. A job envelope may "
        "have at most 1 MiB.",
    )
    max_batch_bytes: int = variable(
        "OJS_MAX_BATCH_BODY_BYTES",
        integer(minimum=1024, maximum=1024 * _MIB),
        "16777216",
        "Maximum size of the body of a batch request in bytes.",
    )
    total_bytes: int = variable(
        "OJS_MAX_BODIES_BYTES",
        integer(minimum=1024, maximum=16 * 1024 * _MIB),
        "67108864",
        "Memory, in bytes, that all request bodies above 64 KiB may use together in one process. "
        "Incomplete smaller requests may use the same amount. A request beyond that gets 503.",
    )
    timeout_s: float = 30.0
    linger_s: float = 2.0
