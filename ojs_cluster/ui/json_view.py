"""Show JSON as it was sent: numbers of any size, the order of members, and repeated members.

The text is split into tokens and never converted to values. Only string escapes are decoded,
because many clients send every letter beyond ASCII as an escape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from markupsafe import Markup, escape

MAX_SHOWN: Final = 64 * 1024
"""Maximum size in bytes of a value that is indented; a larger one is cut off."""
HIDDEN: Final = "hidden"
_INDENT: Final = "  "
_token: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{},:]|[^\s\[\]{},:"]++').finditer
_WORDS: Final = {"true": "json-word", "false": "json-word", "null": "json-word"}
# Characters that change the direction of the text around them, or that are invisible.
_MISLEADING: Final = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def show_json(raw: bytes, redact: frozenset[str] = frozenset()) -> Markup:
    """Return JSON as indented HTML.

    Args:
        raw: valid JSON.
        redact: lower-case names of members whose values are replaced by ``HIDDEN``.
    """
    text = raw.decode(errors="replace")
    if len(raw) > MAX_SHOWN:
        # A cut value cannot be indented, and members to hide could not be found in it.
        shown = Markup("") if redact else escape(text[:MAX_SHOWN])
        return shown + Markup('\n<span class="json-cut">… {} bytes in all</span>').format(len(raw))
    return Markup("").join(_pieces(text, redact))


def short_json(raw: bytes, redact: frozenset[str] = frozenset(), size: int = 160) -> str:
    """Return the beginning of a JSON text in one line, at most ``size`` characters."""
    if redact and len(raw) > MAX_SHOWN:
        return HIDDEN  # a cut value could show a member to hide
    text = raw[: size * 6].decode(errors="replace")  # an escape such as \u0041 has six bytes
    if redact:
        text = Markup("").join(_pieces(raw.decode(errors="replace"), redact)).striptags()
    text = readable(text)
    return text if len(text) <= size else text[: size - 1] + "…"


def readable(text: str) -> str:
    """Return a text whose misleading characters are replaced by their escapes."""
    return _MISLEADING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _pieces(text: str, redact: frozenset[str]) -> Iterator[Markup]:
    """Yield the HTML of each token, with line ends and indents between them."""
    tokens = [found[0] for found in _token(text)]
    depth, at = 0, 0
    while at < len(tokens):
        piece, following = tokens[at], "".join(tokens[at + 1 : at + 2])
        at += 1
        if piece in "[{":
            depth += 1
            yield Markup("{}").format(piece)
            if following not in ("]", "}"):
                yield _line(depth)
        elif piece in "]}":
            depth -= 1
            if tokens[at - 2] not in ("[", "{"):
                yield _line(depth)
            yield Markup("{}").format(piece)
        elif piece == ",":
            yield Markup(",") + _line(depth)
        elif piece == ":":
            yield Markup(": ")
        elif following == ":":
            yield _span("json-key", _decoded(piece))
            if redact and _name(piece) in redact:
                at = _end_of_value(tokens, at + 1)
                yield Markup(": ") + _span("json-hidden", HIDDEN)
        else:
            yield _span(*_value(piece))


def _end_of_value(tokens: Sequence[str], at: int) -> int:
    """Return the index of the token after the value that begins at ``at``."""
    depth = 0
    while at < len(tokens):
        depth += (tokens[at] in "[{") - (tokens[at] in "]}")
        at += 1
        if depth <= 0:
            break
    return at


def _line(depth: int) -> Markup:
    return Markup("\n{}").format(_INDENT * depth)


def _value(token: str) -> tuple[str, str]:
    if token[0] == '"':
        return "json-text", _decoded(token)
    return _WORDS.get(token, "json-number"), token


def _span(kind: str, text: str) -> Markup:
    return Markup('<span class="{}">{}</span>').format(kind, text)


def _name(token: str) -> str:
    try:
        return str(json.loads(token)).lower()
    except ValueError:
        return ""


def _decoded(token: str) -> str:
    """Return a string without needless escapes."""
    with suppress(ValueError):
        token = json.dumps(json.loads(token), ensure_ascii=False)
    return readable(token.encode(errors="backslashreplace").decode())
