"""Saved searches for jobs, which the users of the dashboard share."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.search import MAX_CHARACTERS, parse_search
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.principals import principal_of
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.request_body.decode import decode
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.store.operators.dashboard.searches import (
    MAX_NAME,
    SavedSearch,
    delete_search,
    read_searches,
    save_search,
)


class SearchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A search, in the language of the parameter ``query`` of the list of jobs.

    Another search of the same name is replaced unless ``replace`` is false.
    """

    query: Annotated[str, keywords(minLength=1, maxLength=MAX_CHARACTERS)]
    replace: bool = True


_decoder = msgspec.json.Decoder(SearchBody)


async def list_searches(app: App, _request: Request) -> Response:
    """List the saved searches in the order of their names.

    ``GET /ojs/v1/admin/searches``
    """
    shown = [_members(search) for search in await read_searches(app.store)]
    return replies.json_response(200, {"items": shown, "total": len(shown)})


async def put(app: App, request: Request, name: str) -> Response:
    """Save a search for all users of the dashboard, or replace the one of this name.

    ``PUT /ojs/v1/admin/searches/{name}``
    """
    body = decode(_decoder, request, app.settings.limits)
    if name != name.strip() or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidRequest(
            f"a name has 1 to {MAX_NAME} printable characters, without blanks at its ends",
            field="name",
        )
    query, now_ms = body.query.strip(), app.store.clock.now_ms()
    if not query or not query.isprintable():
        raise InvalidRequest("query must be a search of printable characters", field="query")
    parse_search(query, now_ms=now_ms)
    search = SavedSearch(name, query, now_ms, principal_of(app, request).name)
    is_new = await save_search(app.store, search, replace=body.replace)
    return replies.json_response(201 if is_new else 200, _members(search))


async def drop(app: App, _request: Request, name: str) -> Response:
    """Delete a saved search.

    ``DELETE /ojs/v1/admin/searches/{name}``
    """
    await delete_search(app.store, name)
    return replies.json_response(200, {"deleted": True, "name": name})


def _members(search: SavedSearch) -> dict[str, Any]:
    return {
        "name": search.name,
        "query": search.query,
        "saved_at": replies.iso(search.saved_ms),
        "saved_by": search.principal,
    }
