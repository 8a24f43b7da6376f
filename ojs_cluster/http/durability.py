"""Answers a request only when what it wrote is as safe as the server or the request wants it."""

from __future__ import annotations

from ojs_cluster.core.errors import BackendUnavailable, Conflict, Duplicate, InvalidRequest
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.router import Route
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.durability import Durability, require_durability

HEADER = "ojs-durability"


async def answer(app: App, route: Route, request: Request, params: tuple[str, ...]) -> Response:
    """Call the route's handler.

    A fetch is not held back: a lease that is forgotten is a job that is available again, and one
    that nobody was told of would be stranded until it ends.

    Raises:
        OJSError: the handler's.
        InvalidRequest: the header ``OJS-Durability`` has an unknown value.
        BackendUnavailable: done, but not confirmed; ``details.outcome`` is
            ``stored_unconfirmed``, and the ids of what was made stand beside it, as the client may
            not know them.
    """
    asked = request.headers.get(HEADER)
    wanted = Durability.ASYNC if asked is None else _parse(asked)
    if (asked is None and not app.store.redis.durability) or route.waits:
        return await route.handler(app, request, *params)
    await ensure_task()  # whose context knows the request
    with require_durability(wanted) as work:
        try:
            response = await route.handler(app, request, *params)
        except (Conflict, Duplicate) as error:
            # What is in the way was found where it may still be forgotten.
            if work.unconfirmed is None:
                raise
            raise _unconfirmed(work.unconfirmed) from error
    if work.unconfirmed is not None:
        raise _unconfirmed(work.unconfirmed, response)
    return response


def _unconfirmed(doubt: str, response: Response | None = None) -> BackendUnavailable:
    error = BackendUnavailable(f"done, but {doubt}", outcome="stored_unconfirmed")
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
