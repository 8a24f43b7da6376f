"""HTTP requests to an OJS server: encoding, errors, and repetition."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import anyio

from ojs_client._version import __version__
from ojs_client.backoff import Backoff
from ojs_client.errors import ApiError, ConnectionFailed, OJSError, api_error
from ojs_client.http.addresses import DEFAULT_URL, server_address, shown_address
from ojs_client.http.connections import NoResponse, NotSent
from ojs_client.http.response_parser import Response
from ojs_client.http.senders import sender_for
from ojs_client.http.streams import Streams
from ojs_client.options import JSON
from ojs_client.values import to_json

log: Final = logging.getLogger("ojs_client")

_TYPE: Final = "application/openjobspec+json"
_V1: Final = "/ojs/v1"
_IN_BATCH: Final = re.compile(r"jobs\[(\d+)\]: (.*)", re.DOTALL)
_encode: Final = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=to_json
).encode


class Repeat(Enum):
    """When a request may be sent again after a failure."""

    ALWAYS = "always"
    """The request has the same effect however often it arrives."""
    UNLESS_APPLIED = "unless applied"
    """Only if the server has certainly not applied it."""
    NEVER = "never"
    """The caller decides."""


def encode(value: JSON) -> bytes:
    """Return a value as JSON. ``register_type`` adds types that have a JSON form.

    Raises:
        TypeError: the value has no JSON form.
        ValueError: the value has no JSON form, such as NaN or half of a surrogate pair.
        RecursionError: the value is nested too deeply.
    """
    return _encode(value).encode()


def segment(text: str) -> str:
    """Return a text as one segment of a path.

    Raises:
        ValueError: it is empty or a relative path, which would name another resource.
    """
    if text in ("", ".", ".."):
        raise ValueError(f"an id or a name must not be {text!r}")
    return quote(text, safe="")


class Transport:
    """Sends requests to one server.

    Args:
        url: the address of the server; None for ``OJS_URL``, or port 8080 of this machine.
        api_key: the API key; None for ``OJS_API_KEY``. If both are missing, none is sent.
        timeout_s: how long a request may take, in seconds.
        retry_for_s: for how many seconds a failed request is repeated.
        headers: more headers of each request.
        max_connections: the maximum number of connections.
        transport: how httpx2 reaches the server, for tests and special networks; None for the
            library's own connections, or for httpx2 if the environment names a proxy.

    Raises:
        ValueError: the address does not begin with http:// or https://.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retry_for_s: float = 10.0,
        headers: Mapping[str, str] | None = None,
        max_connections: int = 100,
        transport: Any = None,
    ) -> None:
        address = server_address(url or os.environ.get("OJS_URL") or DEFAULT_URL)
        self.url: str = shown_address(address)
        """The address of the server, without a user name and a password."""
        self.timeout_s = timeout_s
        self.retry_for_s = retry_for_s
        key = api_key or os.environ.get("OJS_API_KEY")
        sent = {"Content-Type": _TYPE, "Accept": _TYPE, "User-Agent": f"ojs-client/{__version__}"}
        if key:
            sent["Authorization"] = f"Bearer {key}"
        all_headers = {**sent, **(headers or {})}
        self._streams = Streams(address, all_headers, transport)
        self._sender = sender_for(
            address,
            all_headers,
            max_connections=max_connections,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        """Open the connections."""
        await self._sender.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._sender.close()

    async def request(
        self,
        method: str,
        path: str,
        body: JSON | bytes = None,
        *,
        repeat: Repeat = Repeat.UNLESS_APPLIED,
        timeout_s: float | None = None,
        params: Mapping[str, str] | None = None,
        also: Sequence[int] = (),
    ) -> Any:
        """Send a request and return its response; after a failure, repeat it if ``repeat`` allows.

        Args:
            method: the HTTP method.
            path: the path after ``/ojs/v1``.
            body: the body: JSON as bytes, or a value; None for no body.
            repeat: when the request may be sent again.
            timeout_s: how long one try may take, in seconds; None for the client's timeout.
            params: the query.
            also: statuses of 300 and above whose response is returned, not raised.

        Returns:
            The decoded body, an object.

        Raises:
            ApiError: the server answered with an error.
            ConnectionFailed: the server did not answer.
        """
        content = body if isinstance(body, bytes) or body is None else encode(body)
        backoff = Backoff()
        give_up_at = anyio.current_time() + self.retry_for_s
        earlier_applied: bool | None = False
        while True:
            try:
                return await self._send(method, path, content, timeout_s, params, also)
            except (ApiError, ConnectionFailed) as error:
                if earlier_applied is None:
                    error.applied = None  # the error is about this try only
                earlier_applied = error.applied
                wait_s = backoff.next_s(error.retry_after_s)
                if not may_repeat(error, repeat) or anyio.current_time() + wait_s > give_up_at:
                    raise
                log.info("repeats %s %s in %.1f s: %s", method, path, wait_s, error)
            await anyio.sleep(wait_s)

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], last_id: str
    ) -> AsyncIterator[AsyncIterator[str] | None]:
        """Open a stream of server-sent events, and yield its lines; None if it has ended.

        Args:
            path: the path after ``/ojs/v1``.
            params: the query.
            last_id: the id of the last event that was read; empty for none.

        Raises:
            ApiError: the server answered with an error.
            ConnectionFailed: the server did not answer, or the connection broke.
        """
        try:
            async with self._streams.lines(_V1 + path, params, last_id) as lines:
                if not isinstance(lines, Response):
                    yield lines
                elif lines.status == 204:
                    yield None
                else:
                    raise _error_of(lines)
        except (NotSent, NoResponse) as error:
            raise ConnectionFailed(f"no answer from {self.url}: {error}", applied=False) from error

    async def _send(
        self,
        method: str,
        path: str,
        content: bytes | None,
        timeout_s: float | None,
        params: Mapping[str, str] | None,
        also: Sequence[int],
    ) -> Any:
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            response = await self._sender.send(method, _V1 + path, content, params, limit_s)
        except NotSent as error:
            raise ConnectionFailed(f"no answer from {self.url}: {error}", applied=False) from error
        except NoResponse as error:
            raise ConnectionFailed(f"no answer from {self.url}: {error}", applied=None) from error
        decoded = _decoded(response)
        if response.status < 300 or response.status in also:
            if not isinstance(decoded, dict):
                raise ConnectionFailed(f"the response from {self.url} is not JSON", applied=None)
            for warning in warnings_of(decoded):
                log.warning("%s", warning)
            return decoded
        raise _error_of(response)


