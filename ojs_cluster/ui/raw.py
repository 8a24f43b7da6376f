"""Read members of API responses that clients control.

Clients choose the names and values of some members. So a value may be a number that Python cannot
hold, or have another type than the page expects. Such a value must not stop the page.
"""

from __future__ import annotations

from ojs_cluster.core.raw_json import Raw, array_items, object_members, string

Members = dict[str, Raw]
_NULL = Raw(b"null")


def members(raw: bytes | Raw) -> Members:
    """Return the members of an object; none if it is no object."""
    return object_members(raw) or {}


def objects(of: Members, name: str) -> list[Members]:
    """Return the objects in a member that is an array."""
    return [members(item) for item in array_items(of.get(name, _NULL)) or []]


def texts(of: Members, name: str) -> list[str]:
    """Return the texts in a member that is an array."""
    found = [string(item) for item in array_items(of.get(name, _NULL)) or []]
    return [text for text in found if text is not None]


def text(of: Members, name: str) -> str:
    """Return a member that is a text; empty if it is absent or no text."""
    return string(of.get(name, _NULL)) or ""


def number(of: Members, name: str) -> str:
    """Return a member that is a number as it was sent; empty if it is absent."""
    raw = bytes(of.get(name, _NULL))
    return "" if raw[:1] in b'n"{[tf' else raw.decode()


def integer(of: Members, name: str) -> int:
    """Return a member that the server wrote as a whole number; 0 if it is absent."""
    digits = number(of, name)
    return int(digits) if digits.isdigit() and len(digits) < 19 else 0
