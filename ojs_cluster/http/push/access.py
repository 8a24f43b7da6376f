"""Check the API key of an open stream again.

A stream may outlive its API key. So each stream checks every few seconds that its key still exists,
has not expired, and gives the same access as when the stream was opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.access.scopes import ANONYMOUS, Principal, Scope
from ojs_cluster.core.errors import OJSError, Unauthenticated
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import PageRequest, Request

STREAM_SCOPE: Final = Scope.DATA_READ
"""The scope that a client needs to open a stream."""


class ReplayStopped(Exception):
    """A stream ends while it sends the events that its client has missed."""


@dataclass(frozen=True, slots=True)
class StreamAccess:
    """The access of the client of one stream.

    Args:
        app: the process.
        request: the request that has opened the stream, with the queues that its key may access.
        scope: the scope that the API key must keep.
    """

    app: App
    request: Request
    scope: Scope

    @property
    def client_name(self) -> str:
        """``key NAME`` with the name of the API key, or ``address ADDRESS`` without an API key."""
        principal = self._principal()
        if principal is ANONYMOUS:
            return f"address {self.app.audit.client_of(self.request)}"
        return f"key {principal.name}"

    def is_valid(self) -> bool:
        """Return whether the client may still get the events of its stream."""
        try:
            principal = self._principal()
        except OJSError:
            return False
        return (
            self.scope in principal.scopes
            and principal.queues == self.request.queues
            and principal.tenant in (None, self.request.tenant)
        )

    def _principal(self) -> Principal:
        """Return the owner of the API key, or the user of a page.

        Raises:
            Unauthenticated: the API key is not accepted any more.
        """
        request = self.request
        if isinstance(request, PageRequest):
            if not self.app.access.is_current(request.principal):
                raise Unauthenticated("the API key of the session is not accepted any more")
            return request.principal
        return self.app.access.authenticate(
            request.headers.get("authorization"), request.tls_subject
        )

    def check_replay(self) -> None:
        """Check that a replay may send further events. A replay may last for minutes.

        Raises:
            ReplayStopped: the process stops, or the API key is no longer valid.
        """
        if self.app.draining.is_set() or not self.is_valid():
            raise ReplayStopped
