"""What a handler is given and what it answers: no framework, no socket.

Both doors (Quart on hypercorn, and the fast lane) build a `Request` and send a `Response`. They are
structs of msgspec, as are jobs on their way: a frozen dataclass takes six times as long to make.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ojs_cluster.core.access.scopes import QueuePatterns

Headers = tuple[tuple[str, str], ...]

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


def _nobody_minds() -> None:
    pass


class Request(msgspec.Struct, frozen=True):
    """One HTTP request.

    ``path`` and ``query`` are as they came, not percent-decoded: a ``%2F`` inside a segment must
    not become a separator. ``headers`` has lower-case names; repeated ones are joined by ", ".
    ``on_wait`` is called by a handler that begins to wait for something that may take long; a door
    that does not watch its client all the time begins to do so then. ``tls_subject`` is the subject
    of the client's verified certificate, empty for none. ``peer`` is the address that the
    connection came from, a proxy's perhaps; empty when it is not known. ``queues`` are those that
    the client's API key may reach, None for every queue; the dispatcher sets it.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = _NO_HEADERS
    body: bytes = b""
    on_wait: Callable[[], None] = _nobody_minds
    tls_subject: str = ""
    peer: str = ""
    queues: QueuePatterns | None = None


class Response(msgspec.Struct, frozen=True):
    """One HTTP response. Headers that every response has are added by the dispatcher.

    ``undelivered`` undoes what the client was not told about: a door awaits it when the client
    was gone before the body was handed to the network. It must be quick and bounded in time, as
    a door shields it from cancellation. ``made`` gives the ids of what was made or changed; who
    cannot send this response after all tells them in its place. ``code`` is the code of an error.
    ``about`` names what was changed, for the audit, where the path does not.
    """

    status: int
    body: bytes
    headers: Headers = ()
    undelivered: Callable[[], Awaitable[None]] | None = None
    made: Callable[[], Mapping[str, Any]] | None = None
    code: str = ""
    about: str = ""


def joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by lower-case name; the values of repeated ones are joined by ", "."""
    headers: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in headers:
            repeated.setdefault(name, []).append(value)
        else:
            headers[name] = value
    # Joined at the end: one by one takes quadratic time, and nobody has shown a key yet.
    for name, values in repeated.items():
        headers[name] = ", ".join([headers[name], *values])
    return headers
