"""The login page, and the end of a session."""

from __future__ import annotations

from math import ceil
from typing import Final

from werkzeug.exceptions import HTTPException

from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.core.errors import OJSError, PermissionDenied, Unauthenticated
from ojs_cluster.http.app import App
from ojs_cluster.http.errors import entry_for
from ojs_cluster.http.messages import Request
from ojs_cluster.http.request_ids import new_request_id
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.routes import PageRoute
from ojs_cluster.ui.sign_on.failure import SignOnFailed
from ojs_cluster.ui.visit import Answer, Page, SeeOther, Visit, local_target


async def _show(visit: Visit) -> Answer:
    """Show the form, or the first page to a user who needs no login."""
    if visit.principal.name:
        return SeeOther(visit.root + local_target(visit.query.get("next", "")))
    return login_page(visit, None)


async def _end(visit: Visit) -> Answer:
    return SeeOther(visit.url("login"), _("You have logged out."), end_session=True)


LOGIN: Final = PageRoute("GET", "/login", _show, ())
LOGOUT: Final = PageRoute("POST", "/logout", _end, (), is_own=True)


def refuse_tenants(principal: Principal) -> None:
    """Refuse the owner of an API key that is bound to a tenant: the pages show all tenants.

    Raises:
        PermissionDenied: the API key is bound to a tenant.
    """
    if principal.tenant is not None:
        raise PermissionDenied("the dashboard is not for API keys that are bound to a tenant")


def login_page(
    visit: Visit, error: OJSError | HTTPException | SignOnFailed | None, wait_s: float = 0
) -> Page:
    """Return the login page.

    Args:
        visit: the request.
        error: why a login failed; None before the first one.
        wait_s: how long the user has to wait for the next attempt, in seconds.
    """
    status, message = 200, ""
    if isinstance(error, OJSError):
        status, message = entry_for(error).status, error.message
    elif isinstance(error, HTTPException):
        status, message = error.code or 400, error.description or error.name
    elif isinstance(error, SignOnFailed):
        status, message = error.status, _(error.message)
    if wait_s:
        status = 429
        message = _("Too many failed logins. Try again in %(wait)s s.", wait=ceil(wait_s))
    following = local_target(visit.query.get("next", ""))
    return Page("login.html", {"error": message, "next": following}, status)


def refusal_of_login(app: App, head: Request, error: OJSError) -> None:
    """Record a failed login in the audit and in the metrics."""
    status = entry_for(error).status
    if not isinstance(error, Unauthenticated):
        # A user without a role has no principal that the audit could record as such.
        error = Unauthenticated(error.message, principal=error.details.get("principal"))
    app.audit.record_refusal(head, new_request_id(), error, status)
    app.traffic.count(None, status, 0.0)
