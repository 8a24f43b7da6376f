"""Tells when the event loop of a worker stands still, because heartbeats wait for it."""

from __future__ import annotations

import logging
import math
from typing import Final

import anyio

log: Final = logging.getLogger("ojs_client.worker")

_CHECK_S: Final = 1.0
WARN_S: Final = 1.0
"""Minimum time in seconds for which the loop stands still that is worth a line."""
_WARN_AGAIN_S: Final = 60.0


async def watch() -> None:
    """Log that the event loop has stood still, until the task is cancelled."""
    warned_at = -math.inf
    while True:
        due_at = anyio.current_time() + _CHECK_S
        await anyio.sleep_until(due_at)
        now = anyio.current_time()
        if now - due_at >= WARN_S and now - warned_at >= _WARN_AGAIN_S:
            warned_at = now
            log.warning(
                "the event loop stood still for %.1f s: a handler blocks it or holds the GIL, so "
                "heartbeats wait and leases may expire; let a sync handler with process=True do it",
                now - due_at,
            )
