"""What this process knows about maintenance mode.

A task reads the mode every two seconds. The dispatcher only tests whether ``refused`` is empty, so
requests pay nothing while the mode is off. If Redis does not answer, the last known mode holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio
from prometheus_client.metrics_core import Metric

from ojs_cluster.core.errors import BackendUnavailable, UnderMaintenance
from ojs_cluster.http import replies
from ojs_cluster.http.metric_families import gauge
from ojs_cluster.http.shapes.system import MaintenanceMembers
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.maintenance.maintenance import (
    REFUSABLE,
    Maintenance,
    read_maintenance,
)

log = logging.getLogger("ojs.http")

REFRESH_S: Final = 2.0
"""Maximum time, in seconds, after which a process knows of a change by another process."""
RETRY_AFTER_S: Final = 10.0
"""Seconds after which a refused client may try again."""


class MaintenanceFlag:
    """The last known state of maintenance mode.

    Attributes:
        refused: the classes of requests that are refused; empty while the mode is off.
        current: the mode, None while it is off.
        on_fetches_refused: called when fetches are refused from now on.
    """

    __slots__ = ("current", "on_fetches_refused", "refused")

    def __init__(self) -> None:
        self.current: Maintenance | None = None
        self.refused: frozenset[str] = frozenset()
        self.on_fetches_refused: Callable[[], None] = lambda: None

    def set(self, current: Maintenance | None) -> None:
        """Note the mode."""
        if (current is None) != (self.current is None):
            log.warning("maintenance mode is %s", "off" if current is None else "on")
        self.current = current
        before, self.refused = self.refused, frozenset() if current is None else current.refused
        if "fetch" in self.refused - before:
            self.on_fetches_refused()

    async def refresh(self, store: Store) -> None:
        """Read the mode from Redis.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        self.set(await read_maintenance(store))

    async def run(self, store: Store) -> None:
        """Read the mode every ``REFRESH_S`` until cancelled."""
        while True:
            try:
                await self.refresh(store)
            except (BackendUnavailable, RedisReplyError) as error:
                log.debug("maintenance mode cannot be read: %r", error)
            await trio.sleep(REFRESH_S)

    def check(self, request_class: str) -> None:
        """Check that requests of the class ``request_class`` are served.

        Raises:
            UnderMaintenance: they are refused.
        """
        if request_class not in self.refused:
            return
        current = self.current
        reason = "" if current is None or not current.reason else f": {current.reason}"
        raise UnderMaintenance(
            f"the server is under maintenance{reason}", retry_after_s=RETRY_AFTER_S
        )

    def check_fetch(self) -> None:
        """Check that fetches are served, as ``check`` does."""
        if self.refused:
            self.check("fetch")

    def family(self) -> Metric:
        """Return the metric of maintenance mode."""
        return gauge(
            "ojs_maintenance",
            "1 while this process refuses a class of requests because of maintenance mode",
            "refused",
            [(name, float(name in self.refused)) for name in REFUSABLE],
        )

    def members(self) -> MaintenanceMembers:
        """Return the mode as JSON members, for responses about the server."""
        return maintenance_members(self.current)


def maintenance_members(current: Maintenance | None) -> MaintenanceMembers:
    """Return maintenance mode as JSON members."""
    if current is None:
        return {"enabled": False, "maintenance": False, "refused": []}
    since = replies.iso(current.since_ms)
    found: MaintenanceMembers = {
        "enabled": True,
        "maintenance": True,
        "refused": sorted(current.refused),
        "reason": current.reason,
        "started_at": since,
        "enabled_at": since,
        "enabled_by": current.principal,
    }
    if current.ends_ms is not None:
        found["ends_at"] = found["estimated_end"] = replies.iso(current.ends_ms)
    return found
