"""Export and import what the users of the dashboard share: marks on charts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from ojs_cluster.core import raw_json
from ojs_cluster.core.raw_json import Raw
from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.archive.line_values import InvalidLine, MarkLine, number
from ojs_cluster.store.operators.dashboard.marks import (
    KEPT_MS,
    MAX_LABEL,
    Mark,
    add_mark,
    read_marks,
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


async def export_dashboard(store: Store, put: Callable[[str, MarkLine], None]) -> None:
    """Write a line for each mark. A damaged record is left out.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    for mark in await read_marks(store):
        put("marks", MarkLine(mark))


def mark_pieces(mark: Mark) -> dict[str, Raw]:
    """Return the members of the line of a mark: those of its record."""
    return raw_json.object_members(msgspec.json.encode(mark)) or {}


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
    label, user = mark.label, mark.principal
    if label != label.strip() or not 1 <= len(label) <= MAX_LABEL or not label.isprintable():
        raise InvalidLine(f"'label' must have 1 to {MAX_LABEL} printable characters")
    if len(user) > _MAX_PRINCIPAL or not user.isprintable():
        raise InvalidLine("'principal' is not the name of an API key")
    return MarkLine(mark)


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
