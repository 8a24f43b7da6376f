"""Read the order of a list of jobs (spec: ojs-admin-api 7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.store.engine.jobs.listing import JobFilter, JobOrder


def with_order(wanted: JobFilter, given: Mapping[str, str]) -> JobFilter:
    """Return ``wanted`` with the order that the parameters ``sort`` and ``order`` ask for.

    Without both, the list has the order of the indexes. The default of ``sort`` is ``created_at``,
    the default of ``order`` is ``desc``.

    Raises:
        InvalidRequest: a parameter is invalid, or jobs of these states have no such time.
    """
    by, direction = given.get("sort") or "", given.get("order") or ""
    if not by and not direction:
        return wanted
    if direction not in ("", "asc", "desc"):
        raise InvalidRequest("order must be asc or desc", field="order")
    ascending = direction == "asc"
    match by:
        case "" | "created_at":
            return replace(wanted, order=JobOrder("created_at", ascending))
        case "priority":
            return replace(wanted, order=JobOrder("priority", ascending))
        case "scheduled_at":
            if wanted.indexes != ("due",):
                raise InvalidRequest(
                    "only scheduled or retryable jobs are sorted by scheduled_at: name a state",
                    field="sort",
                )
            return replace(wanted, order=JobOrder("scheduled_at", ascending))
        case "started_at":
            if wanted.indexes != ("active",):
                raise InvalidRequest(
                    "only active jobs are sorted by started_at: name this state", field="sort"
                )
            return replace(wanted, order=JobOrder("started_at", ascending))
    raise InvalidRequest(
        "sort must be created_at, scheduled_at, started_at or priority", field="sort"
    )
