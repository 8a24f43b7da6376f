"""Send pages to browsers: rendered, as the content of an open page, or as a redirect."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlencode

from ojs_cluster.http.messages import Response
from ojs_cluster.ui import browser, static_files
from ojs_cluster.ui.fragments import Fragments, without_known_rows
from ojs_cluster.ui.languages.catalogs import languages
from ojs_cluster.ui.navigation import menu_of
from ojs_cluster.ui.redaction.redaction import Redaction
from ojs_cluster.ui.render import Templates
from ojs_cluster.ui.requests.visits import Visits
from ojs_cluster.ui.visit import Answer, Download, Page, SeeOther, Stream, Visit


class Responses:
    """Makes the responses of one process.

    Args:
        visits: knows the paths of cookies.
        redaction: what the operator hides.
        has_oidc: whether people can log in by OpenID Connect.
    """

    def __init__(self, visits: Visits, redaction: Redaction, *, has_oidc: bool) -> None:
        self._visits = visits
        self._has_oidc = has_oidc
        self._templates = Templates(redaction)
        self._fragments = Fragments()
        self._languages = languages()
        self._files = static_files.read_static_files()

    def send_file(self, name: str, accepted: str) -> Response:
        """Return a static file; ``accepted`` is the header ``Accept-Encoding``."""
        found = self._files.get(name)
        if found is None:
            return browser.respond(404, b"there is no such file", "text/plain")
        return browser.send_file(found, accepted)

    def send(self, visit: Visit, answer: Answer) -> Response:
        """Return the response for the answer of a page, compressed if the browser accepts it."""
        accepted = visit.head.headers.get("accept-encoding", "")
        return browser.compressed(self._send(visit, answer), accepted)

    def _send(self, visit: Visit, answer: Answer) -> Response:
        if isinstance(answer, Download):
            return browser.send_download(answer)
        if isinstance(answer, Stream):
            return browser.send_stream(answer.body)
        path, secure = self._visits.cookie_path(visit.head), visit.is_secure
        if isinstance(answer, SeeOther):
            cookies = []
            if answer.note:
                cookies.append(browser.note_cookie(answer.note, answer.failed, path, secure))
            if answer.cookie is not None:
                name, value = answer.cookie
                kept_s = browser.CHOICE_S if value else 0
                cookies.append(browser.cookie(name, value, path, secure, kept_s))
            if answer.end_session:
                cookies.append(browser.own_cookie(browser.SESSION, "", visit, path, 0))
            return browser.respond(303, b"", more=tuple(cookies), location=answer.target)
        if visit.is_refresh and answer.status == 200:
            return self._send_fragment(visit, answer)
        # A refresh shows no note, so the next page shows it.
        note = None if visit.is_refresh else browser.note_of(visit.head)
        shown = () if note is None else (browser.cookie(browser.NOTE, "", path, secure, 0),)
        return browser.respond(answer.status, self.render(visit, answer, note), more=shown)

    def render(self, visit: Visit, answer: Page, note: browser.Note | None) -> bytes:
        """Return a page as UTF-8.

        Args:
            visit: the request.
            answer: the page.
            note: what the page says about the last action; None for nothing.
        """
        context = {
            "visit": visit,
            "url": visit.url,
            "static": partial(self._static, visit),
            "menu": menu_of(visit),
            "note": note,
            "partial": visit.is_refresh,
            "languages": self._languages,
            "has_oidc": self._has_oidc,
            **answer.context,
        }
        return self._templates.render(answer.template, context)

    def _send_fragment(self, visit: Visit, answer: Page) -> Response:
        """Return what has changed of the content of an open page, or that nothing has."""
        depends = visit.root, visit.here, visit.origin, visit.zone, visit.language.code
        shows = answer.shows
        name = None if shows is None else (answer.template, shows, *depends)
        fragment = self._fragments.get(name, lambda: self.render(visit, answer, None))
        etag = (("ETag", fragment.etag),)
        if visit.head.headers.get("if-none-match") == fragment.etag:
            return browser.respond(304, b"", more=etag)
        known = visit.head.headers.get("x-rows")
        if known is None:
            return browser.respond(200, fragment.body, more=etag)
        body, names = without_known_rows(fragment.body, known)
        return browser.respond(200, body, more=(*etag, ("X-Rows", names)))

    def _static(self, visit: Visit, name: str) -> str:
        return f"{visit.root}static/{name}?v={self._files[name].version}"

    def ask_to_log_in(self, visit: Visit) -> Response:
        """Send a browser without a session to the login, which leads back to the page."""
        following = visit.here if visit.head.method == "GET" else ""
        target = f"{visit.root}login" + (f"?{urlencode({'next': following})}" if following else "")
        if "hx-request" in visit.head.headers:
            return browser.respond(401, b"", more=(("HX-Redirect", target),))
        return browser.respond(303, b"", location=target)
