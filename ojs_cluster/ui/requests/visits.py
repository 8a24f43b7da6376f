"""Read the requests of browsers: the place of the dashboard, the language and the parameters."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.core.cron.zones import find_zone
from ojs_cluster.core.errors import OJSError
from ojs_cluster.http import query as queries
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request
from ojs_cluster.ui import browser
from ojs_cluster.ui.languages.catalogs import language_of, with_texts
from ojs_cluster.ui.languages.language import speak
from ojs_cluster.ui.pages.shared import language, times
from ojs_cluster.ui.redaction.redaction import Redaction
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.snapshots import Snapshots
from ojs_cluster.ui.visit import Page, Visit
from ojs_cluster.ui.workers_by_queue import WorkersByQueue

PREFIX: Final = "/ui"
ANONYMOUS: Final = Principal("", frozenset())
"""The user of a request before a login."""


class Visits:
    """Reads requests, and keeps what viewers share.

    Args:
        app: the state of the process.
        settings: the settings of the dashboard.
        proxies: the proxies whose forwarding headers are trusted.
        redaction: what the operator hides.
    """

    def __init__(
        self, app: App, settings: UiSettings, proxies: TrustedProxies, redaction: Redaction
    ) -> None:
        self._app = app
        self._settings = settings
        self._proxies = proxies
        self._redaction = redaction
        find_zone("UTC")  # reads the names of all zones, which no request should wait for
        self._snapshots: Snapshots[bytes] = Snapshots()
        self._pages: Snapshots[Page] = Snapshots()
        self._workers_by_queue: Snapshots[WorkersByQueue | None] = Snapshots()

    async def read(self, head: Request, scheme: str) -> Visit:
        """Return a request without a user, and set the language of its texts for this task."""
        root, here = browser.place_of(head.path, head.query, self._settings.base)
        is_secure = (self._trusted(head, "x-forwarded-proto") or scheme) == "https"
        shown_scheme = "https" if is_secure else "http"
        try:
            parameters = queries.parameters(head.query)
        except OJSError:
            parameters = {}
        wanted = language_of(
            browser.cookie_of(head, language.COOKIE), head.headers.get("accept-language", "")
        )
        spoken = await with_texts(wanted)
        speak(spoken)
        return Visit(
            self._app,
            self._settings,
            self._snapshots,
            self._pages,
            head,
            ANONYMOUS,
            root,
            here,
            f"{shown_scheme}://{self.hosts(head)[0]}{self._base(head)}",
            parameters,
            is_secure=is_secure,
            has_own_tls=self.has_own_tls(head, scheme),
            follows_change=browser.note_of(head) is not None,
            redaction=self._redaction,
            zone=find_zone(browser.cookie_of(head, times.COOKIE) or ""),
            language=spoken,
            workers_by_queue=self._workers_by_queue,
        )

    def has_own_tls(self, head: Request, scheme: str) -> bool:
        """Return whether a browser uses TLS to this server, and no proxy is known to be between.

        Behind a proxy, other servers may have the same host.
        """
        return scheme == "https" and not self._base(head) and not self._proxies.trusts(head.peer)

    def cookie_path(self, head: Request) -> str:
        """Return the path of cookies: that of the dashboard, as the browser sees it."""
        return f"{self._base(head)}{PREFIX}/"

    def _trusted(self, head: Request, name: str) -> str:
        """Return a forwarding header, empty if no trusted proxy has sent it."""
        return self._proxies.forwarded(head.peer, head.headers.get(name))

    def hosts(self, head: Request) -> tuple[str, ...]:
        """Return the names of this server that the browser may use, the outermost first."""
        hosts = (self._trusted(head, "x-forwarded-host"), head.headers.get("host", ""))
        return tuple(host for host in hosts if host) or ("localhost",)

    def _base(self, head: Request) -> str:
        return browser.base_of(self._trusted(head, "x-forwarded-prefix")) or self._settings.base
