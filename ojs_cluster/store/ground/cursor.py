"""Encode positions of a listing as opaque cursors, which clients return to get the next page."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import orjson

from ojs_cluster.core.errors import InvalidRequest


def encode(position: Any) -> str:
    """Return ``position`` (JSON) as URL-safe text."""
    return base64.urlsafe_b64encode(orjson.dumps(position)).rstrip(b"=").decode()


_END = 2**53  # larger numbers are not exact as a score in Redis


def are_numbers(values: Sequence[object], end: int = _END) -> bool:
    """Return whether all ``values`` of a decoded position are integers from 0 to below ``end``."""
    # ``isinstance`` would accept a JSON true, because bool is a subclass of int.
    return all(type(value) is int and 0 <= value < end for value in values)


def decode(text: str, *, field: str = "cursor") -> Any:
    """Return the position that ``encode`` has encoded.

    Args:
        text: the cursor.
        field: name of the request's field, for the error.

    Raises:
        InvalidRequest: the text is not a cursor of this server.
    """
    try:
        return orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        raise InvalidRequest(f"{field} is not one that this server issued", field=field) from None
