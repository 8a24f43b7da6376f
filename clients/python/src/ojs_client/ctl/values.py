"""Values on the command line that are JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, Final

import click

_OPENING: Final = ("{", "[", '"')
"""How a text begins that is meant to be JSON. Anything else is more likely a string."""


def parsed(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON that the server takes, such as NaN or 1e999.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number} is beyond the numbers of JSON")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def json_or_text(text: str) -> Any:
    """Return the value of a text that is JSON, or else the text itself.

    Raises:
        UsageError: the text begins like an object, an array or a string of JSON, and is none.
    """
    try:
        return parsed(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[:1] not in _OPENING:
            return text
        raise click.UsageError(
            f"{text[:80]!r} is no JSON: {error}. A string that begins with {text.lstrip()[0]} "
            "needs the quotes of JSON, as in '\"[a] b\"'."
        ) from None


def pairs(texts: Iterable[str], option: str) -> dict[str, Any]:
    """Return a JSON object from texts such as ``user=7``.

    Args:
        texts: the texts.
        option: the option that they belong to, for the error.

    Raises:
        BadParameter: a text has no ``=`` or no name.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        found[name] = json_or_text(value)
    return found
