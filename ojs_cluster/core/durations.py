"""ISO 8601 durations, in milliseconds inside the server (spec: ojs-retry section 4)."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache
from typing import Final

MAX_DURATION_MS: Final = 3_650 * 86_400_000
"""Ten years. Lua's floats represent the current Unix time plus this duration exactly."""

# [0-9] and not the digit class, which includes the digits of other scripts.
_DURATION: Final = re.compile(
    r"P(?=[0-9T])(?:(?P<years>[0-9]+)Y)?(?:(?P<months>[0-9]+)M)?"
    r"(?:(?P<weeks>[0-9]+)W)?(?:(?P<days>[0-9]+)D)?"
    r"(?:T(?=[0-9])(?:(?P<hours>[0-9]+)H)?(?:(?P<minutes>[0-9]+)M)?"
    r"(?:(?P<seconds>[0-9]+(?:[.,][0-9]+)?)S)?)?"
)
_UNIT_MS: Final = {
    "weeks": 7 * 86_400_000,
    "days": 86_400_000,
    "hours": 3_600_000,
    "minutes": 60_000,
    "seconds": 1000,
}
_MAX_CHARACTERS: Final = 64


@lru_cache(maxsize=1024)
def parse_duration_ms(text: str) -> int:
    """Return the length of an ISO 8601 duration such as ``PT1M30.5S`` or ``P1D``.

    The parser of ``msgspec`` is not used, because it accepts signs and lower case, and neither a
    decimal comma nor weeks.

    Args:
        text: the duration.

    Returns:
        The length in milliseconds, rounded to an integer.

    Raises:
        ValueError: ``text`` is not an ISO 8601 duration; it has years or months, whose length
            depends on the calendar; or it is shorter than a millisecond or longer than ten years.
            The caller puts the name of the field before the message.
    """
    match = _DURATION.fullmatch(text) if len(text) <= _MAX_CHARACTERS else None
    if match is None:
        raise ValueError(f"must be an ISO 8601 duration such as 'PT30S', not {text[:80]!r}")
    if match["years"] or match["months"]:
        raise ValueError("must not use years or months, whose length varies; use days instead")
    ms = sum(
        Decimal(match[unit].replace(",", ".")) * length
        for unit, length in _UNIT_MS.items()
        if match[unit]
    )
    if ms > MAX_DURATION_MS:
        raise ValueError(f"must be a duration of at most ten years, not {text!r}")
    if ms < 1:
        raise ValueError(f"must be between 1 ms and ten years, not {text!r}")
    return round(ms)


def format_duration(ms: int) -> str:
    """Return ``ms`` as an ISO 8601 duration, with days as hours, like all examples of OJS."""
    minutes, rest_ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest_ms / 1000:.3f}".rstrip("0").rstrip(".")
    text = "PT"
    if hours:
        text += f"{hours}H"
    if minutes:
        text += f"{minutes}M"
    if rest_ms or text == "PT":
        text += f"{seconds}S"
    return text
