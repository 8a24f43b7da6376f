"""One request for a page: its user, its parameters, and calls of the API as that user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode
from zoneinfo import ZoneInfo

import orjson

from ojs_cluster.core.access.scopes import Principal, Scope
from ojs_cluster.http.app import App
from ojs_cluster.http.internal import call_as
from ojs_cluster.http.messages import BodyStream, PageRequest, Request, Response
from ojs_cluster.redis.server_clock import ServerClock
from ojs_cluster.ui.languages.language import ENGLISH, Language
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.patience import await_while_healthy
from ojs_cluster.ui.redaction.redaction import NOTHING, Redaction
from ojs_cluster.ui.settings import UiSettings
from ojs_cluster.ui.snapshots import Aged, Snapshots
from ojs_cluster.ui.workers_by_queue import WorkersByQueue

_MAX_PAGE_DIGITS: Final = 4
_MAX_TARGET: Final = 4000  # characters
_SERVER_ERROR: Final = 500
_HINTS_ABOUT_BODIES: Final = frozenset(
    {"invalid_payload", "invalid_request", "validation_error", "unsupported"}
)
"""Codes of errors whose hint says how to change the request."""
_SHARED: Final = Principal("dashboard", frozenset({Scope.ADMIN_READ}))
"""Makes the calls of the API whose responses the viewers share."""
_FORWARDED: Final = ("x-forwarded-for", "user-agent", "last-event-id")


@dataclass(frozen=True, slots=True)
class Page:
    """A page to show.

    Attributes:
        template: the name of its template.
        context: the values in it.
        status: the status of the response.
        shows: bytes of all values in the context and of what the template reads of the visit,
            other than its addresses. Refreshes with the same bytes share what is rendered; None if
            this page cannot be shared, as when it shows how long ago something happened.
    """

    template: str
    context: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    shows: bytes | None = None


@dataclass(frozen=True, slots=True)
class SeeOther:
    """Send the browser to another page, which shows ``note``.

    Attributes:
        target: the address of the page, relative to this one.
        note: what has been done, or why not.
        failed: whether the note is an error.
        end_session: whether to log the user out.
        cookie: the name and the value of a cookie that keeps a choice of the user for a year; an
            empty value removes it.
    """

    target: str
    note: str = ""
    failed: bool = False
    end_session: bool = False
    cookie: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Download:
    """A file to save."""

    name: str
    content_type: str
    content: bytes


def local_target(text: str) -> str:
    """Return the address of a page below the dashboard; the first page for any other text.

    Dot segments could lead to another application of the same host.
    """
    path = text.partition("?")[0]
    segments = re.split(r"[/\\]", unquote(path))
    is_above = any(each.partition(";")[0] in (".", "..") for each in segments)
    suspicious = text.startswith(("/", "\\")) or "//" in path or ":" in path or is_above
    return (
        ""
        if suspicious or not (text.isascii() and text.isprintable()) or len(text) > _MAX_TARGET
        else text
    )


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of server-sent events."""

    body: BodyStream


Answer = Page | SeeOther | Download | Stream


class ApiError(Exception):
    """The API refused the request of a page.

    Attributes:
        status: the status of the response.
        code: the error code.
        message: what happened.
        hint: what the user can do.
        field: the path of the member of the body that is wrong; empty if the error names none.
    """

    def __init__(self, response: Response, *, hides_values: bool = False) -> None:
        """Read an error response.

        Args:
            response: the response.
            hides_values: whether to leave out the values that a schema refuses: they may be among
                those that the dashboard hides.
        """
        error = orjson.loads(response.body)["error"]
        self.status = response.status
        self.code = str(error.get("code", ""))
        self.message = str(error.get("message", ""))
        refused = error.get("details", {}).get("validation_errors")
        if hides_values and refused is not None:
            places = ", ".join(each["pointer"] or "/" for each in error["details"]["errors"])
            self.message = _(
                "the args do not match the schema of their type at %(places)s", places=places
            )
        self.hint = str(error.get("hint") or error.get("details", {}).get("hint") or "")
        self.field = str(error.get("details", {}).get("field", ""))
        super().__init__(self.message)

    @property
    def what(self) -> str:
        """What happened, as the beginning of a sentence."""
        return f"{self.message[:1].upper()}{self.message[1:]}"

    @property
    def advice(self) -> str:
        """What people can do; empty if the hint is about the body of a request.

        People have filled in a form, and have not written that body.
        """
        return "" if self.code in _HINTS_ABOUT_BODIES else self.hint

    @property
    def sentence(self) -> str:
        """What happened and what to do, for a note."""
        return f"{self.what}. {self.advice}".rstrip()


