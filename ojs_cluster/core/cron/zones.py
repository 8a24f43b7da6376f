"""The time zones that clients and users may name."""

from __future__ import annotations

from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

_MAX_NAME: Final = 64  # characters


def is_zone(name: str) -> bool:
    """Return whether a text is the IANA name of a time zone with an area, or ``UTC``.

    The specification refuses abbreviations (EST, CET) and offsets. All other names have a slash.
    """
    return name == "UTC" or ("/" in name and name in _zones())


def find_zone(name: str) -> ZoneInfo | None:
    """Return the time zone of a name in any case of letters; None if there is none.

    Only names of ``is_zone`` have a zone, so the kept zones are bounded.
    """
    found = _by_folded_name().get(name.casefold()) if 0 < len(name) <= _MAX_NAME else None
    return None if found is None else _load(found)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


@cache
def _by_folded_name() -> dict[str, str]:
    return {name.casefold(): name for name in (*_zones(), "UTC") if is_zone(name)}


@cache
def _load(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return None  # the file of the zone was removed, or is damaged
