"""Register the dashboard with Quart: sessions, actions, errors, static files and headers.

The pages have no API key in their requests, so Quart gets them before the dispatcher
(``http/hypercorn/quart_app.py``). ``_Dashboard.answer`` finds the user of each request. Each page
then calls the API as this user.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from quart import Blueprint, request
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import HTTPException

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.core.errors import OJSError, Unauthenticated
from ojs_cluster.http import query as queries
from ojs_cluster.http.app import App
from ojs_cluster.http.errors import entry_for
from ojs_cluster.http.hypercorn.asgi import read_head
from ojs_cluster.http.hypercorn.quart_app import OJSQuart
from ojs_cluster.http.messages import Request
from ojs_cluster.ui import browser, static_files
from ojs_cluster.ui.access import SESSION_S, FailedLogins, Sessions, is_own_form, now_s
from ojs_cluster.ui.fragments import Fragments
from ojs_cluster.ui.login import LOGIN, LOGOUT, login_page, refusal_of_login
from ojs_cluster.ui.navigation import MENU
from ojs_cluster.ui.proxy_users import ProxyUsers
from ojs_cluster.ui.render import Templates
from ojs_cluster.ui.routes import PAGES, PageRoute
from ojs_cluster.ui.session_secret import SessionSecret
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.snapshots import Snapshots
from ojs_cluster.ui.visit import (
    Answer,
    ApiError,
    Download,
    Page,
    SeeOther,
    Stream,
    Visit,
    local_target,
)

log = logging.getLogger("ojs.http")

PREFIX: Final = "/ui"
_MAX_FORM: Final = 64 * 1024
"""Maximum size of a form in bytes, as of other request bodies that need no memory budget."""
_ANONYMOUS: Final = Principal("", frozenset())


def add_dashboard(
    quart: OJSQuart, app: App, settings: UiSettings, proxies: TrustedProxies | None = None
) -> None:
    """Add the pages to ``quart``, under ``/ui/`` and, if set, also under the base path.

    Args:
        quart: the application.
        app: the state of the process.
        settings: the settings of the dashboard; nothing is added if its mode is ``off``.
        proxies: the proxies whose forwarding headers are trusted.
    """
    if settings.mode == "off":
        return
    dashboard = _Dashboard(app, settings, proxies or TrustedProxies())
    quart.config["MAX_CONTENT_LENGTH"] = _MAX_FORM
    quart.config["BODY_TIMEOUT"] = app.settings.bodies.timeout_s
    quart.page_prefixes = settings.prefixes
    quart.url_map.merge_slashes = False  # Quart would redirect to a name that the client chooses
    quart.after_request(partial(_add_headers, quart))
    for name, base in {"ui": "", "ui_of_base": settings.base}.items():
        if name == "ui" or base:
            quart.register_blueprint(_blueprint(dashboard, name), url_prefix=base + PREFIX)
            quart.add_url_rule(
                f"{base}/ojs/admin/", f"{name}_of_admin", dashboard.redirect, strict_slashes=False
            )
            quart.add_url_rule(f"{base}{PREFIX}", f"{name}_start", dashboard.redirect)


async def _add_headers(quart: OJSQuart, response: TrioResponse) -> TrioResponse:
    """Add the security headers to responses that Quart makes itself, such as to OPTIONS."""
    if quart.is_dashboard(read_head(request.scope).path):
        browser.add_headers(response)
    return response


def _blueprint(dashboard: _Dashboard, name: str) -> Blueprint:
    blueprint = Blueprint(name, __name__)

    def add(method: str, rule: str, view: Any) -> None:
        endpoint = f"{method} {rule}".replace(".", "_")
        blueprint.add_url_rule(rule, endpoint, view, methods=[method])

    for page in (*PAGES, LOGIN):
        add(page.method, page.rule, partial(dashboard.answer, page))
    add("POST", "/login", dashboard.log_in)
    add("POST", "/logout", partial(dashboard.answer, LOGOUT))
    add("GET", "/static/<path:name>", dashboard.send_file)
    unknown = partial(dashboard.answer, PageRoute("GET", "/<path:name>", _unknown, ()))
    blueprint.add_url_rule("/<path:name>", "unknown", unknown, methods=["GET", "POST"])
    return blueprint


async def _unknown(_visit: Visit, name: str) -> Answer:
    context = {"what": "There is no such page", "why": name[:200], "hint": "Use the menu."}
    return Page("error.html", context, 404)


class _Dashboard:
    """The dashboard of one process."""

    def __init__(self, app: App, settings: UiSettings, proxies: TrustedProxies) -> None:
        self._app = app
        self._settings = settings
        self._proxies = proxies
        self._templates = Templates()
        self._fragments = Fragments()
        self._files = static_files.read_static_files()
        self._sessions = Sessions()
        self._failed_logins = FailedLogins()
        self._proxy_users = ProxyUsers(settings, proxies)
        self._snapshots: Snapshots[bytes] = Snapshots()
        self._pages: Snapshots[Page] = Snapshots()
        self._secret = SessionSecret(app.store)

    async def redirect(self) -> TrioResponse:
        """Send the browser to the first page."""
        path = read_head(request.scope).path
        up = "../../" if path.endswith("/ojs/admin/") else "../" if "/ojs/admin" in path else ""
        return browser.respond(308, b"", location=f"{up}ui/")

    async def send_file(self, name: str) -> TrioResponse:
        """Return a static file."""
        found = self._files.get(name)
        if found is None:
            return browser.respond(404, b"there is no such file", "text/plain")
        return browser.send_file(found, request.headers.get("accept-encoding", ""))

    async def answer(self, page: PageRoute, **params: str) -> TrioResponse:
        """Return the page, the result of the action, or a page that explains the error."""
        head = read_head(request.scope)
        visit = self._visit(head, _ANONYMOUS)
        try:
            principal = await self._principal_of(head)
            if principal is None and page is not LOGIN:
                return self._ask_to_log_in(visit)
            visit = replace(visit, principal=principal or _ANONYMOUS)
            if head.method == "POST":
                # A connection whose request was not read to its end is closed after the response,
                # and the browser's next form could be lost with it.
                form = await request.form
                refusal = self._refusal_of_form(visit, page)
                if refusal is not None:
                    return self._send(visit, refusal)
                visit = replace(visit, form=dict(form.items()), chosen=tuple(form.getlist("id")))
            if page.is_form and self._settings.mode == "read":
                return self._send(visit, _READ_ONLY)
            missing = [scope.value for scope in page.scopes if not visit.may(scope)]
            if missing:
                return self._send(visit, _lacking_scope(visit, missing))
            return self._send(visit, await page.handler(visit, **params))
        except ApiError as error:
            return self._send(visit, _failed(visit, error))
        except OJSError as error:
            entry = entry_for(error)
            what = f"{error.message[:1].upper()}{error.message[1:]}"
            context = {"what": what, "why": "", "hint": entry.hint}
            return self._send(visit, Page("error.html", context, entry.status))
        except HTTPException as error:
            context = {"what": error.name, "why": error.description or "", "hint": ""}
            return self._send(visit, Page("error.html", context, error.code or 500))
        except Exception:
            log.exception("the page %s failed", head.path[:200])
            context = {
                "what": "The page failed",
                "why": "The log of the server names the cause.",
                "hint": "Try again, and report it if it happens again.",
            }
            return self._send(visit, Page("error.html", context, 500))

    async def log_in(self) -> TrioResponse:
        """Start a session for the owner of an API key."""
        head = read_head(request.scope)
        visit = self._visit(head, _ANONYMOUS)
        if not is_own_form(head.headers, self._hosts(head)):
            return self._send(visit, _FOREIGN_FORM)
        address, now = self._app.audit.client_of(head), time.monotonic()
        try:
            form = await request.form
            # Nothing waits from here to the count. Otherwise logins at the same time pass together.
            now = time.monotonic()
            wait_s = self._failed_logins.wait_s(address, now)
            if wait_s:
                return self._send(visit, login_page(visit, "", wait_s))
            key = form.get("key", "").strip()
            principal = self._app.access.authenticate(f"Bearer {key}")
            cookie = self._sessions.issue(await self._secret.get(), key, principal, now_s())
        except (OJSError, HTTPException) as error:
            if isinstance(error, Unauthenticated):
                self._failed_logins.count(address, now)
                refusal_of_login(self._app, head, error)
            return self._send(visit, login_page(visit, error))
        browser.record_login(self._app, head, principal)
        following = local_target(form.get("next", ""))
        response = browser.respond(303, b"", location=visit.root + following)
        browser.set_cookie(
            response,
            browser.SESSION,
            cookie,
            self._cookie_path(head),
            self._secure(head),
            SESSION_S,
        )
        return response

    async def _principal_of(self, head: Request) -> Principal | None:
        """Return the user: by a trusted proxy, by an API key or a certificate, or by the session.

        The proxy comes first, because it may send a token or a certificate of its own.
        """
        try:
            user = self._proxy_users.find(head.peer, request.scope["headers"])
        except OJSError as error:
            refusal_of_login(self._app, head, error)
            raise
        if user is not None:
            return user
        authorization = head.headers.get("authorization", "")
        try:
            return self._app.access.authenticate(authorization or None, head.tls_subject)
        except OJSError as error:
            # A proxy may send credentials of its own with another scheme.
            if authorization.lower().startswith("bearer"):
                refusal_of_login(self._app, head, error)
            cookie = browser.cookie_of(head, browser.SESSION)
        if cookie is None:
            return None
        keyring = self._app.access.keyring
        return self._sessions.find(await self._secret.get(), cookie, keyring, now_s())

    def _refusal_of_form(self, visit: Visit, page: PageRoute) -> Page | None:
        if not is_own_form(visit.head.headers, self._hosts(visit.head)):
            return _FOREIGN_FORM
        return _READ_ONLY if self._settings.mode == "read" and page is not LOGOUT else None

    def _visit(self, head: Request, principal: Principal) -> Visit:
        root, here = browser.place_of(head.path, head.query, self._settings.base)
        scheme = "https" if self._secure(head) else "http"
        try:
            parameters = queries.parameters(head.query)
        except OJSError:
            parameters = {}
        return Visit(
            self._app,
            self._settings,
            self._snapshots,
            self._pages,
            head,
            principal,
            root,
            here,
            f"{scheme}://{self._hosts(head)[0]}{self._base(head)}",
            parameters,
            follows_change=browser.note_of(head) is not None,
        )

    def _send(self, visit: Visit, answer: Answer) -> TrioResponse:
        path, secure = self._cookie_path(visit.head), self._secure(visit.head)
        if isinstance(answer, Download):
            return browser.send_download(answer)
        if isinstance(answer, Stream):
            return browser.send_stream(answer.body)
        if isinstance(answer, SeeOther):
            response = browser.respond(303, b"", location=answer.target)
            if answer.note:
                browser.set_note(response, answer.note, answer.failed, path, secure)
            if answer.end_session:
                browser.set_cookie(response, browser.SESSION, "", path, secure, 0)
            return response
        if visit.is_refresh and answer.status == 200:
            return self._send_fragment(visit, answer)
        # A refresh shows no note, so the next page shows it.
        note = None if visit.is_refresh else browser.note_of(visit.head)
        response = browser.respond(answer.status, self._render(visit, answer, note))
        if note is not None:
            browser.set_cookie(response, browser.NOTE, "", path, secure, 0)
        return response

    def _render(self, visit: Visit, answer: Page, note: browser.Note | None) -> bytes:
        context = {
            "visit": visit,
            "url": visit.url,
            "static": partial(self._static, visit),
            "menu": [entry for entry in MENU if entry.is_for(visit)],
            "note": note,
            "partial": visit.is_refresh,
            **answer.context,
        }
        return self._templates.render(answer.template, context)

    def _send_fragment(self, visit: Visit, answer: Page) -> TrioResponse:
        """Return the content of a page that is open, or that it has not changed."""
        places = visit.root, visit.here, visit.origin
        shows = answer.shows
        name = None if shows is None else (answer.template, shows, *places)
        fragment = self._fragments.get(name, lambda: self._render(visit, answer, None))
        if visit.head.headers.get("if-none-match") == fragment.etag:
            response = browser.respond(304, b"")
        else:
            response = browser.respond(200, fragment.body)
        response.headers["ETag"] = fragment.etag
        return response

    def _static(self, visit: Visit, name: str) -> str:
        return f"{visit.root}static/{name}?v={self._files[name].version}"

    def _ask_to_log_in(self, visit: Visit) -> TrioResponse:
        following = visit.here if visit.head.method == "GET" else ""
        target = f"{visit.root}login" + (f"?{urlencode({'next': following})}" if following else "")
        if "hx-request" in visit.head.headers:
            response = browser.respond(401, b"")
            response.headers["HX-Redirect"] = target
            return response
        return browser.respond(303, b"", location=target)

    def _trusted(self, head: Request, name: str) -> str:
        """Return a forwarding header, empty if no trusted proxy has sent it."""
        value = head.headers.get(name, "") if self._proxies.trusts(head.peer) else ""
        return value.partition(",")[0].strip()

    def _hosts(self, head: Request) -> tuple[str, ...]:
        hosts = (self._trusted(head, "x-forwarded-host"), head.headers.get("host", ""))
        return tuple(host for host in hosts if host) or ("localhost",)

    def _secure(self, head: Request) -> bool:
        forwarded = self._trusted(head, "x-forwarded-proto")
        return (forwarded or str(request.scope["scheme"])) == "https"

    def _base(self, head: Request) -> str:
        return browser.base_of(self._trusted(head, "x-forwarded-prefix")) or self._settings.base

    def _cookie_path(self, head: Request) -> str:
        return f"{self._base(head)}{PREFIX}/"


_READ_ONLY: Final = Page(
    "error.html",
    {
        "what": "This dashboard is read-only",
        "why": "",
        "hint": "The operator has set OJS_UI=read. Use the API, or ask for OJS_UI=full.",
    },
    403,
)
_FOREIGN_FORM: Final = Page(
    "error.html",
    {
        "what": "The form was not sent by this dashboard",
        "why": "The header with its origin is missing, or it names another site.",
        "hint": "Open the page again. Behind a proxy, keep the Host header, or send "
        "X-Forwarded-Host and name the proxy in OJS_TRUSTED_PROXIES.",
    },
    403,
)


def _lacking_scope(visit: Visit, missing: list[str]) -> Page:
    context = {
        "what": "You may not do this",
        "why": f"'{visit.principal.name}' lacks {', '.join(missing)}.",
        "hint": "Log in with a key that has it, or ask the operator to add it to your key or role.",
    }
    return Page("error.html", context, 403)


def _failed(visit: Visit, error: ApiError) -> Answer:
    """Return to the page of a refused action, or show why there is no page."""
    if visit.head.method == "POST":
        back = local_target(visit.form.get("back", ""))
        return SeeOther(visit.root + back, error.sentence, failed=True)
    context = {"what": error.what, "why": "", "hint": error.advice}
    return Page("error.html", context, error.status)