@dataclass(frozen=True, slots=True)
class Visit:
    """One request for a page.

    Attributes:
        app: the state of the process.
        settings: the settings of the dashboard.
        snapshots: the replies that viewers share.
        pages: the refreshed pages that viewers share.
        head: the request of the browser.
        principal: the user.
        root: the relative address of the dashboard, such as ``../``.
        here: the relative address of the page below the dashboard, with its parameters.
        origin: scheme, host and base path by which the browser reaches this server.
        query: the parameters of the address.
        form: the fields of the sent form.
        chosen: the values of the checked boxes named ``id``.
        is_secure: whether the browser uses TLS, to this server or to a trusted proxy.
        has_own_tls: whether the browser uses TLS to this server, which has the host for itself.
        redaction: what the operator hides.
        follows_change: whether the browser comes from a change. The page then shows no shared
            replies, which may be from before the change.
        zone: the time zone in which the user wants to see times; None for times relative to now.
            What viewers share is read without regard to it, and rendered with it.
        language: the language of the pages. What viewers share must have no text in it, or have the
            code of the language in its name.
        workers_by_queue: how many workers serve each queue, which viewers share.
    """

    app: App
    settings: UiSettings
    snapshots: Snapshots[bytes]
    pages: Snapshots[Page]
    head: Request
    principal: Principal
    root: str
    here: str
    origin: str
    query: Mapping[str, str]
    form: Mapping[str, str] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    is_secure: bool = False
    has_own_tls: bool = False
    follows_change: bool = False
    redaction: Redaction = NOTHING
    zone: ZoneInfo | None = None
    language: Language = ENGLISH
    workers_by_queue: Snapshots[WorkersByQueue | None] = field(default_factory=Snapshots)

    @property
    def clock(self) -> ServerClock:
        """The clock of Redis, of which the times on pages are."""
        return self.app.store.clock

    @property
    def has_session(self) -> bool:
        """Whether the browser has sent the cookie of a session, so that it can log out."""
        return "ojs_ui_session=" in self.head.headers.get("cookie", "")

    @property
    def sees_cluster(self) -> bool:
        """Whether the user may see the numbers of the whole cluster."""
        return Scope.ADMIN_READ in self.principal.scopes and self.principal.queues is None

    def may(self, *scopes: Scope) -> bool:
        """Return whether the user's API key has all these scopes."""
        return self.principal.scopes.issuperset(scopes)

    def may_change(self, *scopes: Scope) -> bool:
        """Return whether to offer an action that needs these scopes."""
        return self.settings.mode == "full" and self.may(*scopes)

    @property
    def page(self) -> int:
        """The number of the page of a list; 1 if the address has none."""
        return number_of_page(self.query.get("page", ""))

    def back(self, note: str, default: str = "") -> SeeOther:
        """Return to the page that has sent the form, and show a note there."""
        return SeeOther(self.root + local_target(self.form.get("back", default)), note)

    def url(self, *segments: str, **query: Any) -> str:
        """Return the relative address of a page. Parameters without a value are left out."""
        path = self.root + "/".join(quote(segment, safe="") for segment in segments)
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return f"{path}?{urlencode(given)}" if given else path

    async def get(self, *segments: str, **query: Any) -> bytes:
        """Return the body of an API response.

        Args:
            *segments: the segments of the path after ``/ojs/v1``.
            **query: the parameters; those without a value are left out.

        Raises:
            ApiError: the API refused the request.
        """
        return self._body(await self._call("GET", segments, query))

    async def stream(self, *segments: str, **query: Any) -> BodyStream:
        """Return the body of an API response that is a stream of events.

        Raises:
            ApiError: the API refused the request.
        """
        response = await self._call("GET", segments, query)
        self._body(response)
        if response.stream is None:
            raise RuntimeError("the response is no stream")
        return response.stream

    async def shared(self, *segments: str, **query: Any) -> bytes:
        """Return what ``get`` returns, for a request that needs the scope ``ojs:admin:read``.

        Viewers who may see the whole cluster share the response for a short time. It counts as a
        request of each of them.

        Raises:
            ApiError: the API refused the request.
            RateLimited: the user has made too many requests.
        """
        if not self.sees_cluster:
            return await self.get(*segments, **query)
        name = _snapshot_name(segments, query)
        if self.follows_change:
            body = await self.get(*segments, **query)
            self.snapshots.forget(name)  # so that the pages after this one show the change, too
            return body
        self.app.access.count_request(self.principal)
        neutral = self.as_any_viewer()
        return await self.snapshots.get(name, lambda: neutral.get(*segments, **query))

    def as_any_viewer(self) -> Visit:
        """Return the same visit by a viewer of the whole cluster who has no request rate.

        What viewers share is read by such a visit: later viewers cause the same reads again, which
        must not use the key and the rate of the first one. Nor do they keep its cookie in memory.
        """
        given = self.head
        kept = {name: value for name, value in given.headers.items() if name == "hx-request"}
        head = Request(given.method, given.path, given.query, kept, peer=given.peer)
        return replace(self, principal=_SHARED, head=head)

    @property
    def is_refresh(self) -> bool:
        """Whether the page is open already and asks for its present content."""
        return "hx-request" in self.head.headers

    async def shared_or_last(self, *segments: str, **query: Any) -> Aged[bytes] | None:
        """Return what ``shared`` returns, or its last value while a master does not answer.

        Returns:
            The body and its age, 0 for a current one; None if there is no earlier value that the
            user may see.

        Raises:
            ApiError: the API refused the request.
        """
        try:
            body = await await_while_healthy(self.app, lambda: self.shared(*segments, **query))
        except ApiError as error:
            if error.status < _SERVER_ERROR:
                raise
            body = None
        if body is not None:
            return Aged(body, 0.0)
        return self.snapshots.last(_snapshot_name(segments, query)) if self.sees_cluster else None

    async def send(
        self,
        method: str,
        *segments: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        action: str = "",
    ) -> bytes:
        """Make a change by the API and return the body of the response.

        Args:
            method: the method.
            *segments: the segments of the path after ``/ojs/v1``.
            body: the body: bytes of JSON, or a value; None for no body.
            query: the parameters.
            action: the name of the change in the audit, if the API has none.

        Raises:
            ApiError: the API refused the change.
        """
        raw = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
        return self._body(await self._call(method, segments, query or {}, raw, action))

    async def _call(
        self,
        method: str,
        segments: tuple[str, ...],
        query: Mapping[str, Any],
        body: bytes = b"",
        action: str = "",
    ) -> Response:
        given = self.head.headers
        headers = {name: given[name] for name in _FORWARDED if name in given}
        self.head.on_wait()  # a page is not read to its end after the browser has left it
        if body:
            headers["content-type"] = "application/json"
        path = "/ojs/v1/" + "/".join(quote(segment, safe="") for segment in segments)
        sent = {name: value for name, value in query.items() if value not in (None, "")}
        request = PageRequest(
            method,
            path,
            urlencode(sent),
            headers,
            body,
            peer=self.head.peer,
            principal=self.principal,
        )
        return await call_as(self.app, request, action)

    def _body(self, response: Response) -> bytes:
        if response.status >= 400:
            raise ApiError(response, hides_values=self.redaction.active)
        return response.body


def number_of_page(text: str) -> int:
    """Return the number of a page in an address; 1 if the text is no such number."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_PAGE_DIGITS
    return max(1, int(text)) if is_number else 1


def _snapshot_name(segments: tuple[str, ...], query: Mapping[str, Any]) -> str:
    return f"{segments} {sorted(query.items())}"
