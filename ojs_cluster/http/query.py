"""Parse query strings. Invalid values are errors.

A parameter that a route does not declare changes nothing, because clients of other servers send
some. The response names it. Only a request that changes jobs which its query selects is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.http import replies
from ojs_cluster.http.cursor_kinds import CursorKind
from ojs_cluster.http.shapes.common import Pagination
from ojs_cluster.store.ground import cursor as cursors
from ojs_cluster.store.ground.listed import Position

MAX_OFFSET = 100_000
EVENT_TYPES = ("types", "event_types", "type")
"""Parameters that name types of events: the first with a name counts. ojs-cli sends ``types``. The
spec calls it ``event_types`` (ojs-realtime 5.6.1)."""
_MAX_CURSOR = 4096  # characters; the longest position is a group of errors
_MAX_DIGITS = 18  # such numbers fit into 64 bits
_MAX_NAMED = 10  # unknown parameters that a response names
_MAX_NAME = 64  # characters of such a name, percent-encoded
_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no", ""})


def parameters(query: str) -> Mapping[str, str]:
    """Return the decoded parameters of a raw query string. The last value of a parameter counts.

    Raises:
        InvalidRequest: the query does not decode to UTF-8, or has more than 100 parameters.
    """
    if not query:
        return {}
    try:
        return dict(parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100))
    except UnicodeDecodeError:
        raise InvalidRequest("the query string is not valid UTF-8") from None
    except ValueError:
        raise InvalidRequest("the query string has too many parameters") from None


def unknown_names(query: str, known: frozenset[str]) -> str:
    """Return the parameters of a raw query string that are not ``known``, separated by commas.

    The names are percent-encoded. The first ten are returned, without those of an invalid query.
    """
    try:
        given = parameters(query)
    except InvalidRequest:
        return ""
    unknown = [quote(name, safe="")[:_MAX_NAME] for name in given if name not in known]
    return ", ".join(unknown[:_MAX_NAMED])


def integer(query: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    """Return the parameter ``name`` as a whole number; ``default`` if it is absent or empty.

    A number above ``high`` counts as ``high``.

    Raises:
        InvalidRequest: the value is not a whole number of at least ``low``.
    """
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS or int(text) < low:
        raise InvalidRequest(f"{name} must be a whole number of at least {low}", field=name)
    return min(int(text), high)


def boolean(query: Mapping[str, str], name: str) -> bool:
    """Return the parameter ``name`` as a flag; False if it is absent or empty.

    Raises:
        InvalidRequest: the value is neither true nor false.
    """
    text = query.get(name, "").lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise InvalidRequest(f"{name} must be true or false", field=name)


def names(query: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return the names in the comma-separated parameter ``name``; none if it is absent."""
    return tuple(text for text in query.get(name, "").split(",") if text)


@dataclass(frozen=True, slots=True)
class Page:
    """The requested part of a list: ``limit`` entries after ``after``, or after ``offset`` others.

    Args:
        limit: the maximum number of entries.
        offset: how many entries come before. With ``after``, how many earlier pages have shown.
        after: the position of the last entry that the page before has read; None for a page that
            starts at ``offset``.
        kind: what the cursors of the list name; None for a list whose cursors contain an offset.
    """

    limit: int
    offset: int
    after: Position | None = None
    kind: CursorKind | None = None


def page(
    query: Mapping[str, str],
    kind: CursorKind | None = None,
    *,
    default: int = 50,
    max_limit: int = 200,
) -> Page:
    """Return the page that the parameters ``limit`` and ``offset`` ask for.

    The parameter ``cursor``, which an earlier page returned, has priority over ``offset``. It names
    the last entry of that page. So entries that come and go between two requests neither repeat
    other entries nor skip them. A cursor may also contain an offset: those of a list without
    ``kind``, and those that a process of an earlier version has issued.

    Raises:
        InvalidRequest: a parameter is invalid, or the cursor belongs to another list.
    """
    limit = integer(query, "limit", default, low=1, high=max_limit)
    return _at_cursor(query, kind, limit) or Page(
        limit, integer(query, "offset", 0, low=0, high=MAX_OFFSET), kind=kind
    )


def numbered_page(
    query: Mapping[str, str],
    kind: CursorKind | None = None,
    *,
    default: int = 20,
    max_limit: int = 100,
) -> Page:
    """Return the page that the parameters ``per_page`` and ``page`` ask for.

    The first page has the number 1. If both parameters are absent, this function returns the same
    as ``page``. The parameter ``cursor`` has priority over ``page``.

    Raises:
        InvalidRequest: a parameter is invalid, or the cursor belongs to another list.
    """
    if not query.get("page") and not query.get("per_page"):
        return page(query, kind, default=default, max_limit=max_limit)
    size = integer(query, "per_page", default, low=1, high=max_limit)
    if (found := _at_cursor(query, kind, size)) is not None:
        return found
    offset = (integer(query, "page", 1, low=1, high=10**9) - 1) * size
    if offset > MAX_OFFSET:
        raise InvalidRequest(f"pages end at entry {MAX_OFFSET}", field="page")
    return Page(size, offset, kind=kind)


def _at_cursor(query: Mapping[str, str], kind: CursorKind | None, limit: int) -> Page | None:
    """Return the page at the parameter ``cursor``; None if the parameter is absent or empty."""
    text = query.get("cursor")
    if not text:
        return None
    # The text of a position starts with the letter W, because it is a JSON array in base64.
    if text.startswith("o"):
        offset = integer({"cursor": text[1:]}, "cursor", 0, low=0, high=MAX_OFFSET)
        return Page(limit, offset, kind=kind)
    if kind is not None and len(text) <= _MAX_CURSOR:
        match cursors.decode(text):
            case [kind.name, int(shown), *after] if (
                cursors.are_numbers((shown,))
                and tuple(type(part) for part in after) == kind.types
                and cursors.are_numbers([part for part in after if not isinstance(part, str)])
            ):
                return Page(limit, shown, tuple(after), kind)
    raise InvalidRequest("this cursor belongs to another list", field="cursor")


def pagination(requested: Page, shown: int, total: int, last: Position | None = None) -> Pagination:
    """Return the ``pagination`` object of a page.

    Args:
        requested: the page.
        shown: the number of entries that it shows.
        total: the number of all entries.
        last: the position of the last entry that was read for the page, if others follow it. None
            on the last page, and for a list whose cursors contain an offset.
    """
    end = requested.offset + shown
    kind = requested.kind
    if kind is None:
        cursor = f"o{end}" if shown and end < total else None
    else:
        cursor = None if last is None else cursors.encode([kind.name, end, *last])
    pages = replies.pagination(
        limit=requested.limit, shown=shown, offset=requested.offset, total=total, cursor=cursor
    )
    if kind is not None:
        pages["has_more"] = cursor is not None
    return pages
