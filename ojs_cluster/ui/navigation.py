"""The pages that the menu lists, in groups."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.languages.translate import later
from ojs_cluster.ui.visit import Visit


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the menu.

    Attributes:
        name: the name of the page, which its templates set as ``section``.
        label: the text, in English.
        path: the address below the dashboard.
        key: the key that opens the page after ``g``.
        group: the English label of the group of the page in the menu; empty for no group.
        scope: the scope that the page needs.
        of_cluster: whether the page shows what keys for some queues may not see.
        of_tenants: whether the page shows what an operator may hide as ``meta.tenant_id``.
    """

    name: str
    label: str
    path: str
    key: str
    group: str
    scope: Scope = Scope.ADMIN_READ
    of_cluster: bool = False
    of_tenants: bool = False

    def is_for(self, visit: Visit) -> bool:
        """Return whether the user may see the page."""
        if self.of_tenants and visit.redaction.hides_tenants:
            return False
        return visit.may(self.scope) and (visit.sees_cluster or not self.of_cluster)


_WORK: Final = later("Work")
_FAILURES: Final = later("Failures")
_CAPACITY: Final = later("Capacity")
_ACTIVITY: Final = later("Activity")
_SYSTEM: Final = later("System")

MENU: Final = (
    Entry("overview", later("Overview"), "", "o", ""),
    Entry("queues", later("Queues"), "queues", "q", _WORK),
    Entry("jobs", later("Jobs"), "jobs", "j", _WORK),
    Entry("types", later("Types"), "types", "t", _WORK, of_cluster=True),
    Entry("workflows", later("Workflows"), "workflows", "f", _WORK, Scope.DATA_READ),
    Entry("cron", later("Cron"), "cron", "c", _WORK, Scope.DATA_READ),
    Entry("errors", later("Errors"), "errors", "e", _FAILURES),
    Entry("dead", later("Dead letters"), "dead", "d", _FAILURES),
    Entry("workers", later("Workers"), "workers", "w", _CAPACITY, of_cluster=True),
    Entry("pools", later("Worker pools"), "pools", "s", _CAPACITY),
    Entry("limits", later("Limits"), "limits", "l", _CAPACITY, of_cluster=True),
    Entry("tenants", later("Tenants"), "tenants", "n", _CAPACITY, of_cluster=True, of_tenants=True),
    Entry("events", later("Events"), "events", "v", _ACTIVITY, Scope.DATA_READ),
    Entry("audit", later("Audit"), "audit", "a", _ACTIVITY, of_cluster=True),
    Entry("bulk", later("Bulk operations"), "bulk", "b", _ACTIVITY),
    Entry("webhooks", later("Webhooks"), "webhooks", "h", _ACTIVITY, of_cluster=True),
    Entry("cluster", later("Cluster"), "cluster", "k", _SYSTEM, of_cluster=True),
    Entry("operations", later("Maintenance"), "operations", "p", _SYSTEM, of_cluster=True),
)
"""All pages; those of one group stand together."""


def menu_of(visit: Visit) -> list[tuple[str, list[Entry]]]:
    """Return the groups of pages that the user may see, each as its English label and entries."""
    seen = [entry for entry in MENU if entry.is_for(visit)]
    return [(group, list(entries)) for group, entries in groupby(seen, attrgetter("group"))]
