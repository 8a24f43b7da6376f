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
        of_cluster: whether the page shows what keys for some queues may not see.
    """

    name: str
    label: str
    path: str
    scope: Scope = Scope.ADMIN_READ
    of_cluster: bool = False

    def is_for(self, visit: Visit) -> bool:
        """Return whether the user may see the page."""
        return visit.may(self.scope) and (visit.sees_cluster or not self.of_cluster)


MENU: Final = (
    Entry("overview", "Overview", ""),
    Entry("queues", "Queues", "queues"),
    Entry("jobs", "Jobs", "jobs"),
    Entry("errors", "Errors", "errors"),
    Entry("dead", "Dead letters", "dead"),
    Entry("workflows", "Workflows", "workflows", Scope.DATA_READ),
    Entry("workers", "Workers", "workers", of_cluster=True),
    Entry("cron", "Cron", "cron", Scope.DATA_READ),
    Entry("limits", "Limits", "limits", of_cluster=True),
    Entry("webhooks", "Webhooks", "webhooks", of_cluster=True),
    Entry("events", "Events", "events", Scope.DATA_READ),
    Entry("bulk", "Bulk operations", "bulk"),
    Entry("cluster", "Cluster", "cluster", of_cluster=True),
    Entry("operations", "Operations", "operations", of_cluster=True),
)
