"""The HTTP client of webhooks: one POST on a connection of its own, to a checked address.

Most features of HTTP clients would be wrong here: proxies of the environment, redirects, cookies,
retries, decompression. h11, which hypercorn uses too, reads the response. (Refused: httpx and
httpcore. They resolve the name themselves, so the connection may go to an unchecked address. They
would also be two more dependencies of the image.)

An attempt reads at most ``MAX_RESPONSE`` bytes of the body and takes at most ``timeout_s``. So a
receiver that is slow, or that never stops sending, uses limited time and memory.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

import h11
import trio

from ojs_cluster.webhooks.addresses import RefusedAddress, WebhookUrl, check_addresses
from ojs_cluster.webhooks.resolver import Resolver
from ojs_cluster.webhooks.settings import WebhookSettings

MAX_RESPONSE: Final = 4096
"""Maximum number of bytes of a response body that are read."""
_MAX_HEAD: Final = 16 * 1024
_READ: Final = 4096
_BODY_S: Final = 2.0
"""Maximum time in seconds to read the response's body. Only the status decides whether the attempt
succeeded."""
_CONNECT_S: Final = 10.0
"""Maximum time in seconds to connect to one of several addresses."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host; raises OSError."""


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The result of one attempt.

    Attributes:
        status: the status of the response; 0 if there was none.
        error: why there was no response; empty if there was one.
        body: the beginning of the response's body.
        elapsed_ms: how long the attempt took, in ms.
        retry_after_s: the time of the header ``Retry-After`` in seconds; None without one.
    """

    status: int
    error: str
    body: bytes
    elapsed_ms: int
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver has accepted the request."""
        return 200 <= self.status < 300


class WebhookClient:
    """Sends webhook requests.

    Args:
        settings: the settings.
        resolve: looks up names; None for the resolver of the machine.
    """

    def __init__(self, settings: WebhookSettings, resolve: Resolve | None = None) -> None:
        self._settings = settings
        self._resolve = resolve or Resolver()

    async def post(
        self,
        url: WebhookUrl,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        *,
        timeout_s: float | None = None,
    ) -> AttemptResult:
        """Send one request. Errors of the receiver or the network are in the result, not raised.

        Args:
            url: the URL.
            headers: the headers without ``Host``, ``Connection`` and ``Content-Length``.
            body: the body.
            timeout_s: maximum time in seconds; None for ``settings.timeout_s``.
        """
        began = trio.current_time()
        head, content, error = None, b"", ""
        try:
            with trio.fail_after(timeout_s or self._settings.timeout_s):
                head, content = await self._exchange(url, headers, body)
        except trio.TooSlowError:
            error = "no response in time"
        except RefusedAddress as refused:
            error = str(refused)
        except (socket.gaierror, UnicodeError):
            error = "the host name cannot be resolved"
        except (OSError, trio.BrokenResourceError) as failure:
            error = _reason(failure)
        except h11.RemoteProtocolError:
            error = "the response is not HTTP/1.1"
        elapsed_ms = math.ceil((trio.current_time() - began) * 1000)
        if head is None:
            return AttemptResult(0, error, b"", elapsed_ms)
        return AttemptResult(head.status_code, "", content, elapsed_ms, _retry_after_s(head))

    async def _exchange(
        self, url: WebhookUrl, headers: Sequence[tuple[str, str]], body: bytes
    ) -> tuple[h11.Response, bytes]:
        addresses = list(dict.fromkeys(await self._resolve(url.host, url.port)))
        check_addresses(addresses, self._settings.allow_cidrs)
        stream = await _connect(addresses, url.port)
        try:
            if url.secure:
                stream = trio.SSLStream(
                    stream,
                    _tls_context(),
                    server_hostname=url.host,
                    https_compatible=True,
                )
            return await _converse(stream, url, headers, body)
        finally:
            # Closing TLS normally would wait for the receiver.
            await trio.aclose_forcefully(stream)


async def _connect(addresses: Sequence[str], port: int) -> trio.abc.Stream:
    failure: OSError = OSError("the host has no address")
    for address in addresses:
        try:
            with trio.fail_after(_CONNECT_S):
                return await trio.open_tcp_stream(address, port)
        except trio.TooSlowError:
            failure = TimeoutError(errno.ETIMEDOUT, "timed out")
        except OSError as error:
            # The error of open_tcp_stream has no errno; its cause has.
            cause = error.__cause__
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            failure = cause if isinstance(cause, OSError) else error
    raise failure


async def _converse(
    stream: trio.abc.Stream,
    url: WebhookUrl,
    headers: Sequence[tuple[str, str]],
    body: bytes,
) -> tuple[h11.Response, bytes]:
    """Send the request; return the head of the response and at most ``MAX_RESPONSE`` body bytes."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    request = h11.Request(
        method="POST",
        target=url.target,
        headers=[
            ("Host", url.authority),
            ("Accept", "*/*"),
            ("Connection", "close"),
            ("Content-Length", str(len(body))),
            *headers,
        ],
    )
    data = [connection.send(each) for each in (request, h11.Data(data=body), h11.EndOfMessage())]
    await stream.send_all(b"".join(piece for piece in data if piece))
    event = await _next_event(connection, stream)
    while isinstance(event, h11.InformationalResponse):
        event = await _next_event(connection, stream)
    if not isinstance(event, h11.Response):
        raise h11.RemoteProtocolError("the connection was closed without a response")
    content = b""
    with trio.move_on_after(_BODY_S), suppress(h11.RemoteProtocolError, trio.BrokenResourceError):
        while len(content) < MAX_RESPONSE:
            part = await _next_event(connection, stream)
            if not isinstance(part, h11.Data):
                break
            content += bytes(part.data)
    return event, content[:MAX_RESPONSE]


async def _next_event(connection: h11.Connection, stream: trio.abc.Stream) -> object:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        connection.receive_data(bytes(await stream.receive_some(_READ)))


def _reason(failure: BaseException) -> str:
    """Return why a connection failed, without its address, which clients must not learn."""
    cause = failure.__cause__ if isinstance(failure, trio.BrokenResourceError) else failure
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {cause.reason or 'failed'}"
    if isinstance(cause, OSError) and cause.errno:
        return f"connection failed: {os.strerror(cause.errno)}"
    return f"connection failed: {type(cause).__name__ if cause else 'closed'}"


def _retry_after_s(head: h11.Response) -> float | None:
    """Return the seconds that ``Retry-After`` asks for (RFC 9110 10.2.3)."""
    for name, value in head.headers:
        if name == b"retry-after":
            text = value.decode("latin-1").strip()
            if text.isascii() and text.isdigit() and len(text) < 10:
                return float(text)
            try:
                from_now = parsedate_to_datetime(text).timestamp() - time.time()
            except (ValueError, OverflowError):
                return None
            return max(0.0, from_now)
    return None


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Return a context that trusts the authorities of the machine, or of ``SSL_CERT_FILE``."""
    return ssl.create_default_context()
