"""Answer the requests of browsers: pages, actions and errors.

``Dashboard.answer`` finds the user of each request. Each page then calls the API as this user.
``quart_views`` registers everything with Quart.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.core.errors import OJSError
from ojs_cluster.http.access.browsers import check_host
from ojs_cluster.http.app import App
from ojs_cluster.http.errors import entry_for
from ojs_cluster.http.messages import Response
from ojs_cluster.http.pages import BrowserRequest
from ojs_cluster.ui.access import is_own_form
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.login import LOGIN, LOGOUT, refuse_tenants
from ojs_cluster.ui.redaction.redaction import Redaction
from ojs_cluster.ui.refusals import failed_call, foreign_form, lacking_scope, read_only
from ojs_cluster.ui.requests.logins import Logins, ReadForm
from ojs_cluster.ui.requests.responses import Responses
from ojs_cluster.ui.requests.visits import ANONYMOUS, Visits
from ojs_cluster.ui.routes import PageRoute
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.visit import Answer, ApiError, Page, Visit

if TYPE_CHECKING:
    from ojs_cluster.ui.sign_on.oidc import OpenIdConnect

log = logging.getLogger("ojs.http")


async def _unknown(_visit: Visit, name: str) -> Answer:
    what, hint = _("There is no such page"), _("Use the menu.")
    context = {"what": what, "why": name[:200], "hint": hint}
    return Page("error.html", context, 404)


UNKNOWN: Final = PageRoute("GET", "/<path:name>", _unknown, ())
"""Any other address."""


async def _no_form() -> MultiDict[str, str]:
    return MultiDict()


class Dashboard:
    """The dashboard of one process.

    Args:
        app: the state of the process.
        settings: the settings of the dashboard.
        proxies: the proxies whose forwarding headers are trusted.
        oidc: logins by OpenID Connect; None if people log in by API keys, or by a proxy, only.

    Attributes:
        logins: the logins.
        responses: makes the responses.
        visits: reads what a browser's request says about itself.
    """

    def __init__(
        self,
        app: App,
        settings: UiSettings,
        proxies: TrustedProxies,
        oidc: OpenIdConnect | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        redaction = Redaction(settings.redact, settings.redactor)
        self.visits = Visits(app, settings, proxies, redaction)
        self.responses = Responses(self.visits, redaction, has_oidc=oidc is not None)
        self.logins = Logins(app, settings, proxies, self.visits, self.responses, oidc)

    async def answer(
        self,
        page: PageRoute,
        request: BrowserRequest,
        read_form: ReadForm = _no_form,
        **params: str,
    ) -> Response:
        """Return the page, the result of the action, or a page that explains the error.

        Args:
            page: what the address stands for.
            request: the request of the browser.
            read_form: reads the form of an action.
            **params: the parameters of the path.
        """
        head = request.head
        visit = await self.visits.read(head, request.scheme)
        try:
            if self._app.access.is_open:
                check_host(head, self._app.settings.allowed_hosts)
            principal = await self.logins.principal_of(request)
            if principal is None and page is not LOGIN:
                return self.responses.ask_to_log_in(visit)
            visit = replace(visit, principal=principal or ANONYMOUS)
            if page is not LOGOUT:
                refuse_tenants(visit.principal)
            if head.method == "POST":
                # A connection whose request was not read to its end is closed after the response,
                # and the browser's next form could be lost with it.
                form = await read_form()
                refusal = self._refusal_of_form(visit, page)
                if refusal is not None:
                    return self.responses.send(visit, refusal)
                visit = replace(visit, form=dict(form.items()), chosen=tuple(form.getlist("id")))
            if page.is_form and self._settings.mode == "read":
                return self.responses.send(visit, read_only())
            missing = [scope.value for scope in page.scopes if not visit.may(scope)]
            if missing:
                return self.responses.send(visit, lacking_scope(visit, missing))
            return self.responses.send(visit, await page.handler(visit, **params))
        except ApiError as error:
            return self.responses.send(visit, failed_call(visit, error))
        except OJSError as error:
            entry = entry_for(error)
            what = f"{error.message[:1].upper()}{error.message[1:]}"
            context = {"what": what, "why": "", "hint": entry.hint}
            return self.responses.send(visit, Page("error.html", context, entry.status))
        except HTTPException as error:
            context = {"what": error.name, "why": error.description or "", "hint": ""}
            return self.responses.send(visit, Page("error.html", context, error.code or 500))
        except Exception:
            log.exception("the page %s failed", head.path[:200])
            context = {
                "what": _("The page failed"),
                "why": _("The log of the server names the cause."),
                "hint": _("Try again, and report it if it happens again."),
            }
            return self.responses.send(visit, Page("error.html", context, 500))

    def _refusal_of_form(self, visit: Visit, page: PageRoute) -> Page | None:
        if not is_own_form(visit.head.headers, self.visits.hosts(visit.head)):
            return foreign_form()
        return read_only() if self._settings.mode == "read" and not page.is_own else None
