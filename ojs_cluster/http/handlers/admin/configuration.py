"""Return the configuration of the server (spec: ojs-admin-api 12.2)."""

from __future__ import annotations

from ojs_cluster import __version__
from ojs_cluster.core.config.variable import ShownVariable
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes import system as shapes
from ojs_cluster.store.ground.process_state.migration import LayoutState


async def get(app: App, _request: Request) -> Response:
    """Return the variables of the process that answers, with their values. Secrets are hidden.

    ``layout`` shows the layout of the data, at most a few seconds old, and the last migration.
    """
    items = [_shown(variable) for variable in app.configuration]
    answer = shapes.ConfigurationAnswer(
        version=__version__, layout=_layout(app.store.layout), items=items
    )
    return replies.json_response(200, answer)


def _layout(state: LayoutState) -> shapes.DataLayout:
    record = state.record
    migration: shapes.MigrationStatus | None = None
    if record.started_ms is not None:
        ended_ms = record.finished_ms
        migration = {
            "state": "running" if record.is_migrating else "completed",
            "layout": record.version,
            "changed": record.changed,
            "progress": record.progress,
            "started_at": replies.iso(record.started_ms),
            "finished_at": None if ended_ms is None else replies.iso(ended_ms),
        }
    return {
        "version": record.version,
        "oldest": record.oldest,
        "migration": migration,
        "supported": [state.layouts.oldest, state.layouts.newest],
    }


def _shown(variable: ShownVariable) -> shapes.ConfigurationItem:
    return {
        "name": variable.name,
        "value": variable.value,
        "default": variable.default,
        "set": variable.is_set,
        "hidden": variable.value is None,
        "description": variable.summary,
    }
