"""The fingerprint of a unique job (spec: ojs-unique-jobs 3 and 4).

The chosen dimensions as one JSON object, in the canonical form of RFC 8785 with text in NFC, hashed
with SHA-256. Two deviations, both so that different jobs never count as the same: an integer
beyond 2^53 and a number beyond float64 keep all their digits (the RFC knows only doubles, in which
neighbours become equal). Of a repeated key the last value counts, as everywhere in this server.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable
from typing import Any, Final

import rfc8785

from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.rawjson import Raw, array_items, object_members
from ojs_cluster.core.unique import UniquePolicy

_EXACT: Final = 2**53 - 1
_BEYOND: Final = "\x00number"


def fingerprint(
    policy: UniquePolicy, *, job_type: str, queue: str, args: bytes, meta: bytes
) -> str:
    """The fingerprint of a job under ``policy``: 64 hexadecimal digits.

    ``args`` and ``meta`` are checked JSON. Raises ValidationFailed when ``args_keys`` names what is
    not in args.
    """
    parts: dict[str, Any] = {"type": job_type}
    if "queue" in policy.keys:
        parts["queue"] = queue
    if policy.custom_key is not None:
        parts["key"] = unicodedata.normalize("NFC", policy.custom_key)
    elif "args" in policy.keys or policy.args_keys:
        # Keys without the dimension still say what tells jobs apart: to leave them out would make
        # duplicates of jobs that their producer takes for different ones.
        parts["args"] = _args(policy.args_keys, args) if policy.args_keys else _value(args)
    if "meta" in policy.keys:
        parts["meta"] = _chosen(policy.meta_keys, object_members(meta) or {})
    return hashlib.sha256(rfc8785.dumps(parts)).hexdigest()


def _args(names: tuple[str, ...], args: bytes) -> dict[str, Any]:
    """The named values. A name is a key of the first object in args that has it, or a position."""
    items = array_items(args) or []
    objects = [found for item in items if (found := object_members(item)) is not None]
    chosen: dict[str, Any] = {}
    for name in names:
        piece = next((found[name] for found in objects if name in found), None)
        if piece is None and name.isascii() and name.isdecimal() and int(name) < len(items):
            piece = items[int(name)]
        if piece is None:
            raise ValidationFailed(
                f"unique.args_keys names '{name}', which is not in args",
                field="options.unique.args_keys",
            )
        chosen[unicodedata.normalize("NFC", name)] = _value(bytes(piece))
    return chosen


def _chosen(names: Iterable[str], members: dict[str, Raw]) -> dict[str, Any]:
    return {
        unicodedata.normalize("NFC", name): _value(bytes(members[name]))
        for name in names
        if name in members
    }


def _value(raw: bytes) -> Any:
    return _normal(json.loads(raw, parse_int=_integer, parse_float=_real))


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, list):
        return [_normal(item) for item in value]
    if isinstance(value, dict):
        return {unicodedata.normalize("NFC", key): _normal(item) for key, item in value.items()}
    return value


def _integer(text: str) -> Any:
    if len(text) <= len("-9007199254740991"):
        number = int(text)
        if -_EXACT <= number <= _EXACT:
            return number
    return {_BEYOND: text}  # JSON allows no leading zeros: the digits are canonical


def _real(text: str) -> Any:
    number = float(text)
    if math.isinf(number):
        return {_BEYOND: text.lower()}
    # 2e16 is what the integer of these digits is.
    if number.is_integer() and abs(number) > _EXACT:
        return {_BEYOND: str(int(number))}
    return number
