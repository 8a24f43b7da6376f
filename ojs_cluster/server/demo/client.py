"""Send requests of the demo to the API, as a producer or a worker would.

The server itself needs no HTTP client, so the demo uses that of the standard library, in threads.
"""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import Any, Final

import orjson
import trio

_TIMEOUT_S: Final = 15.0
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - an address to replace
_CONFLICT: Final = 409


class DemoError(Exception):
    """The server did not answer, or refused a request of the demo."""


@dataclass(frozen=True, slots=True)
class DemoClient:
    """A client of the API.

    Attributes:
        host: the address that the server listens on.
        port: its port.
        key: the API key; empty if the server needs none.
    """

    host: str
    port: int
    key: str = ""

    async def send(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the parsed body of the response.

        A conflict is no error: the user of the dashboard may have been faster.

        Args:
            method: the method.
            path: the path after ``/ojs/v1``.
            body: what to send as JSON; None for no body.

        Raises:
            DemoError: the server did not answer within 15 seconds, or refused the request.
        """
        content = b"" if body is None else orjson.dumps(body)
        status, reply = await trio.to_thread.run_sync(
            self._send, method, path, content, abandon_on_cancel=True
        )
        if status >= 400 and status != _CONFLICT:
            raise DemoError(f"{method} {path}: {status} {reply[:200].decode(errors='replace')}")
        return orjson.loads(reply) if reply else {}

    def _send(self, method: str, path: str, content: bytes) -> tuple[int, bytes]:
        host = _ANY.get(self.host.strip("[]"), self.host.strip("[]"))
        connection = http.client.HTTPConnection(host, self.port, timeout=_TIMEOUT_S)
        headers = {"Content-Type": "application/json"} if content else {}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            connection.request(method, f"/ojs/v1{path}", content, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DemoError(f"{method} {path}: {error}") from error
        finally:
            connection.close()
