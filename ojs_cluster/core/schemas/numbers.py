"""Classes of numbers that the library compares in very different times.

Most numbers take some nanoseconds. An integer that a float cannot represent, and a float with a
large exponent, is written out with all its digits before it is compared. Comparisons of an integer
beyond 64 bits take a time that grows with the square of its digits, so such args are never
validated in a process that serves clients (docs/adr/058).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

MAX_EXACT: Final = 2**53
"""Up to this integer, a float can represent every integer."""
_MIN_FLOAT: Final = 1e-15
_MAX_FLOAT: Final = 1e15
_LONG: Final = b"0" * 16
"""An integer above ``MAX_EXACT``, and a float outside of ``_MIN_FLOAT`` to ``_MAX_FLOAT``, has as
many digits in a row, or an exponent."""
_EXPONENT: Final = b"0e"
_CLASSES: Final = bytes.maketrans(b"123456789E", b"000000000e")


def is_unusual(number: int | float) -> bool:
    """Return whether the library may take long to compare this number."""
    if isinstance(number, int):
        return not -MAX_EXACT <= number <= MAX_EXACT
    return number != 0 and not _MIN_FLOAT <= abs(number) <= _MAX_FLOAT


def is_measured(number: int) -> bool:
    """Return whether an integer has 64 bits. Others are compared by arithmetic of any length."""
    return -(2**63) <= number < 2**64


def may_hold_unusual(args: bytes) -> bool:
    """Return whether a JSON text may contain an unusual number. A text of 1 MB takes 1 ms."""
    classes = args.translate(_CLASSES)
    return _LONG in classes or _EXPONENT in classes


class NumbersInside(msgspec.Struct, frozen=True):
    """The values in an array or object, itself included.

    Args:
        values: how many there are.
        floats: how many are floats.
        unusual_floats: how many are unusual floats.
        unusual_integers: how many are unusual integers.
        beyond: whether an integer is beyond 64 bits.
    """

    values: int
    floats: int
    unusual_floats: int
    unusual_integers: int
    beyond: bool

    @property
    def unusual(self) -> int:
        """How many are unusual numbers."""
        return self.unusual_floats + self.unusual_integers


def numbers_in(value: Any, most: int | None = None) -> NumbersInside:
    """Count the values in an array or object.

    Args:
        value: the array or object.
        most: the number of values after which counting ends; None counts all.
    """
    values = floats = unusual_floats = unusual_integers = 0
    beyond = False
    waiting = [value]
    while waiting and (most is None or values <= most):
        each = waiting.pop()
        values += 1
        if isinstance(each, list):
            waiting.extend(each)
        elif isinstance(each, dict):
            waiting.extend(each.values())
        elif isinstance(each, float):
            floats += 1
            unusual_floats += is_unusual(each)
        elif isinstance(each, int) and is_unusual(each):
            unusual_integers += 1
            beyond = beyond or not is_measured(each)
    return NumbersInside(values, floats, unusual_floats, unusual_integers, beyond)
