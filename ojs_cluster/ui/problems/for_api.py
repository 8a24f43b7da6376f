"""Find the problems for the API: those that the overview shows, in English."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Principal, Scope
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request
from ojs_cluster.http.problems import Found
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.ui.languages.language import ENGLISH, speak
from ojs_cluster.ui.problems.find import Condition, find_problems, read_condition
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.snapshots import Snapshots
from ojs_cluster.ui.visit import Visit
from ojs_cluster.ui.workers_by_queue import WorkersByQueue

_READER: Final = Principal("problems", frozenset({Scope.ADMIN_READ}))
"""Reads what the problems are found by, which all requests share."""


class ProblemsForApi:
    """Finds the problems of a cluster, and keeps for some seconds what it has read."""

    def __init__(self) -> None:
        # The dashboard has its own: it may hide what the API shows.
        self._snapshots: Snapshots[bytes] = Snapshots()
        self._workers_by_queue: Snapshots[WorkersByQueue | None] = Snapshots()

    async def find(self, app: App) -> Found:
        """Return the problems, also while masters are down."""
        visit = Visit(
            app,
            UiSettings(),
            self._snapshots,
            Snapshots(),
            Request("GET", "/ui/"),
            _READER,
            root="",
            here="",
            origin="",
            query={},
            workers_by_queue=self._workers_by_queue,
        )
        speak(ENGLISH)  # the connection may have served a page before
        stats: dict[str, Any] | None = None
        is_current = False
        condition: Condition | None = None

        async def read_stats() -> None:
            nonlocal stats, is_current
            known = await visit.shared_or_last("admin", "stats")
            if known is not None:
                stats, is_current = orjson.loads(known.value), not known.age_s

        async def read_rest() -> None:
            nonlocal condition
            condition = await read_condition(visit)

        await run_concurrently([read_stats, read_rest], lambda read: read())
        is_complete = is_current and condition is not None and condition.is_complete
        return Found(find_problems(visit, stats, condition), is_complete)
