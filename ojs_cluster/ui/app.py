"""Answer the requests of browsers: sessions, actions, errors, static files and headers.

``Dashboard.answer`` finds the user of each request. Each page then calls the API as this user.
``quart_views`` registers everything with Quart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.core.cron.zones import find_zone
from ojs_cluster.core.errors import Internal, OJSError, PermissionDenied, Unauthenticated
from ojs_cluster.http import query as queries
from ojs_cluster.http.app import App
from ojs_cluster.http.errors import entry_for
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.pages import BrowserRequest
from ojs_cluster.ui import browser, static_files
from ojs_cluster.ui.access import SESSION_S, FailedLogins, Sessions, is_own_form, now_s
from ojs_cluster.ui.fragments import Fragments
from ojs_cluster.ui.languages.catalogs import ensure_texts, language_of, languages
from ojs_cluster.ui.languages.language import speak
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.login import LOGIN, LOGOUT, login_page, refusal_of_login, refuse_tenants
from ojs_cluster.ui.navigation import menu_of
from ojs_cluster.ui.pages.queues.workers_by_queue import WorkersByQueue
from ojs_cluster.ui.pages.shared import language, times
from ojs_cluster.ui.redaction.redaction import Redaction
from ojs_cluster.ui.refusals import failed_call, foreign_form, lacking_scope, read_only
from ojs_cluster.ui.render import Templates
from ojs_cluster.ui.routes import PageRoute
from ojs_cluster.ui.session_secret import SessionSecret
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.sign_on.attempts import ATTEMPT_S
from ojs_cluster.ui.sign_on.failure import SignOnFailed, unusable
from ojs_cluster.ui.sign_on.proxy_users import ProxyUsers
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

if TYPE_CHECKING:
    from ojs_cluster.ui.sign_on.oidc import OpenIdConnect

log = logging.getLogger("ojs.http")

PREFIX: Final = "/ui"
_ANONYMOUS: Final = Principal("", frozenset())


ReadForm = Callable[[], Awaitable[MultiDict[str, str]]]
"""Reads the fields of the form in the body of a request."""


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
        self._proxies = proxies
        self._redaction = Redaction(settings.redact, settings.redactor)
        self._templates = Templates(self._redaction)
        self._fragments = Fragments()
        self._languages = languages()
        find_zone("UTC")  # reads the names of all zones, which no request should wait for
        self._files = static_files.read_static_files()
        self._sessions = Sessions()
        self._failed_logins = FailedLogins()
        # Failures at the provider must not block logins by API key, so each has its own counter.
        self._failed_sign_ons, self._strays = FailedLogins(), FailedLogins()
        self._proxy_users = ProxyUsers(settings, proxies)
        self._oidc = oidc
        self._snapshots: Snapshots[bytes] = Snapshots()
        self._pages: Snapshots[Page] = Snapshots()
        self._workers_by_queue: Snapshots[WorkersByQueue | None] = Snapshots()
        self._secret = SessionSecret(app.store)

    async def send_file(self, name: str, accepted: str) -> Response:
        """Return a static file; ``accepted`` is the header ``Accept-Encoding``."""
        found = self._files.get(name)
        if found is None:
            return browser.respond(404, b"there is no such file", "text/plain")
        return browser.send_file(found, accepted)

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
        visit = await self._visit(head, request.scheme, _ANONYMOUS)
        try:
            principal = await self._principal_of(request)
            if principal is None and page is not LOGIN:
                return self._ask_to_log_in(visit)
            visit = replace(visit, principal=principal or _ANONYMOUS)
            if page is not LOGOUT:
                refuse_tenants(visit.principal)
            if head.method == "POST":
                # A connection whose request was not read to its end is closed after the response,
                # and the browser's next form could be lost with it.
                form = await read_form()
                refusal = self._refusal_of_form(visit, page)
                if refusal is not None:
                    return self._send(visit, refusal)
                visit = replace(visit, form=dict(form.items()), chosen=tuple(form.getlist("id")))
            if page.is_form and self._settings.mode == "read":
                return self._send(visit, read_only())
            missing = [scope.value for scope in page.scopes if not visit.may(scope)]
            if missing:
                return self._send(visit, lacking_scope(visit, missing))
            return self._send(visit, await page.handler(visit, **params))
        except ApiError as error:
            return self._send(visit, failed_call(visit, error))
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
                "what": _("The page failed"),
                "why": _("The log of the server names the cause."),
                "hint": _("Try again, and report it if it happens again."),
            }
            return self._send(visit, Page("error.html", context, 500))

    async def log_in(self, request: BrowserRequest, read_form: ReadForm) -> Response:
        """Start a session for the owner of an API key."""
        head = request.head
        visit = await self._visit(head, request.scheme, _ANONYMOUS)
        if not is_own_form(head.headers, self._hosts(head)):
            return self._send(visit, foreign_form())
        address, now = self._app.audit.client_of(head), time.monotonic()
        try:
            form = await read_form()
            # Nothing waits from here to the count. Otherwise logins at the same time pass together.
            now = time.monotonic()
            wait_s = self._failed_logins.wait_s(address, now)
            if wait_s:
                return self._send(visit, login_page(visit, None, wait_s))
            key = form.get("key", "").strip()
            principal = self._app.access.authenticate(f"Bearer {key}")
            refuse_tenants(principal)
            cookie = self._sessions.issue(await self._secret.get(), key, principal, now_s())
        except (OJSError, HTTPException) as error:
            if isinstance(error, Unauthenticated):
                self._failed_logins.count(address, now)
                refusal_of_login(self._app, head, error)
            return self._send(visit, login_page(visit, error))
        except Exception:
            log.exception("a login failed")
            return self._send(visit, login_page(visit, Internal(_("The log names the cause."))))
        browser.record_login(self._app, head, principal)
        following = local_target(form.get("next", ""))
        session = browser.cookie(
            browser.SESSION, cookie, self._cookie_path(head), visit.is_secure, SESSION_S
        )
        return browser.respond(303, b"", more=(session,), location=visit.root + following)

    async def begin_sign_on(
        self, oidc: OpenIdConnect, request: BrowserRequest, read_form: ReadForm
    ) -> Response:
        """Send the browser to the OpenID provider."""
        head = request.head
        visit = await self._visit(head, request.scheme, _ANONYMOUS)
        try:
            secret = await self._secret.get()
            begun = await oidc.begin(secret, visit.query.get("next", ""), now_s())
        except Exception as error:
            return self._sign_on_failed(visit, error)
        path, secure = self._cookie_path(head), oidc.is_secure
        # The cookie must come back with the redirect of the provider, which is another site.
        cookie = browser.cookie(
            browser.SIGN_ON, begun.cookie, path, secure, ATTEMPT_S, same_site="Lax"
        )
        return browser.respond(303, b"", more=(cookie,), location=begun.location)

    async def finish_sign_on(
        self, oidc: OpenIdConnect, request: BrowserRequest, read_form: ReadForm
    ) -> Response:
        """Start a session for a user whom the OpenID provider has authenticated."""
        head = request.head
        visit = await self._visit(head, request.scheme, _ANONYMOUS)
        address, failed = self._app.audit.client_of(head), self._failed_sign_ons
        brought = browser.cookie_of(head, browser.SIGN_ON) or ""
        try:
            secret = await self._secret.get()
            attempt = oidc.prove(secret, brought, visit.query, now_s())
        except Exception as error:
            # Not counted: any other site can make a browser come here without a login.
            return self._sign_on_failed(visit, error, self._is_news(address))
        # Nothing waits from here to the count. Otherwise logins at the same time pass together.
        now = time.monotonic()
        wait_s = failed.wait_s(address, now)
        if wait_s:
            return self._send(visit, login_page(visit, None, wait_s))
        failed.count(address, now)
        try:
            user, session, following = await oidc.finish(secret, attempt, visit.query, now_s())
        except Exception as error:
            if not (isinstance(error, SignOnFailed) and error.status == 401):
                failed.forgive(address)
            return self._sign_on_failed(visit, error)
        failed.forgive(address)
        browser.record_login(self._app, head, user)
        path, secure = self._cookie_path(head), oidc.is_secure
        cookies = (
            browser.cookie(browser.SESSION, session, path, secure, oidc.session_s),
            browser.cookie(browser.SIGN_ON, "", path, secure, 0),
        )
        # A redirect would still count as one of the provider, so browsers would not send the cookie
        # of the session, which is SameSite=Strict. The page makes them send it.
        page = Page("signed_on.html", {"target": visit.root + following})
        return browser.respond(200, self._render(visit, page, None), more=cookies)

    def _is_news(self, address: str) -> bool:
        """Return whether the log names a request without a login: not each one of a flood."""
        now = time.monotonic()
        if self._strays.wait_s(address, now):
            return False
        self._strays.count(address, now)
        return True

    def _sign_on_failed(self, visit: Visit, error: Exception, is_logged: bool = True) -> Response:
        is_logged = is_logged and not getattr(error, "is_repeated", False)
        if not isinstance(error, (SignOnFailed, OJSError)):
            log.error("a login by OpenID Connect failed", exc_info=error)
            error = unusable("the log names the cause")
        elif is_logged and isinstance(error, (SignOnFailed, PermissionDenied)):
            log.warning("a login by OpenID Connect failed: %s", error)
        if isinstance(error, PermissionDenied):
            refusal_of_login(self._app, visit.head, error)
        elif isinstance(error, SignOnFailed) and error.status == 401:
            refusal_of_login(self._app, visit.head, Unauthenticated(error.message))
        return self._send(visit, login_page(visit, error))

    async def _principal_of(self, request: BrowserRequest) -> Principal | None:
        """Return the user: by a trusted proxy, by an API key or a certificate, or by the session.

        The proxy comes first, because it may send a token or a certificate of its own.
        """
        head = request.head
        try:
            user = self._proxy_users.find(head.peer, request.raw_headers)
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
        secret, now = await self._secret.get(), now_s()
        found = self._sessions.find(secret, cookie, self._app.access.keyring, now)
        if found is None and self._oidc is not None:
            found = self._oidc.find(secret, cookie, now)
        return found

    def _refusal_of_form(self, visit: Visit, page: PageRoute) -> Page | None:
        if not is_own_form(visit.head.headers, self._hosts(visit.head)):
            return foreign_form()
        return read_only() if self._settings.mode == "read" and not page.is_own else None

    async def _visit(self, head: Request, scheme: str, principal: Principal) -> Visit:
        """Read a request, and let this task speak its language from here on."""
        root, here = browser.place_of(head.path, head.query, self._settings.base)
        is_secure = (self._trusted(head, "x-forwarded-proto") or scheme) == "https"
        shown_scheme = "https" if is_secure else "http"
        try:
            parameters = queries.parameters(head.query)
        except OJSError:
            parameters = {}
        spoken = language_of(
            browser.cookie_of(head, language.COOKIE), head.headers.get("accept-language", "")
        )
        await ensure_texts(spoken)
        speak(spoken)
        return Visit(
            self._app,
            self._settings,
            self._snapshots,
            self._pages,
            head,
            principal,
            root,
            here,
            f"{shown_scheme}://{self._hosts(head)[0]}{self._base(head)}",
            parameters,
            is_secure=is_secure,
            follows_change=browser.note_of(head) is not None,
            redaction=self._redaction,
            zone=find_zone(browser.cookie_of(head, times.COOKIE) or ""),
            language=spoken,
            workers_by_queue=self._workers_by_queue,
        )

    def _send(self, visit: Visit, answer: Answer) -> Response:
        if isinstance(answer, Download):
            return browser.send_download(answer)
        if isinstance(answer, Stream):
            return browser.send_stream(answer.body)
        path, secure = self._cookie_path(visit.head), visit.is_secure
        if isinstance(answer, SeeOther):
            cookies = []
            if answer.note:
                cookies.append(browser.note_cookie(answer.note, answer.failed, path, secure))
            if answer.cookie is not None:
                name, value = answer.cookie
                kept_s = browser.CHOICE_S if value else 0
                cookies.append(browser.cookie(name, value, path, secure, kept_s))
            if answer.end_session:
                cookies.append(browser.cookie(browser.SESSION, "", path, secure, 0))
            return browser.respond(303, b"", more=tuple(cookies), location=answer.target)
        if visit.is_refresh and answer.status == 200:
            return self._send_fragment(visit, answer)
        # A refresh shows no note, so the next page shows it.
        note = None if visit.is_refresh else browser.note_of(visit.head)
        shown = () if note is None else (browser.cookie(browser.NOTE, "", path, secure, 0),)
        return browser.respond(answer.status, self._render(visit, answer, note), more=shown)

    def _render(self, visit: Visit, answer: Page, note: browser.Note | None) -> bytes:
        context = {
            "visit": visit,
            "url": visit.url,
            "static": partial(self._static, visit),
            "menu": menu_of(visit),
            "note": note,
            "partial": visit.is_refresh,
            "languages": self._languages,
            "has_oidc": self._oidc is not None,
            **answer.context,
        }
        return self._templates.render(answer.template, context)

    def _send_fragment(self, visit: Visit, answer: Page) -> Response:
        """Return the content of a page that is open, or that it has not changed."""
        depends = visit.root, visit.here, visit.origin, visit.zone, visit.language.code
        shows = answer.shows
        name = None if shows is None else (answer.template, shows, *depends)
        fragment = self._fragments.get(name, lambda: self._render(visit, answer, None))
        etag = (("ETag", fragment.etag),)
        if visit.head.headers.get("if-none-match") == fragment.etag:
            return browser.respond(304, b"", more=etag)
        return browser.respond(200, fragment.body, more=etag)

    def _static(self, visit: Visit, name: str) -> str:
        return f"{visit.root}static/{name}?v={self._files[name].version}"

    def _ask_to_log_in(self, visit: Visit) -> Response:
        following = visit.here if visit.head.method == "GET" else ""
        target = f"{visit.root}login" + (f"?{urlencode({'next': following})}" if following else "")
        if "hx-request" in visit.head.headers:
            return browser.respond(401, b"", more=(("HX-Redirect", target),))
        return browser.respond(303, b"", location=target)

    def _trusted(self, head: Request, name: str) -> str:
        """Return a forwarding header, empty if no trusted proxy has sent it."""
        value = head.headers.get(name, "")
        if not value or not self._proxies.trusts(head.peer):
            return ""
        return value.partition(",")[0].strip()

    def _hosts(self, head: Request) -> tuple[str, ...]:
        hosts = (self._trusted(head, "x-forwarded-host"), head.headers.get("host", ""))
        return tuple(host for host in hosts if host) or ("localhost",)

    def _base(self, head: Request) -> str:
        return browser.base_of(self._trusted(head, "x-forwarded-prefix")) or self._settings.base

    def _cookie_path(self, head: Request) -> str:
        return f"{self._base(head)}{PREFIX}/"
