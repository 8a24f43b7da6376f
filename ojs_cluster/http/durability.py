"""Delay a response until its writes have the durability that the server or the request asks for."""

from __future__ import annotations

from collections.abc import Awaitable

from ojs_cluster.core.errors import BackendUnavailable, Conflict, Duplicate, InvalidRequest
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.router import Route
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.durability import Durability, require_durability

HEADER = "ojs-durability"


def call_handler(
    app: App, route: Route, request: Request, params: tuple[str, ...]
) -> Awaitable[Response]:
    """Call the route's handler and wait until its writes are confirmed.

    A fetch is not delayed. A lost lease makes its job available again, so it needs no confirmation.
    An error instead of the jobs would leave them leased, unknown to any worker.

    Raises:
        OJSError: the handler raised it.
        InvalidRequest: the header ``OJS-Durability`` has an unknown value.
        BackendUnavailable: the writes are made, but not confirmed. ``details.outcome`` is
            ``stored_unconfirmed``, and ``details`` names the ids of created objects, which the
            client may not know.
    """
    asked = request.headers.get(HEADER)
    wanted = Durability.ASYNC if asked is None else _parse(asked)
    if (asked is None and not app.store.redis.durability) or route.waits:
        # Not a coroutine of its own: every plain request would pay for one more.
        return route.handler(app, request, *params)
    return _confirmed(app, route, request, params, wanted)


async def _confirmed(
    app: App, route: Route, request: Request, params: tuple[str, ...], wanted: Durability
) -> Response:
    """Call the handler in a task, and require the durability ``wanted`` of what it wrote."""
    await ensure_task()  # the confirmation is part of the task's context
    with require_durability(wanted) as work:
        try:
            response = await route.handler(app, request, *params)
        except (Conflict, Duplicate) as error:
            # The conflicting job was read from a server that may still lose it.
            if work.unconfirmed is None:
                raise
            raise _unconfirmed(work.unconfirmed) from error
    if work.unconfirmed is not None:
        raise _unconfirmed(work.unconfirmed, response)
    return response


def _unconfirmed(reason: str, response: Response | None = None) -> BackendUnavailable:
    error = BackendUnavailable(f"done, but {reason}", outcome="stored_unconfirmed")
    if response is not None and response.made is not None:
        error.details |= response.made()
    return error


def _parse(asked: str) -> Durability:
    try:
        return Durability[asked.upper()]
    except KeyError:
        choices = ", ".join(level.name.lower() for level in Durability)
        raise InvalidRequest(
            f"OJS-Durability must be one of {choices}", field=f"headers.{HEADER}"
        ) from None
