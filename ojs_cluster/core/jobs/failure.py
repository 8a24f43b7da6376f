"""Normalise the error that a worker reports (spec: ojs-errors, ojs-retry section 7)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import orjson

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS
from ojs_cluster.core.raw_json import Raw, join, object_members, string
from ojs_cluster.core.timestamps import parse_timestamp

DEFAULT_CODE: Final = "handler_error"
_MAX_NAME_CHARACTERS: Final = 255
_MAX_MESSAGE_CHARACTERS: Final = 4096
"""Length of the message in an error that is shortened."""

# The server sets these members when it records the error.
_SERVER_MEMBERS: Final = frozenset({"attempt", "occurred_at"})

# The handler codes of the spec, which workers send as ``action`` or as ``code``. The spec also has
# RETRY, which changes nothing. SNOOZE is an extension.
_ACTIONS: Final = {
    "DISCARD": "discard",
    "FAIL": "discard",
    "DEAD_LETTER": "dead_letter",
    "SNOOZE": "snooze",
}
_DELAY: Final = re.compile(rb"(\d+)(?:\.0+)?")
_MAX_DELAY_MS: Final = 365 * 86_400_000
_MIN_SNOOZE_MS: Final = 1000
"""Shortest time until a snoozed job runs again, which counts no attempt and so has no other end."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A normalised error.

    Args:
        json: a JSON object without its closing brace; ``attempt`` and ``occurred_at`` are appended
            when the error is recorded.
        names: the names that non-retryable patterns are compared with.
        retryable: whether the error allows a retry.
        action: the handler's decision, which overrides the job's policy: ``discard``,
            ``dead_letter``, ``snooze`` (the job runs later, and the attempt does not count) or
            None.
        hold_until_ms: Unix time in ms before which no job of the same rate limit key may start
            (spec: ojs-rate-limiting 9.1); None if the error names none.
        delay_ms: time until the next attempt; None for the backoff of the job's policy.
    """

    json: bytes
    names: tuple[str, ...]
    retryable: bool
    action: str | None = None
    hold_until_ms: int | None = None
    delay_ms: int | None = None


def parse_failure(
    raw: Raw | bytes | None, *, max_bytes: int = DEFAULT_LIMITS.failure_bytes
) -> Failure:
    """Return the normalised ``error`` of a nack.

    The error may be an object, a plain string (the message) or missing. Unknown attributes and
    ``details`` are kept byte for byte. An error larger than ``max_bytes`` is shortened. If it were
    refused, the worker could only let the lease expire, and the error would be lost.

    Args:
        raw: the error as validated JSON; None when it is absent.
        max_bytes: maximum size of the error in bytes.

    Raises:
        InvalidRequest: the error is no object, string or null.
    """
    piece = b"null" if raw is None else bytes(raw)
    if piece == b"null":
        attributes: dict[str, Raw] = {}
    elif piece.startswith(b'"'):
        attributes = {"message": Raw(piece)}
    else:
        found = object_members(piece)
        if found is None:
            raise InvalidRequest("error must be an object or a string", field="error")
        attributes = found
    code = _name(attributes.pop("code", None))
    error_class = _error_class(attributes.get("details"))
    error_type = _name(attributes.pop("type", None)) or error_class or code
    message = attributes.pop("message", None)
    retryable = bytes(attributes.get("retryable", b"")) != b"false"
    action = _ACTIONS.get(_name(attributes.get("action")) or code or "")
    code = code or DEFAULT_CODE
    error_type = error_type or code
    members = _members(code, error_type, message, attributes)
    json = b"{" + join(members)
    if len(json) > max_bytes:
        json = b"{" + join(_shortened(members))
    names = tuple(dict.fromkeys(filter(None, (error_type, code, error_class))))
    hold_until_ms = _hold_until_ms(attributes.get("rate_limit_until"))
    delay_ms = _delay_ms(attributes.get("retry_delay_ms"))
    if action == "snooze":
        delay_ms = max(delay_ms or 0, _MIN_SNOOZE_MS)
    return Failure(json, names, retryable and action is None, action, hold_until_ms, delay_ms)


def _delay_ms(piece: Raw | None) -> int | None:
    """Return the delay that a worker wants, at most a year; None if invalid."""
    found = None if piece is None else _DELAY.fullmatch(bytes(piece))
    if found is None:
        return None
    digits = found[1].lstrip(b"0")
    return _MAX_DELAY_MS if len(digits) > 12 else min(int(digits or b"0"), _MAX_DELAY_MS)


def _hold_until_ms(piece: Raw | None) -> int | None:
    """Return the absolute time that a worker names, as Unix time in ms; None if invalid."""
    text = None if piece is None else string(piece)
    if not text:
        return None
    try:
        return parse_timestamp(text, allow_delay=False).ms
    except ValueError:
        return None


def _members(
    code: str, error_type: str, message: Raw | None, attributes: dict[str, Raw]
) -> dict[str, Raw]:
    """Return the members of a normalised error."""
    members: dict[str, Raw] = {
        "code": Raw(orjson.dumps(code)),
        "type": Raw(orjson.dumps(error_type)),
        "message": _message(message),
    }
    for name, piece in attributes.items():
        if name in _SERVER_MEMBERS or (
            name == "retryable" and bytes(piece) not in (b"true", b"false")
        ):
            continue
        members[name] = piece
    return members


def _shortened(members: dict[str, Raw]) -> dict[str, Raw]:
    """Return the members to keep of an error that is too large, with a shorter message."""
    kept: dict[str, Raw] = {
        name: members[name] for name in ("code", "type", "message") if name in members
    }
    if "retryable" in members:
        kept["retryable"] = members["retryable"]
    message = string(members["message"]) or ""
    if len(message) > _MAX_MESSAGE_CHARACTERS:
        kept["message"] = Raw(orjson.dumps(message[:_MAX_MESSAGE_CHARACTERS]))
    kept["truncated"] = Raw(b"true")
    return kept


def _message(piece: Raw | None) -> Raw:
    text = b'""' if piece is None or bytes(piece) == b"null" else bytes(piece)
    # Some workers send another JSON value; its text becomes the message.
    return Raw(text if text.startswith(b'"') else orjson.dumps(text.decode()))


def _name(piece: Raw | None) -> str | None:
    """Return a name from a string or a number, None for another value or an empty string."""
    if piece is None:
        return None
    text = string(piece)
    if text is None:
        raw = bytes(piece)
        text = raw.decode() if raw[:1] in b"-0123456789" else ""
    return text[:_MAX_NAME_CHARACTERS] or None


def _error_class(details: Raw | None) -> str | None:
    if details is None:
        return None
    return _name((object_members(details) or {}).get("error_class"))
