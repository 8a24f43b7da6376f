"""The pages that the menu lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.access.scopes import Scope


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the menu.

    Attributes:
        name: the name of the page, which its templates set as ``section``.
        label: the text.
        path: the address below the dashboard.
        scope: the scope that the page needs.
    """

    name: str
    label: str
    path: str
    scope: Scope = Scope.ADMIN_READ


MENU: Final = (
    Entry("overview", "Overview", ""),
    Entry("queues", "Queues", "queues"),
    Entry("jobs", "Jobs", "jobs"),
    Entry("errors", "Errors", "errors"),
    Entry("dead", "Dead letters", "dead"),
    Entry("workflows", "Workflows", "workflows", Scope.DATA_READ),
    Entry("workers", "Workers", "workers"),
    Entry("cron", "Cron", "cron", Scope.DATA_READ),
    Entry("bulk", "Bulk operations", "bulk"),
)