def _decoded(response: Response) -> Any:
    try:
        return json.loads(response.body) if response.body else None
    except ValueError:
        return None


def _error_of(response: Response) -> ApiError:
    return api_error(
        response.status,
        _decoded(response),
        retry_after=response.headers.get("retry-after"),
        request_id=response.headers.get("x-request-id", ""),
    )


def warnings_of(reply: Mapping[str, JSON]) -> Iterator[str]:
    """Yield the warnings of a response, such as an option that the server does not know.

    Each begins with the job, workflow or cron job that it is about. The request has had its effect,
    so a malformed response raises no error.
    """
    texts, jobs = reply.get("warnings"), reply.get("jobs")
    whole = next((kind for kind in ("job", "workflow", "cron") if reply.get(kind)), "")
    for text in texts if isinstance(texts, list) else ():
        kind, about, found = whole, reply.get(whole), _IN_BATCH.match(str(text))
        if found is not None and isinstance(jobs, list):
            kind, about, text = "job", dict(enumerate(jobs)).get(int(found[1])), found[2]
        known = isinstance(about, dict) and about.get("id")
        yield f"{kind} {known}: {text}" if known else str(text)


def may_repeat(error: OJSError, repeat: Repeat) -> bool:
    """Return whether a request that failed with this error may be sent again."""
    if repeat is Repeat.NEVER:
        return False
    if isinstance(error, ApiError) and not error.retryable:
        return False
    if not isinstance(error, ApiError | ConnectionFailed):
        return False
    return repeat is Repeat.ALWAYS or error.applied is False
