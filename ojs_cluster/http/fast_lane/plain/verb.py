"""One plain request, and what the verbs share.

A plain request is an enqueue, a fetch or an ack that a script of the fast path may answer alone.
``begin`` sends the command; with the reply, ``page`` renders the response. If either returns None,
the readable path serves the request: from its beginning, or from the reply (``resume``).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from time import perf_counter
from typing import Any, ClassVar, Protocol

from ojs_cluster.http.admission import Admission
from ojs_cluster.http.app import App
from ojs_cluster.http.common_headers import add_common_headers
from ojs_cluster.http.fast_lane.plain.templates import ID, REQUEST_ID, Template, Templates
from ojs_cluster.http.fast_lane.replies import date_line, encode
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_ids import new_request_id
from ojs_cluster.redis.client import SentScript
from ojs_cluster.redis.reply_waiters import Answer
from ojs_cluster.redis.script import Script


class Driver(Protocol):
    """Gets the answers to plain requests."""

    def on_answer(self, call: PlainCall) -> None:
        """Continue the request of ``call``. Must not raise exceptions."""


class PlainCall(SentScript):
    """A plain request, whose command is sent.

    Attributes:
        verb: the verb.
        driver: gets the answer; None if a task waits for it instead.
        body: the body of the request.
        values: what ``verb`` needs to know of the request; each verb has its own.
        request_id: the id of the request, once it is answered.
        began: when the request began, in seconds of ``perf_counter``.
    """

    __slots__ = ("began", "body", "driver", "request_id", "values", "verb")

    def __init__(
        self,
        slot: int,
        script: Script,
        payload: bytes,
        verb: PlainVerb,
        body: bytes,
        values: tuple[Any, ...],
        *,
        idempotent: bool,
    ) -> None:
        super().__init__(slot, script, payload, idempotent=idempotent)
        self.verb = verb
        self.body = body
        self.values = values
        self.driver: Driver | None = None
        self.request_id = ""
        self.began = perf_counter()

    @property
    def undo(self) -> object:
        """Something if an undelivered response is undone, as ``Response.undo``; None if not."""
        return self.verb.undoes or None

    @property
    def call(self) -> SentScript:
        """Implement ``SentRequest``."""
        return self

    def receive(self, answer: Answer) -> None:
        """Pass the answer to the driver, or keep it for the task."""
        super().receive(answer)
        driver, self.driver = self.driver, None
        if driver is not None:
            driver.on_answer(self)

    def resume(self, app: App, request: Request) -> Awaitable[Response]:
        """Implement ``SentRequest``."""
        return self.verb.resume(app, request, self)

    def response(self) -> Response:
        """Return what ``page`` has encoded."""
        return self.verb.complete(self.verb.render(self), self.request_id)


class PlainVerb:
    """One verb, for all requests with the same head.

    All responses that ``page`` returns have the same status, so they share one head.

    Attributes:
        admission: the admission of the head.
        undoes: whether what the request has done is undone if its response is not delivered.
    """

    undoes: ClassVar[bool] = False

    def __init__(
        self, templates: Templates, request: Request, admission: Admission, *, closes: bool
    ) -> None:
        self.admission = admission
        self._app = templates.app
        self._store = templates.app.store
        self._limits = templates.app.settings.limits
        self._templates = templates
        self._request = request
        self._closes = closes
        self._head: Template | None = None

    def begin(self, body: bytes) -> PlainCall | None:
        """Send the command of a request; return None if the readable path has to serve it."""
        raise NotImplementedError

    def page(self, call: PlainCall) -> bytes | None:
        """Return the response to a request, and count it; None if it has to be resumed."""
        raise NotImplementedError

    def resume(self, app: App, request: Request, call: PlainCall) -> Awaitable[Response]:
        """Answer a request on the readable path, beginning with the reply to its call."""
        raise NotImplementedError

    def render(self, call: PlainCall) -> Response:
        """Return the response of the readable path to a request that ``page`` has answered."""
        raise NotImplementedError

    def complete(self, response: Response, request_id: str) -> Response:
        """Return the response with the headers that every response has."""
        return add_common_headers(
            *(self._request, response, request_id, perf_counter()),
            *(self._app, self.admission.principal.name),
        )

    def _send(self, call: PlainCall) -> PlainCall | None:
        return call if self._store.redis.begin(call) else None

    def _encode(self, call: PlainCall, status: int, body: bytes, job_id: bytes = b"") -> bytes:
        head = self._head
        if head is None:
            head = self._head = self._head_of(status)
        call.request_id = new_request_id()
        self._app.traffic.count(self.admission.route, status, perf_counter() - call.began)
        date = date_line().encode()
        return head.fill((call.request_id.encode(), b"%d" % len(body), date, job_id)) + body

    def _head_of(self, status: int) -> Template:
        """Return the head of the responses with a status, which connections share."""
        headers = (("Location", f"/ojs/v1/jobs/{ID}"),) if status == 201 else ()
        sample = self.complete(Response(status, b"", headers), REQUEST_ID)

        def render() -> Template:
            raw = encode(sample, draining=False, asked_to_close=self._closes)
            raw = re.sub(rb"(?<=content-length: )0", b"sample length", raw)
            raw = re.sub(rb"date: [^\r]*\r\n", b"sample date", raw)
            gaps = [REQUEST_ID.encode(), b"sample length", b"sample date"]
            return Template(raw, *gaps, *([ID.encode()] if status == 201 else []))

        found: Template = self._templates.template(
            ("head", status, self._closes, sample.headers), render
        )
        return found
