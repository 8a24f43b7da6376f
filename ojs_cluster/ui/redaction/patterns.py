"""Find texts that no page shows, such as card numbers, wherever they are.

No pattern takes more than linear time: each begins only where a word does, or is short.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate
from typing import Final

from ojs_cluster.ui.json_view import HIDDEN

_MAX_STARS: Final = 4
_MAX_GLOB: Final = 100
_MAX_WORD: Final = 2000
"""Longest word that is compared with a pattern of the operator; longer ones are hidden."""
_MIN_CARD: Final = 13
_words: Final = re.compile(r"[^\s\"'<>(),;:=]+")
_cards: Final = re.compile(r"(?<![0-9])[0-9](?:[ -]?[0-9]){12,18}(?![0-9])")
_emails: Final = re.compile(
    r"(?<![\w.%+-])[\w.%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+"
)
_ibans: Final = re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_tokens: Final = re.compile(
    r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{5,}+\.[A-Za-z0-9_-]++(?:\.[A-Za-z0-9_-]*+)?"
)

Replace = Callable[[str], str]
"""Returns a text without what a pattern finds."""


def pattern(text: str) -> Replace:
    """Return what hides the matches of a pattern.

    Args:
        text: ``card``, ``email``, ``iban``, ``jwt``, or a word with ``*``, ``?`` and ``[...]``.

    Raises:
        ValueError: the pattern is none of these, or too long.
    """
    named = _NAMED.get(text.lower())
    if named is not None:
        return named
    if not text.strip("*?") or len(text) > _MAX_GLOB or text.count("*") > _MAX_STARS:
        raise ValueError("value:card, value:email, value:iban, value:jwt, or a word such as sk_*")
    matches = re.compile(translate(text.lower())).match

    def hide_word(found: re.Match[str]) -> str:
        word = found[0]
        return HIDDEN if len(word) > _MAX_WORD or matches(word.lower()) else word

    return lambda text: _words.sub(hide_word, text)


def _hide_card(found: re.Match[str]) -> str:
    """Hide a number whose check digit is that of a card."""
    digits = [int(char) for char in found[0] if char.isdigit()]
    doubled = [(2 * digit - 9 * (digit > 4)) for digit in digits[-2::-2]]
    is_card = len(digits) >= _MIN_CARD and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
    return HIDDEN if is_card else found[0]


_NAMED: Final[dict[str, Replace]] = {
    "card": lambda text: _cards.sub(_hide_card, text),
    "email": lambda text: _emails.sub(HIDDEN, text),
    "iban": lambda text: _ibans.sub(HIDDEN, text),
    "jwt": lambda text: _tokens.sub(HIDDEN, text),
}
