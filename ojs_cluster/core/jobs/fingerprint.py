"""The fingerprint of a unique job (spec: ojs-unique-jobs 3 and 4).

The fingerprint is the SHA-256 of the chosen dimensions as one JSON object, in the canonical form of
RFC 8785 with text in NFC. The RFC rounds all numbers to float64, so that different numbers may
become equal. This server keeps all digits of integers beyond 2^53, and of numbers that are too
large or too small for float64. So different jobs never get the same fingerprint. If a JSON key is
repeated, its last value counts, as everywhere in this server.

Fingerprints are computed on the event loop, so the time for one is limited. The chosen values have
at most ``PayloadLimits.fingerprint_bytes`` bytes. Their text must be stream-safe (UAX #15, section
13), because the normalisation of a long run of combining characters takes quadratic time.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Final

import rfc8785

from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.jobs.unique import UniquePolicy
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS
from ojs_cluster.core.raw_json import Raw, array_items, object_members

_MAX_EXACT: Final = 2**53 - 1
_NUMBER_PREFIX: Final = "\x00number:"
"""Marks a text that stands for a number. ``_text`` makes sure that no client's text starts so."""
_MAX_COMBINING: Final = 30
"""Longest run of combining characters in stream-safe text (UAX #15, UAX15-D3)."""
_MAX_EXPONENT_DIGITS: Final = 1000
"""Maximum number of digits of an exponent that is parsed. Python parses at most 4300 digits."""
_NUMBER_PARTS: Final = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([-+]?[0-9]+))?")


def fingerprint(
    policy: UniquePolicy,
    *,
    job_type: str,
    queue: str,
    args: bytes,
    meta: bytes,
    tenant: str = "",
    max_bytes: int = DEFAULT_LIMITS.fingerprint_bytes,
) -> str:
    """Return the fingerprint of a job under ``policy``: 64 hexadecimal digits.

    Args:
        policy: uniqueness policy of the job.
        job_type: type of the job.
        queue: queue of the job.
        args: args of the job, as checked JSON.
        meta: meta of the job, as checked JSON.
        tenant: tenant of the job, '' for none. Jobs of different tenants are never duplicates.
        max_bytes: maximum number of bytes of args and meta that the policy may choose.

    Raises:
        ValidationFailed: ``args_keys`` names a key that is not in args, or the chosen values are
            too large or hold text that is not stream-safe.
    """
    budget = _Budget(max_bytes)
    parts: dict[str, Any] = {"type": job_type}
    if tenant:
        parts["tenant"] = tenant
    if "queue" in policy.keys:
        parts["queue"] = queue
    if policy.custom_key is not None:
        parts["key"] = _text(policy.custom_key)
    elif "args" in policy.keys or policy.args_keys:
        # args_keys also count when the policy does not list the dimension "args". Otherwise jobs
        # that differ only in these keys would be duplicates, which their producer does not expect.
        parts["args"] = (
            _args(policy.args_keys, args, budget) if policy.args_keys else _value(args, budget)
        )
    if "meta" in policy.keys:
        parts["meta"] = _meta(policy.meta_keys, object_members(meta) or {}, budget)
    return hashlib.sha256(rfc8785.dumps(parts)).hexdigest()


class _Budget:
    """Limits how many bytes are fingerprinted."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size

    def spend(self, raw: bytes) -> None:
        self._left -= len(raw)
        if self._left < 0:
            raise ValidationFailed(
                f"the values that make a job unique have at most {self._size} bytes: name fewer or "
                "smaller values in unique.args_keys, or an unique.key of your own",
                field="options.unique",
                limit=self._size,
            )


def _args(names: tuple[str, ...], args: bytes, budget: _Budget) -> dict[str, Any]:
    """Return the values of args that a policy names.

    A name is a key of the first object in args that has it, or a position in args.
    """
    items = array_items(args) or []
    # One pass for any number of names. It is in reverse, so that the first object has priority.
    found: dict[str, Raw] = {}
    for item in reversed(items):
        found.update(object_members(item) or {})
    chosen: dict[str, Any] = {}
    for name in names:
        piece = found.get(name)
        if piece is None and name.isascii() and name.isdecimal() and int(name) < len(items):
            piece = items[int(name)]
        if piece is None:
            raise ValidationFailed(
                f"unique.args_keys names '{name}', which is not in args",
                field="options.unique.args_keys",
            )
        chosen[_text(name)] = _value(bytes(piece), budget)
    return chosen


def _meta(names: Iterable[str], members: dict[str, Raw], budget: _Budget) -> dict[str, Any]:
    """Return the values of meta that a policy names. Missing ones are left out."""
    return {_text(name): _value(bytes(members[name]), budget) for name in names if name in members}


def _value(raw: bytes, budget: _Budget) -> Any:
    """Return the canonical form of a JSON value."""
    budget.spend(raw)
    return _with_canonical_texts(json.loads(raw, parse_int=_integer, parse_float=_real))


class _Number(str):
    """A number as text, in the form of ``_exact_number``."""

    __slots__ = ()


def _with_canonical_texts(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, _Number):
        return _text(value)
    if isinstance(value, list):
        return [_with_canonical_texts(item) for item in value]
    if isinstance(value, dict):
        return {_text(key): _with_canonical_texts(item) for key, item in value.items()}
    return value


def _text(text: str) -> str:
    """Return ``text`` in NFC.

    Raises:
        ValidationFailed: it is not stream-safe.
    """
    if text.startswith("\x00"):
        text = "\x00" + text  # see _NUMBER_PREFIX
    if text.isascii():
        return text
    run = 0
    for character in text:
        # A character may decompose into several, some of which are combining marks.
        for part in unicodedata.normalize("NFKD", character):
            run = run + 1 if unicodedata.combining(part) else 0
            if run > _MAX_COMBINING:
                raise ValidationFailed(
                    f"a unique job's values have at most {_MAX_COMBINING} combining characters "
                    "in a row (UAX #15, stream-safe text)",
                    field="options.unique",
                )
    return unicodedata.normalize("NFC", text)


def _integer(text: str) -> Any:
    if len(text) <= len("-9007199254740991"):
        number = int(text)
        if -_MAX_EXACT <= number <= _MAX_EXACT:
            return number
    return _exact_number(text)


def _real(text: str) -> Any:
    number = float(text)
    if math.isinf(number):
        return _exact_number(text)
    if number == 0:
        exact = _exact_number(text)  # float() also rounds numbers such as 1e-400 to 0
        return 0 if exact == _NUMBER_PREFIX + "0" else exact
    if abs(number) > _MAX_EXACT:
        return _exact_number(repr(number))
    return number


def _exact_number(number: str) -> _Number:
    """Return one text for all spellings of a number: its significant digits and its exponent.

    Both 2e16 and 20000000000000000 become ``2e16``. The number is not written out, because
    ``1e308`` would take 309 digits.
    """
    match = _NUMBER_PARTS.fullmatch(number)
    assert match is not None  # noqa: S101 - JSON and repr() have no other form
    sign, whole, fraction, exponent = match[1], match[2], match[3] or "", match[4] or "0"
    if len(exponent) > _MAX_EXPONENT_DIGITS:
        return _Number(_NUMBER_PREFIX + number.lower())
    digits = (whole + fraction).lstrip("0")
    kept = digits.rstrip("0")
    if not kept:
        return _Number(_NUMBER_PREFIX + "0")
    power = int(exponent) - len(fraction) + len(digits) - len(kept)
    return _Number(f"{_NUMBER_PREFIX}{sign}{kept}e{power}")
