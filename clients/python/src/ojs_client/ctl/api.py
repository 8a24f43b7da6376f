"""HTTP requests of ``ojsctl``.

A command sends few requests, one after the other, so this is httpx2 without an event loop. A
failed request is not repeated: an operator should see that the server does not answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click
import httpx2

from ojs_client._version import __version__
from ojs_client.ctl.profile import Connection
from ojs_client.ctl.text import safe
from ojs_client.errors import ApiError, ConnectionFailed, api_error, refuses_cursor
from ojs_client.options import JSON
from ojs_client.transport import encode, warnings_of

V1: Final = "/ojs/v1"
ADMIN: Final = f"{V1}/admin"
_TYPE: Final = "application/openjobspec+json"
_PAGE: Final = 100
"""Number of entries of a page, which every list of the server allows."""
_MAX_DIGITS: Final = 4000
"""Maximum digits of an integer that Python reads from text. A longer one stays text."""


class Api:
    """Sends requests to the server of a connection.

    Args:
        connection: the address of the server, and its key.
        timeout_s: how long a request may take, in seconds.
    """

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self.url: str = connection.url
        headers = {"Accept": _TYPE, "User-Agent": f"ojsctl/{__version__}"}
        if connection.api_key:
            headers["Authorization"] = f"Bearer {connection.api_key}"
        self._http = httpx2.Client(base_url=connection.url, headers=headers, timeout=timeout_s)
        self.last_headers: Mapping[str, str] = {}
        """The headers of the last response."""

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **params: str | int | None) -> Any:
        """Return the response to a GET. Parameters that are None or empty are left out."""
        return self.request("GET", path, params=params)

    def post(self, path: str, body: JSON = None) -> Any:
        """Return the response to a POST."""
        return self.request("POST", path, body)

    def request(
        self,
        method: str,
        path: str,
        body: JSON = None,
        *,
        params: Mapping[str, str | int | None] | None = None,
        timeout_s: float | None = None,
        also: Sequence[int] = (),
    ) -> Any:
        """Send a request and return the decoded response; an empty one is an empty object.

        Args:
            method: the HTTP method.
            path: the path.
            body: the body; None for none.
            params: the query, without the members that are None or empty.
            timeout_s: how long it may take, in seconds; None for the timeout of all requests.
            also: statuses of 400 and above whose response is returned, not raised.

        Raises:
            ApiError: the server answered with an error.
            ConnectionFailed: the server did not answer.
        """
        response = self._send(method, path, body, params, timeout_s)
        decoded = _decoded(response.content)
        self.last_headers = response.headers
        if response.status_code < 300 or response.status_code in also:
            if decoded is None and response.content:
                raise ConnectionFailed(f"the response from {self.url} is not JSON", applied=None)
            if method != "GET" and isinstance(decoded, dict):
                for warning in warnings_of(decoded):
                    click.echo(safe(f"Warning: {warning}"), err=True)
            return decoded or {}
        raise api_error(
            response.status_code,
            decoded,
            retry_after=response.headers.get("retry-after"),
            request_id=response.headers.get("x-request-id", ""),
        )

    def pages(
        self, path: str, key: str, limit: int | None, **params: str | int | None
    ) -> Iterator[Any]:
        """Yield the entries of a list, page by page.

        Args:
            path: the path of the list.
            key: the member of a page that has its entries.
            limit: the maximum number of entries; None for all.
            **params: the query, without the members that are None or empty.

        Raises:
            ApiError: the server answered with an error.
            ConnectionFailed: the server did not answer, or something else answered.
        """
        place: dict[str, str | int] = {}
        count = 0
        while limit is None or count < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - count)
            try:
                page = self.request("GET", path, params={**params, "limit": size, **place})
            except ApiError as error:
                # A search has no offsets.
                if "cursor" not in place or params.get("query") or not refuses_cursor(error):
                    raise
                place = {"offset": count}
                continue
            entries = page.get(key) if isinstance(page, dict) else None
            if not isinstance(entries, list):
                raise ConnectionFailed(
                    f"{self.url} answers without '{key}': is it an OJS server?", applied=None
                )
            entries = entries[:size]
            yield from entries
            count += len(entries)
            cursor = page.get("pagination", {}).get("next_cursor")
            if not cursor:
                return
            place = {"cursor": cursor}

    @contextmanager
    def stream(
        self, path: str, params: Mapping[str, str | None], last_id: str, idle_s: float
    ) -> Iterator[Iterator[str]]:
        """Open a stream of server-sent events.

        Args:
            path: the path.
            params: the query, without the members that are None or empty.
            last_id: the id of the last event that was read; empty for none.
            idle_s: how long the server may send nothing, in seconds.

        Yields:
            The lines of the stream.

        Raises:
            ApiError: the server answered with an error.
            ConnectionFailed: the server did not answer, or the stream broke.
        """
        headers = {"Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        try:
            with self._http.stream(
                "GET", path, params=_given(params), headers=headers, timeout=idle_s
            ) as response:
                if response.status_code >= 300:
                    response.read()
                    raise api_error(response.status_code, _decoded(response.content))
                yield response.iter_lines()
        except httpx2.HTTPError as error:
            raise self._failed(error) from error

    def _send(
        self,
        method: str,
        path: str,
        body: JSON,
        params: Mapping[str, str | int | None] | None,
        timeout_s: float | None,
    ) -> Any:
        content = None if body is None else encode(body)
        options: dict[str, Any] = {} if timeout_s is None else {"timeout": timeout_s}
        if content is not None:
            options["headers"] = {"Content-Type": _TYPE}
        try:
            return self._http.request(
                method, path, content=content, params=_given(params or {}), **options
            )
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> ConnectionFailed:
        reason = str(error) or type(error).__name__
        return ConnectionFailed(f"no answer from {self.url}: {reason}", applied=None)


def _given(params: Mapping[str, str | int | None]) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if value not in (None, "")}


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content, parse_int=_whole_number) if content else None
    except (ValueError, RecursionError):
        return None


def _whole_number(text: str) -> int | str:
    return int(text) if len(text) <= _MAX_DIGITS else text
