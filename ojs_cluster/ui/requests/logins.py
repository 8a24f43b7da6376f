"""Logins: sessions by API keys, by an OpenID provider, and users whom a proxy names."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.core.errors import Internal, OJSError, PermissionDenied, Unauthenticated
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Response
from ojs_cluster.http.pages import BrowserRequest
from ojs_cluster.ui import browser
from ojs_cluster.ui.access import SESSION_S, FailedLogins, Sessions, is_own_form
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.login import login_page, refusal_of_login, refuse_tenants
from ojs_cluster.ui.refusals import foreign_form
from ojs_cluster.ui.requests.responses import Responses
from ojs_cluster.ui.requests.visits import Visits
from ojs_cluster.ui.session_secret import SessionSecret
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.sign_on.attempts import ATTEMPT_S
from ojs_cluster.ui.sign_on.failure import SignOnFailed, unusable
from ojs_cluster.ui.sign_on.proxy_users import ProxyUsers
from ojs_cluster.ui.visit import Page, Visit, local_target

if TYPE_CHECKING:
    from ojs_cluster.ui.sign_on.oidc import OpenIdConnect

log = logging.getLogger("ojs.http")

ReadForm = Callable[[], Awaitable[MultiDict[str, str]]]
"""Reads the fields of the form in the body of a request."""


class Logins:
    """The logins of one process.

    Args:
        app: the state of the process.
        settings: the settings of the dashboard.
        proxies: the proxies whose forwarding headers are trusted.
        visits: reads requests.
        responses: makes responses.
        oidc: logins by OpenID Connect; None if people log in by API keys, or by a proxy, only.
    """

    def __init__(
        self,
        app: App,
        settings: UiSettings,
        proxies: TrustedProxies,
        visits: Visits,
        responses: Responses,
        oidc: OpenIdConnect | None = None,
    ) -> None:
        self._app = app
        self._visits = visits
        self._responses = responses
        self._sessions = Sessions()
        self._failed_logins = FailedLogins()
        # Failures at the provider must not block logins by API key, so each has its own counter.
        self._failed_sign_ons, self._strays = FailedLogins(), FailedLogins()
        self._proxy_users = ProxyUsers(settings, proxies)
        self._oidc = oidc
        self._secret = SessionSecret(app.store)

    async def log_in(self, request: BrowserRequest, read_form: ReadForm) -> Response:
        """Start a session for the owner of an API key."""
        head = request.head
        visit = await self._visits.read(head, request.scheme)
        if not is_own_form(head.headers, self._visits.hosts(head)):
            return self._responses.send(visit, foreign_form())
        address, now = self._app.audit.client_of(head), time.monotonic()
        try:
            form = await read_form()
            # Nothing waits from here to the count. Otherwise logins at the same time pass together.
            now = time.monotonic()
            wait_s = self._failed_logins.wait_s(address, now)
            if wait_s:
                return self._responses.send(visit, login_page(visit, None, wait_s))
            key = form.get("key", "").strip()
            principal = self._app.access.authenticate(f"Bearer {key}")
            refuse_tenants(principal)
            cookie = self._sessions.issue(
                await self._secret.get(), key, principal, self._app.store.clock.now_s()
            )
        except (OJSError, HTTPException) as error:
            if isinstance(error, Unauthenticated):
                self._failed_logins.count(address, now)
                refusal_of_login(self._app, head, error)
            return self._responses.send(visit, login_page(visit, error))
        except Exception:
            log.exception("a login failed")
            return self._responses.send(
                visit, login_page(visit, Internal(_("The log names the cause.")))
            )
        browser.record_login(self._app, head, principal)
        following = local_target(form.get("next", ""))
        path = self._visits.cookie_path(head)
        session = browser.own_cookie(browser.SESSION, cookie, visit, path, SESSION_S)
        return browser.respond(303, b"", more=(session,), location=visit.root + following)

    async def begin_sign_on(
        self, oidc: OpenIdConnect, request: BrowserRequest, read_form: ReadForm
    ) -> Response:
        """Send the browser to the OpenID provider."""
        head = request.head
        visit = await self._visits.read(head, request.scheme)
        try:
            secret = await self._secret.get()
            begun = await oidc.begin(
                secret, visit.query.get("next", ""), self._app.store.clock.now_s()
            )
        except Exception as error:
            return self._sign_on_failed(visit, error)
        # The cookie must come back with the redirect of the provider, which is another site.
        cookie = browser.own_cookie(
            browser.SIGN_ON,
            begun.cookie,
            visit,
            self._visits.cookie_path(head),
            ATTEMPT_S,
            secure=oidc.is_secure,
            same_site="Lax",
        )
        return browser.respond(303, b"", more=(cookie,), location=begun.location)

    async def finish_sign_on(
        self, oidc: OpenIdConnect, request: BrowserRequest, read_form: ReadForm
    ) -> Response:
        """Start a session for a user whom the OpenID provider has authenticated."""
        head = request.head
        visit = await self._visits.read(head, request.scheme)
        address, failed = self._app.audit.client_of(head), self._failed_sign_ons
        own_tls = visit.has_own_tls
        brought = browser.own_cookie_of(head, browser.SIGN_ON, has_own_tls=own_tls) or ""
        try:
            secret = await self._secret.get()
            attempt = oidc.prove(secret, brought, visit.query, self._app.store.clock.now_s())
        except Exception as error:
            # Not counted: any other site can make a browser come here without a login.
            return self._sign_on_failed(visit, error, self._is_news(address))
        # Nothing waits from here to the count. Otherwise logins at the same time pass together.
        now = time.monotonic()
        wait_s = failed.wait_s(address, now)
        if wait_s:
            return self._responses.send(visit, login_page(visit, None, wait_s))
        failed.count(address, now)
        try:
            user, session, following = await oidc.finish(
                secret, attempt, visit.query, self._app.store.clock.now_s()
            )
        except Exception as error:
            if not (isinstance(error, SignOnFailed) and error.status == 401):
                failed.forgive(address)
            return self._sign_on_failed(visit, error)
        failed.forgive(address)
        browser.record_login(self._app, head, user)
        path, secure = self._visits.cookie_path(head), oidc.is_secure
        cookies = (
            browser.own_cookie(
                browser.SESSION, session, visit, path, oidc.session_s, secure=secure
            ),
            browser.own_cookie(browser.SIGN_ON, "", visit, path, 0, secure=secure),
        )
        # A redirect would still count as one of the provider, so browsers would not send the cookie
        # of the session, which is SameSite=Strict. The page makes them send it.
        page = Page("signed_on.html", {"target": visit.root + following})
        return browser.respond(200, self._responses.render(visit, page, None), more=cookies)

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
        return self._responses.send(visit, login_page(visit, error))

    async def principal_of(self, request: BrowserRequest) -> Principal | None:
        """Return the user: by a trusted proxy, by an API key or a certificate, or by the session.

        The proxy comes first, because it may send a token or a certificate of its own.
        """
        head = request.head
        try:
            user = self._proxy_users.find(
                head.peer, request.raw_headers, self._app.store.clock.now_s()
            )
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
            own_tls = self._visits.has_own_tls(head, request.scheme)
            cookie = browser.own_cookie_of(head, browser.SESSION, has_own_tls=own_tls)
        if cookie is None:
            return None
        secret, now = await self._secret.get(), self._app.store.clock.now_s()
        found = self._sessions.find(secret, cookie, self._app.access.keyring, now)
        if found is None and self._oidc is not None:
            found = self._oidc.find(secret, cookie, now)
        return found
