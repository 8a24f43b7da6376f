"""Delay a response until its writes have the durability that the server or the request asks for."""

from __future__ import annotations

from collections.abc import Awaitable

from ojs_cluster.core.errors import BackendUnavailable, Conflict, Duplicate, InvalidRequest
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.routing.router import Route
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.durability import Durability, require_durability

HEADER = "ojs-durability"


def call_handler(
    app: App, route: Route, request: Request, params: tuple[str, ...]
) -> Awaitable[Response]:
    """Call the route's handler and wait until its writes are confirmed.

    The response to a fetch is not delayed. If Redis loses the leases of the fetched jobs, the jobs
    are available again, so the leases need no confirmation. An error instead of the jobs would
    leave the jobs leased, and no worker would know them.

    Raises:
        OJSError: the handler raised it.
        InvalidRequest: the header ``OJS-Durability`` has an unknown value.
        BackendUnavailable: the writes are made, but not confirmed. ``details.outcome`` is
            ``stored_unconfirmed``, and ``details`` names the ids of created objects, which the
            client may not know.
    """
    header = request.headers.get(HEADER)
    requested = Durability.ASYNC if header is None else _parse(header)
    if (header is None and not app.store.redis.durability) or route.waits_for_jobs:
        # This function is no coroutine, because one more coroutine costs time for every request.
        return route.handler(app, request, *params)
    return _confirmed(app, route, request, params, requested)


async def _confirmed(
    app: App, route: Route, request: Request, params: tuple[str, ...], requested: Durability
) -> Response:
    """Call the handler in a task, and wait until its writes have the ``requested`` durability."""
    await ensure_task()  # ``require_durability`` uses the context of the task
    with require_durability(requested) as work:
        try:
            response = await route.handler(app, request, *params)
        except (Conflict, Duplicate) as error:
            # The job that causes the conflict may be unconfirmed. If Redis loses that job, there is
            # no conflict, so the client must not take the conflict as final.
            if work.unconfirmed_reason is None:
                raise
            raise _unconfirmed_error(work.unconfirmed_reason) from error
    if work.unconfirmed_reason is not None:
        raise _unconfirmed_error(work.unconfirmed_reason, response)
    return response


def _unconfirmed_error(reason: str, response: Response | None = None) -> BackendUnavailable:
    error = BackendUnavailable(f"done, but {reason}", outcome="stored_unconfirmed")
    if response is not None and response.object_ids is not None:
        error.details |= response.object_ids()
    return error


def _parse(header: str) -> Durability:
    try:
        return Durability[header.upper()]
    except KeyError:
        choices = ", ".join(level.name.lower() for level in Durability)
        raise InvalidRequest(
            f"OJS-Durability must be one of {choices}", field=f"headers.{HEADER}"
        ) from None
