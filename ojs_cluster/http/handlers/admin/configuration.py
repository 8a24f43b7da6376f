"""Return the configuration of the server (spec: ojs-admin-api 12.2)."""

from __future__ import annotations

from typing import Any

from ojs_cluster import __version__
from ojs_cluster.core.config.variable import ShownVariable
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response


async def get(app: App, _request: Request) -> Response:
    """Return the variables of the process that answers, with their values. Secrets are hidden.

    ``layout`` shows the layout of the data, at most a few seconds old, and the last migration.
    """
    items = [_shown(variable) for variable in app.configuration]
    state = app.store.layout
    layout = {**state.record.shown(), "supported": [state.layouts.oldest, state.layouts.newest]}
    return replies.json_response(200, {"version": __version__, "layout": layout, "items": items})


def _shown(variable: ShownVariable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "value": variable.value,
        "default": variable.default,
        "set": variable.is_set,
        "hidden": variable.value is None,
        "description": variable.summary,
    }
