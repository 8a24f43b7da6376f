"""Find who has sent a request, for handlers that record it."""

from __future__ import annotations

from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import PageRequest, Request
from ojs_cluster.store.engine.jobs.history_entries import Cause


def principal_of(app: App, request: Request) -> Principal:
    """Return the principal of a request.

    The dispatcher has authenticated the request already. It does not pass the principal to
    handlers, because that would take time for every request.
    """
    if isinstance(request, PageRequest):
        return request.principal
    return app.access.authenticate(request.headers.get("authorization"), request.tls_subject)


def cause_of(app: App, request: Request) -> Cause:
    """Return who has sent a request, for the history of the jobs that it changes."""
    is_page = isinstance(request, PageRequest)
    return Cause("user" if is_page else "client", principal_of(app, request).name)
