"""Export and import what the users of the dashboard share: marks on charts and saved searches."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from ojs_cluster.core import raw_json
from ojs_cluster.core.errors import Conflict, InvalidRequest
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.core.search import MAX_CHARACTERS, parse_search
from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.archive.line_values import (
    InvalidLine,
    MarkLine,
    SearchLine,
    number,
)
from ojs_cluster.store.operators.dashboard.marks import (
    KEPT_MS,
    MAX_LABEL,
    Mark,
    add_mark,
    read_marks,
)
from ojs_cluster.store.operators.dashboard.searches import (
    MAX_NAME,
    SavedSearch,
    read_searches,
    save_search,
)

_MAX_PRINCIPAL: Final = 1000
"""Maximum length of the name of an API key in characters."""
_AHEAD_MS: Final = 86_400_000
"""How far a mark may lie in the future, for clocks that differ. A mark of a later time would never
become old."""
_LEAST_MS: Final = 60_000
"""Least remaining time in ms of a mark that is stored."""
_is_mark_id = re.compile(r"[0-9a-f]{16}").fullmatch
_mark_decoder = msgspec.json.Decoder(Mark)
_search_decoder = msgspec.json.Decoder(SavedSearch)


async def export_dashboard(store: Store, put: Callable[[str, MarkLine | SearchLine], None]) -> None:
    """Write a line for each mark and each saved search. A damaged record is left out.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    for mark in await read_marks(store):
        put("marks", MarkLine(mark))
    for search in await read_searches(store):
        put("searches", SearchLine(search))


def mark_pieces(mark: Mark) -> dict[str, Raw]:
    """Return the members of the line of a mark: those of its record."""
    return raw_json.object_members(msgspec.json.encode(mark)) or {}


def search_pieces(search: SavedSearch) -> dict[str, Raw]:
    """Return the members of the line of a saved search: those of its record."""
    return raw_json.object_members(msgspec.json.encode(search)) or {}


def parse_mark_line(members: Mapping[str, Raw]) -> MarkLine:
    """Return the mark with the members of a line.

    Raises:
        InvalidLine: a member is missing or not valid.
    """
    number(members, "at_ms")
    try:
        mark = _mark_decoder.decode(b"{%b}" % raw_json.join(dict(members)))
    except ValueError as error:
        raise InvalidLine(f"the mark is not valid: {error}") from None
    if not _is_mark_id(mark.id):
        raise InvalidLine(f"{raw_json.show(mark.id)} is not the id of a mark")
    _check_text("label", mark.label, MAX_LABEL)
    _check_principal(mark.principal)
    return MarkLine(mark)


def parse_search_line(members: Mapping[str, Raw]) -> SearchLine:
    """Return the saved search with the members of a line.

    Raises:
        InvalidLine: a member is missing or not valid.
    """
    number(members, "saved_ms")
    try:
        search = _search_decoder.decode(b"{%b}" % raw_json.join(dict(members)))
        _check_text("name", search.name, MAX_NAME)
        _check_text("query", search.query, MAX_CHARACTERS)
        parse_search(search.query, now_ms=search.saved_ms)
    except InvalidRequest as error:
        raise InvalidLine(f"the saved search is not valid: {error.message}") from None
    except ValueError as error:
        raise InvalidLine(f"the saved search is not valid: {error}") from None
    _check_principal(search.principal)
    return SearchLine(search)


async def restore_mark(store: Store, mark: Mark) -> bool:
    """Store a mark; return False if it exists, or would not be kept.

    A mark is not kept if it is too old, or if there are as many newer ones as are kept.

    Raises:
        InvalidLine: it is in the future.
        BackendUnavailable: Redis did not answer in time.
    """
    now_ms = store.clock.now_ms()
    if mark.at_ms > now_ms + _AHEAD_MS:
        raise InvalidLine("the mark is in the future")
    # The script must not empty the set, so that the clock of Redis may differ by a minute.
    if mark.at_ms < now_ms - KEPT_MS + _LEAST_MS:
        return False
    if any(present.id == mark.id for present in await read_marks(store)):
        return False
    return await add_mark(store, mark)


async def restore_search(store: Store, search: SavedSearch) -> bool:
    """Store a saved search; return False if there is one of this name.

    Raises:
        InvalidLine: there are too many saved searches.
        BackendUnavailable: Redis did not answer in time.
    """
    try:
        return await save_search(store, search, replace=False)
    except Conflict:
        return False
    except InvalidRequest as error:
        raise InvalidLine(error.message) from None


def _check_text(name: str, text: str, most: int) -> None:
    if text != text.strip() or not 1 <= len(text) <= most or not text.isprintable():
        raise InvalidLine(f"'{name}' must have 1 to {most} printable characters")


def _check_principal(name: str) -> None:
    if len(name) > _MAX_PRINCIPAL or not name.isprintable():
        raise InvalidLine("'principal' is not the name of an API key")
