"""Requests and responses of handlers, independent of frameworks and sockets.

Both entry points (Quart on hypercorn, and the fast lane) build a ``Request`` and send a
``Response``. Both classes are msgspec structs, because creating a frozen dataclass takes six times
as long.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from ojs_cluster.core.access.scopes import ANONYMOUS, Principal, QueuePatterns

Headers = tuple[tuple[str, str], ...]
WITHOUT_BODY: Final = frozenset({204, 304})
"""Statuses of responses that have no body, and no length of one (RFC 9110 8.6)."""

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


def _ignore_wait() -> None:
    pass


class Request(msgspec.Struct, frozen=True):
    """One HTTP request.

    Attributes:
        method: the method.
        path: the raw path, not percent-decoded: a ``%2F`` inside a segment must not become a
            separator.
        query: the raw query string.
        headers: values by lower-case name; those of a repeated header are joined by ", ".
        body: the body.
        on_wait: a function that the handler calls before it waits for a long time. From then on the
            entry point has to notice when the client disconnects.
        tls_subject: the subject of the client's verified certificate, empty for none.
        peer: the address that the connection comes from, which may be a proxy; empty if unknown.
        queues: the queues that the client's API key may access, None for every queue. The
            dispatcher sets it.
        tenant: the tenant that the request is for, None for all tenants. The dispatcher sets it.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = _NO_HEADERS
    body: bytes = b""
    on_wait: Callable[[], None] = _ignore_wait
    tls_subject: str = ""
    peer: str = ""
    queues: QueuePatterns | None = None
    tenant: str | None = None

    @property
    def is_restricted(self) -> bool:
        """Whether the client may access some jobs only."""
        return self.queues is not None or self.tenant is not None

    @property
    def names_version(self) -> bool:
        """Whether the client sends its OJS version, which SDKs do and conformance suites do not.

        SDKs and suites expect some response members in different forms. Handlers choose the form by
        this property.
        """
        return "ojs-version" in self.headers

    @property
    def from_cli(self) -> bool:
        """Whether ojs-cli sent this GET request. It expects some members in a form of its own.

        ojs-cli sends no OJS version, but a Content-Type, although a GET request has no body.
        Conformance suites and browsers send no such Content-Type.
        """
        given = self.headers
        return (
            "content-type" in given
            and "ojs-version" not in given
            and not self.body
            and self.method == "GET"
            and given.get("user-agent", "").startswith("Go-http-client/")
        )


class PageRequest(Request, frozen=True):
    """A request that a page of the dashboard makes for its user, in this process (``internal``).

    Attributes:
        principal: the user, whom the page has authenticated.
    """

    principal: Principal = ANONYMOUS


DIRECT: Final = "ojs.direct"
"""Key of an ASGI scope whose value is the ``DirectOutput`` of its connection."""


class DirectOutput(Protocol):
    """What is below an HTTP/1.1 response, after its head.

    Attributes:
        can_send_now: whether ``send_now`` may be called. With TLS it may not.
    """

    can_send_now: bool

    def send_now(self, data: bytes) -> bool:
        """Send without waiting; return whether all of it is sent.

        The connection sends the rest before anything else, at the latest when ``flush`` is called.
        """
        ...

    async def flush(self) -> None:
        """Send the rest, and wait while the client reads too slowly."""
        ...

    def end_sends(self, deadline: float) -> None:
        """Close the connection if it still sends something at ``deadline``, in trio's seconds."""
        ...


class TaskOutput:
    """The ``DirectOutput`` of a stream that sends every piece by its own task."""

    can_send_now = False

    def __init__(self, direct: DirectOutput) -> None:
        """Send over the connection of ``direct``."""
        self._direct = direct

    def send_now(self, data: bytes) -> bool:
        """Refuse: the pieces of the stream are no chunks of HTTP/1.1."""
        raise RuntimeError("can_send_now is False")

    async def flush(self) -> None:
        """Do nothing: there is no rest."""

    def end_sends(self, deadline: float) -> None:
        """Close the connection if it still sends something at ``deadline``."""
        self._direct.end_sends(deadline)


def task_output(direct: DirectOutput | None) -> DirectOutput | None:
    """Return the ``TaskOutput`` of a connection, None for None."""
    return None if direct is None else TaskOutput(direct)


class BodyStream(Protocol):
    """A body without a known end, such as a stream of events."""

    async def run(
        self, send: Callable[[bytes], Awaitable[None]], _direct: DirectOutput | None = None, /
    ) -> None:
        """Send the body piece by piece; return at its end. Cancelled when the client disconnects.

        Args:
            send: sends a piece, and waits while the client reads too slowly.
            _direct: takes pieces that are chunks of HTTP/1.1 already; None if there is none.
        """

    def close(self) -> None:
        """Release what the stream holds. May be called repeatedly."""


class Response(msgspec.Struct, frozen=True):
    """One HTTP response.

    Attributes:
        status: the status.
        body: the body.
        headers: headers of this response. The dispatcher adds the common ones.
        undo: a function that undoes what the request has done; None if nothing is undone. The entry
            point awaits it when the client disconnects before the body is sent. The call is
            shielded from cancellation, so it must end soon.
        object_ids: a function that returns the ids of created or changed objects. An error that
            replaces this response has these ids in its details.
        code: the error code; empty for success.
        audit_object: the name of the changed object for the audit, if the path does not name it.
        audit_old: the values that the change has replaced, for the audit; None if unknown.
        audited: whether the audit records the response if its route has an ``action``.
        stream: sends the body; None if ``body`` is the body. The entry point closes it.
    """

    status: int
    body: bytes
    headers: Headers = ()
    undo: Callable[[], Awaitable[None]] | None = None
    object_ids: Callable[[], Mapping[str, Any]] | None = None
    code: str = ""
    audit_object: str = ""
    audit_old: Mapping[str, Any] | None = None
    audited: bool = True
    stream: BodyStream | None = None


def join_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers by name; the values of a repeated header are joined by ", ".

    Args:
        pairs: the lower-case names and the values.
    """
    headers: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in headers:
            repeated.setdefault(name, []).append(value)
        else:
            headers[name] = value
    # The values are joined at the end. Appending each value would take quadratic time, which a
    # client without an API key could use for an attack.
    for name, values in repeated.items():
        headers[name] = ", ".join([headers[name], *values])
    return headers


_GZIP: Final = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)


def accepts_gzip(accepted: str) -> bool:
    """Return whether a client accepts gzip; ``accepted`` is the header ``Accept-Encoding``."""
    return _GZIP.search(accepted) is not None
