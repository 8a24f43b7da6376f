"""Show JSON as it was sent: numbers of any size, the order of members, and repeated members.

The text is split into tokens and never converted to values. Only string escapes are decoded,
because many clients send every letter beyond ASCII as an escape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

from markupsafe import Markup, escape

from ojs_cluster.core.raw_json import Raw
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.ui.languages.translate import _

MAX_SHOWN: Final = 64 * 1024
"""Maximum size in bytes of a value that is indented; a larger one is cut off."""
MAX_TOKENS: Final = 10_000
"""Maximum number of tokens of a value that is shown, to bound the time on the event loop."""
_LARGE: Final = 8 * 1024
"""Size in bytes of the values of a page above which they are converted in a thread. Values of this
size take up to 10 ms."""
HIDDEN: Final = "hidden"
_HIDDEN_TEXT: Final = f'"{HIDDEN}"'
_INDENT: Final = "  "
_MAX_INDENTS: Final = 32
"""Deeper levels share an indent. Otherwise 64 KiB of nested arrays become a page of 60 MB."""
_token: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{},:]|[^\s\[\]{},:"]++').finditer
_WORDS: Final = {"true": "json-word", "false": "json-word", "null": "json-word"}
# Characters that change the direction of the text around them, or that are invisible.
_MISLEADING: Final = re.compile("[\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


async def show_values(
    values: Mapping[str, bytes | Raw], *, redacted: bool = False
) -> dict[str, Markup]:
    """Return what ``show_json`` returns for each value, without blocking the event loop for long.

    Large values are converted in a thread: two of the largest size take 0.15 s.

    Args:
        values: valid JSON by name.
        redacted: as for ``show_json``.
    """
    raws = {name: bytes(raw) for name, raw in values.items()}

    def show() -> dict[str, Markup]:
        return {name: show_json(raw, redacted=redacted) for name, raw in raws.items()}

    return await off_loop(show, sum(map(len, raws.values())), large=_LARGE)


def show_json(raw: bytes, *, redacted: bool = False) -> Markup:
    """Return JSON as indented HTML.

    Args:
        raw: valid JSON.
        redacted: whether the text ``hidden`` stands for a value that the operator hides.
    """
    text = raw.decode(errors="replace")
    if len(raw) > MAX_SHOWN:  # a cut value cannot be indented
        shown = escape(text[:MAX_SHOWN])
        return shown + _end_of_cut(len(raw))
    tokens = _tokens(text, MAX_TOKENS)
    shown = _html(tokens[:MAX_TOKENS], redacted)
    if len(tokens) > MAX_TOKENS:
        shown += _end_of_cut(len(raw))
    return shown


def _end_of_cut(size: int) -> Markup:
    """Return what stands below a value of ``size`` bytes that is not shown to its end."""
    words = _("… %(number)s bytes in all", number=size)
    return Markup('\n<span class="json-cut">{}</span>').format(words)


def short_json(raw: bytes, size: int = 160) -> str:
    """Return the beginning of a JSON text in one line, at most ``size`` characters."""
    text = readable(raw[: size * 6].decode(errors="replace"))  # an escape has up to six bytes
    return text if len(text) <= size else text[: size - 1] + "…"


def readable(text: str) -> str:
    """Return a text whose misleading characters are replaced by their escapes."""
    return _MISLEADING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def tokens_of(text: str) -> list[str]:
    """Return the tokens of a JSON text."""
    return [found[0] for found in _token(text)]


def _tokens(text: str, most: int) -> list[str]:
    """Return the first tokens of a JSON text, at most one more than ``most``."""
    return [found[0] for found in islice(_token(text), most + 1)]


def _html(tokens: Sequence[str], redacted: bool) -> Markup:
    # One Markup for each token would take 25 us: most of a second for a value of 64 KiB.
    return Markup("".join(_pieces(tokens, redacted)))  # noqa: S704 (_span escapes what clients sent)


def _pieces(tokens: Sequence[str], redacted: bool) -> Iterator[str]:
    """Yield the HTML of each token, with line ends and indents between them."""
    depth, at = 0, 0
    while at < len(tokens):
        piece, following = tokens[at], "".join(tokens[at + 1 : at + 2])
        at += 1
        if piece in "[{":
            depth += 1
            yield piece
            if following not in ("]", "}"):
                yield _line(depth)
        elif piece in "]}":
            depth -= 1
            if tokens[at - 2] not in ("[", "{"):
                yield _line(depth)
            yield piece
        elif piece == ",":
            yield "," + _line(depth)
        elif piece == ":":
            yield ": "
        elif following == ":":
            yield _span("json-key", _decoded(piece))
        elif redacted and piece == _HIDDEN_TEXT:
            yield _span("json-hidden", HIDDEN)
        else:
            yield _span(*_value(piece))


def end_of_value(tokens: Sequence[str], at: int) -> int:
    """Return the index of the token after the value that begins at ``at``."""
    depth = 0
    while at < len(tokens):
        depth += (tokens[at] in "[{") - (tokens[at] in "]}")
        at += 1
        if depth <= 0:
            break
    return at


def _line(depth: int) -> str:
    return "\n" + _INDENT * min(depth, _MAX_INDENTS)


def _value(token: str) -> tuple[str, str]:
    if token[0] == '"':
        return "json-text", _decoded(token)
    return _WORDS.get(token, "json-number"), token


def _span(kind: str, text: str) -> str:
    return f'<span class="{kind}">{escape(text)}</span>'


def name_of(token: str) -> str:
    """Return the lower-case name of a member from its token; empty if it is damaged."""
    try:
        return str(json.loads(token)).lower()
    except ValueError:
        return ""


def _decoded(token: str) -> str:
    """Return a string without needless escapes."""
    if token.isascii() and "\\" not in token:
        return token
    with suppress(ValueError):
        token = json.dumps(json.loads(token), ensure_ascii=False)
    return readable(token.encode(errors="backslashreplace").decode())
