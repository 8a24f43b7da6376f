"""The HTTP client of webhooks: each request is a POST to a checked address (``outgoing/``).

A connection carries the next request to the same receiver, so neither the name is looked up again
nor TLS negotiated. Its address was checked when it was opened.

An attempt reads at most ``MAX_RESPONSE`` bytes of the body and takes at most ``timeout_s``. So a
receiver that is slow, or that never stops sending, uses limited time and memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

import h11
import trio

from ojs_cluster.outgoing.exchange import FAILURES, OutgoingConnection, reason_of
from ojs_cluster.outgoing.kept_connections import KeptConnections
from ojs_cluster.outgoing.resolver import Resolve, Resolver
from ojs_cluster.outgoing.url import HttpUrl
from ojs_cluster.webhooks.addresses import RefusedAddress, check_addresses
from ojs_cluster.webhooks.settings import WebhookSettings

MAX_RESPONSE: Final = 4096
"""Maximum number of bytes of a response body that are read."""
_BODY_S: Final = 2.0
"""Maximum time in seconds to read the response's body. Only the status decides whether the attempt
succeeded."""


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
        max_idle: maximum number of idle connections. With 0, each request has a connection of its
            own; otherwise the caller must call ``close``.
    """

    def __init__(
        self, settings: WebhookSettings, resolve: Resolve | None = None, *, max_idle: int = 0
    ) -> None:
        self._settings = settings
        self._resolve = resolve or Resolver()
        self._kept = KeptConnections(max_idle)

    def close(self) -> None:
        """Close the idle connections."""
        self._kept.close()

    async def post(
        self,
        url: HttpUrl,
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
        except FAILURES as failure:
            error = reason_of(failure)
        elapsed_ms = math.ceil((trio.current_time() - began) * 1000)
        if head is None:
            return AttemptResult(0, error, b"", elapsed_ms)
        return AttemptResult(head.status_code, "", content, elapsed_ms, _retry_after_s(head))

    async def _exchange(
        self, url: HttpUrl, headers: Sequence[tuple[str, str]], body: bytes
    ) -> tuple[h11.Response, bytes]:
        kept = self._kept.pop(url)
        if kept is not None:
            # The receiver may have closed it. Then it has not read the request, or gets it twice.
            with suppress(*FAILURES):
                return await self._ask(kept, url, headers, body)
        addresses = list(dict.fromkeys(await self._resolve(url.host, url.port)))
        check_addresses(addresses, self._settings.allow_cidrs)
        connection = await OutgoingConnection.open(url, addresses)
        return await self._ask(connection, url, headers, body)

    async def _ask(
        self,
        connection: OutgoingConnection,
        url: HttpUrl,
        headers: Sequence[tuple[str, str]],
        body: bytes,
    ) -> tuple[h11.Response, bytes]:
        reusable = False
        try:
            given = [("Accept", "*/*"), *headers]
            if not self._kept.maximum:
                given.append(("Connection", "close"))
            found = await connection.ask(
                url, "POST", given, body, max_body=MAX_RESPONSE, body_s=_BODY_S
            )
            reusable = connection.renew()
            return found
        finally:
            if reusable:
                self._kept.keep(url, connection)
            else:
                connection.close()


def _retry_after_s(head: h11.Response) -> float | None:
    """Return the seconds that ``Retry-After`` asks for (RFC 9110 10.2.3).

    A date in it is a time of the receiver's clock, as ``Date`` is.
    """
    found = {name: value.decode("latin-1").strip() for name, value in head.headers}
    text = found.get(b"retry-after", "")
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(found.get(b"date", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, wait.total_seconds())
