"""The pages that the menu lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.visit import Visit


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the menu.

    Attributes:
        name: the name of the page, which its templates set as ``section``.
        label: the text.
        path: the address below the dashboard.
        scope: the scope that the page needs.
        key: the key that opens the page after ``g``.
        of_cluster: whether the page shows what keys for some queues may not see.
        of_tenants: whether the page shows what an operator may hide as ``meta.tenant_id``.
    """

    name: str
    label: str
    path: str
    key: str
    scope: Scope = Scope.ADMIN_READ
    of_cluster: bool = False
    of_tenants: bool = False

    def is_for(self, visit: Visit) -> bool:
        """Return whether the user may see the page."""
        if self.of_tenants and visit.redaction.hides_tenants:
            return False
        return visit.may(self.scope) and (visit.sees_cluster or not self.of_cluster)


MENU: Final = (
    Entry("overview", "Overview", "", "o"),
    Entry("queues", "Queues", "queues", "q"),
    Entry("jobs", "Jobs", "jobs", "j"),
    Entry("types", "Types", "types", "t", of_cluster=True),
    Entry("errors", "Errors", "errors", "e"),
    Entry("dead", "Dead letters", "dead", "d"),
    Entry("workflows", "Workflows", "workflows", "f", Scope.DATA_READ),
    Entry("workers", "Workers", "workers", "w", of_cluster=True),
    Entry("pools", "Worker pools", "pools", "s"),
    Entry("cron", "Cron", "cron", "c", Scope.DATA_READ),
    Entry("limits", "Limits", "limits", "l", of_cluster=True),
    Entry("tenants", "Tenants", "tenants", "n", of_cluster=True, of_tenants=True),
    Entry("webhooks", "Webhooks", "webhooks", "h", of_cluster=True),
    Entry("events", "Events", "events", "v", Scope.DATA_READ),
    Entry("audit", "Audit", "audit", "a", of_cluster=True),
    Entry("bulk", "Bulk operations", "bulk", "b"),
    Entry("cluster", "Cluster", "cluster", "k", of_cluster=True),
    Entry("operations", "Maintenance", "operations", "p", of_cluster=True),
)
