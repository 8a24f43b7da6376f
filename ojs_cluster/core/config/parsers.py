"""Parsers of environment variables: one small parser for each kind of value.

A parser converts a text to a value. It raises ValueError with what it *accepts*, so that the
operator reads "OJS_PORT='80a': expected a whole number from 1 to 65535".
"""

from __future__ import annotations

import re

from ojs_cluster.core.config.variable import Parser

_MAX_HOST_NAME = 255  # characters
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    # Go has no unit above hours. Days make a long retention readable.
    "d": 86_400_000_000_000,
}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h|d)")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_HOST_NAME = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_][a-z0-9_-]*")
_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


def go_duration_ns(text: str) -> int:
    """Return the nanoseconds of a Go duration such as ``1m30s`` or ``1.5h``, or of ``7d``.

    Raises:
        ValueError: any other text, also one with a sign.
    """
    if text == "0":
        return 0
    parts = _DURATION.findall(text)
    if not parts or "".join(parts) != text:
        raise ValueError("a duration such as 500ms, 1m30s or 7d")
    total = 0.0
    for part in parts:
        unit = part.lstrip("0123456789.")
        total += float(part[: -len(unit)]) * _UNITS_NS[unit]
    return round(total)


def seconds(*, minimum: float, maximum: float) -> Parser:
    """Accept a duration between two numbers of seconds; the value is a float in seconds."""

    def parse(text: str) -> float:
        value = go_duration_ns(text) / 1e9
        if not minimum <= value <= maximum:
            raise ValueError(f"a duration from {minimum:g}s to {maximum:g}s such as 30s or 1m30s")
        return value

    return parse


def milliseconds(*, minimum: int, maximum: int) -> Parser:
    """Accept a duration between two numbers of milliseconds; the value is an integer."""

    def parse(text: str) -> int:
        value = go_duration_ns(text) // 1_000_000
        if not minimum <= value <= maximum:
            raise ValueError(
                f"a duration from {minimum}ms to {maximum // 1000}s such as 90s, 24h or 7d"
            )
        return value

    return parse


def integer(*, minimum: int, maximum: int) -> Parser:
    """Accept a whole number from ``minimum`` to ``maximum``."""

    def parse(text: str) -> int:
        # Not int() alone, which also accepts "1_000", " 5" and digits of other alphabets.
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def boolean(text: str) -> bool:
    """Accept true/false, 1/0, yes/no, on/off in any case."""
    lowered = text.lower()
    if lowered not in _TRUE | _FALSE:
        raise ValueError("true or false")
    return lowered in _TRUE


def one_of(*choices: str) -> Parser:
    """Accept one of ``choices``, in any case; the value is written as in ``choices``."""

    def parse(text: str) -> str:
        for choice in choices:
            if text.lower() == choice.lower():
                return choice
        raise ValueError("one of " + ", ".join(choices))

    return parse


def words(text: str) -> tuple[str, ...]:
    """Accept words separated by commas. Spaces around words and empty words are dropped."""
    return tuple(word for word in (piece.strip() for piece in text.split(",")) if word)


def origins(text: str) -> tuple[str, ...]:
    """Accept comma separated origins of web pages, as browsers send them: no path, lower case."""
    found = words(text)
    if not all(_ORIGIN.fullmatch(word) for word in found):
        raise ValueError("origins such as https://admin.example.com, separated by commas")
    return found


def host_names(text: str) -> tuple[str, ...]:
    """Accept comma separated host names; ``*.`` stands for all names below. Lower case results."""
    found = words(text.lower())
    if not all(len(word) <= _MAX_HOST_NAME and _HOST_NAME.fullmatch(word) for word in found):
        raise ValueError("names such as jobs.example.com or *.example.com, separated by commas")
    return found


def durations(*, minimum: float, maximum: float, count: int) -> Parser:
    """Accept up to ``count`` durations separated by commas; the value is a tuple in seconds."""
    one = seconds(minimum=minimum, maximum=maximum)

    def parse(text: str) -> tuple[float, ...]:
        found = words(text)
        if not 1 <= len(found) <= count:
            raise ValueError(f"1 to {count} durations such as 30s,2m,10m")
        return tuple(one(word) for word in found)

    return parse


def non_empty(text: str) -> str:
    """Accept any text."""
    return text
