"""Reads lists of the API page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from ojs_client.errors import ApiError, refuses_cursor
from ojs_client.options import JSON
from ojs_client.transport import Repeat, Transport

_PAGE: Final = 100


async def entries(
    transport: Transport, path: str, member: str, query: Mapping[str, JSON] | None = None
) -> AsyncIterator[Any]:
    """Yield the entries of a list.

    Args:
        transport: sends the requests.
        path: the path of the list.
        member: the member of the response that has the entries.
        query: the query, without the members that are None.
    """
    chosen = {name: str(value) for name, value in (query or {}).items() if value is not None}
    chosen.setdefault("limit", str(_PAGE))
    place: dict[str, str] = {}
    read = 0
    while True:
        try:
            reply = await transport.request(
                "GET", path, repeat=Repeat.ALWAYS, params={**chosen, **place}
            )
        except ApiError as error:
            if "cursor" not in place or not refuses_cursor(error):
                raise
            place = {"offset": str(read)}
            continue
        for entry in reply[member]:
            read += 1
            yield entry
        # An offset would repeat or skip entries while others are added and removed.
        cursor = reply["pagination"].get("next_cursor")
        if cursor is None:
            return
        place = {"cursor": cursor}
