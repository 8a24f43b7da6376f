"""What the completion of a search offers: the fields, and known values of some of them.

The values come from what the process shares between viewers anyway: the metrics of queues, and the
groups of errors. So a completion never walks over jobs.
"""

from __future__ import annotations

from typing import Final

import orjson

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.search_fields import STARTS
from ojs_cluster.ui.redaction.redaction import ERROR_TYPE
from ojs_cluster.ui.redaction.searches import why_not_searched
from ojs_cluster.ui.visit import Answer, ApiError, Download, Visit

_MAX_VALUES: Final = 300
"""Maximum number of values of a field."""
_ERRORS: Final = 100


async def values(visit: Visit) -> Answer:
    """Return fields, and values of ``state``, ``queue``, ``type`` and ``error``.

    A user who may see some queues only gets values of these queues.
    """
    queues: set[str] = set()
    types: set[str] = set()
    try:
        metrics = (await visit.app.cached_metrics.get()).queues
    except OJSError:
        metrics = {}
    admitted = visit.principal.queues
    for name, queue in metrics.items():
        if admitted is None or admitted.admits(name):
            queues.add(name)
            types.update(queue.types)
    return Download(
        "values.json",
        "application/json",
        orjson.dumps(
            {
                "fields": _fields(visit),
                "state": [state.value for state in State],
                "queue": sorted(queues)[:_MAX_VALUES],
                "type": sorted(types)[:_MAX_VALUES],
                "error": await _error_types(visit),
            }
        ),
    )


def _fields(visit: Visit) -> list[str]:
    """Return the fields, and the indexed ones among the members of meta unless they are hidden."""
    indexed = [f"{each.name}:" for each in visit.app.store.settings.search_index if each.path]
    return [
        *STARTS,
        *(name for name in indexed if not why_not_searched(f'{name}""', visit.redaction)),
    ]


async def _error_types(visit: Visit) -> list[str]:
    """Return the types of the latest errors."""
    try:
        listed = orjson.loads(await visit.shared("admin", "errors", limit=_ERRORS))
    except ApiError as error:
        if error.status == 429:
            raise
        return []
    types = list(dict.fromkeys(group["type"] for group in listed["items"] if group["type"]))
    shown = await visit.redaction.texts(types, ERROR_TYPE)
    return [old for old, new in zip(types, shown, strict=True) if old == new]
