"""Find texts that no page shows, such as card numbers, wherever they are.

No pattern takes more than linear time: each begins only where a word does, or is short.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from fnmatch import translate
from itertools import accumulate
from typing import Final

from ojs_cluster.ui.json_view import HIDDEN

_MAX_STARS: Final = 4
_MAX_GLOB: Final = 100
_CARD_SIZES: Final = range(13, 20)
_ENDS_OF_WORDS: Final = "\"'<>(),;:="
"""What ends a word, beside blanks, unless a pattern has it."""
_BETWEEN_DIGITS: Final = r"(?:[ \u00a0\u2007\u202f\u2010-\u2015-]|(?<=[0-9]{4})[._/](?=[0-9]{4}))?"
"""What separates the groups of digits of a card number. Dots and the like also separate the parts
of other numbers, such as times and addresses, whose parts are shorter than those of cards."""
_digits: Final = re.compile(rf"(?<![0-9])[0-9](?:{_BETWEEN_DIGITS}[0-9]){{12,}}+")
_groups: Final = re.compile(r"[0-9]+")
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
    return _Glob(text.lower()).hide


class _Glob:
    """A pattern with ``*``, ``?`` and ``[...]``, which also begins and ends within words.

    ``*`` stands for any characters of a word, so a word is hidden up to its end. The pieces between
    the stars have a fixed length and are searched one after the other. If they do not follow the
    first place of the first piece, they follow no later place in this word. So each word is read
    once, and nothing is tried again.

    Args:
        text: the pattern in lower case.
    """

    def __init__(self, text: str) -> None:
        ends = "".join(char for char in _ENDS_OF_WORDS if char not in text)
        inner = rf"[^\s{re.escape(ends)}]"
        first, *others = _pieces(text, inner)
        if _is_bounded(text[0]):
            first = rf"(?<![A-Za-z0-9_]){first}"
        last = others.pop() if others else ""
        if _is_bounded(text[-1]):
            end = "(?![A-Za-z0-9_])"
            first, last = (first, last + end) if last else (first + end, "")
        self._words = re.compile(f"{inner}+")
        self._first = re.compile(first, re.IGNORECASE)
        self._others = [re.compile(each, re.IGNORECASE) for each in others]
        self._last = re.compile(f"(?=({last}))", re.IGNORECASE) if last else None
        self._hides_rest = text.endswith("*")

    def hide(self, text: str) -> str:
        """Return the text without what the pattern finds."""
        if self._first.search(text) is None:
            return text
        return self._words.sub(self._hide_in_word, text)

    def _hide_in_word(self, word: re.Match[str]) -> str:
        text, at, end = word.string, word.start(), word.end()
        shown = []
        while (found := self._find(text, at, end)) is not None:
            shown += [text[at : found[0]], HIDDEN]
            at = found[1]
        return "".join([*shown, text[at:end]])

    def _find(self, text: str, at: int, end: int) -> tuple[int, int] | None:
        """Return where the pattern is in a part of a text, as far as it reaches."""
        found = self._first.search(text, at, end) if at < end else None
        if found is None:
            return None
        start, at = found.span()
        for each in self._others:
            found = each.search(text, at, end)
            if found is None:
                return None
            at = found.end()
        if self._hides_rest:
            return start, end
        if self._last is not None:
            at = max((each.end(1) for each in self._last.finditer(text, at, end)), default=0)
        return (start, at) if at else None


def _pieces(text: str, inner: str) -> Iterator[str]:
    """Yield the pieces between the stars of a pattern as regular expressions.

    Args:
        text: the pattern.
        inner: the expression of a character of a word.
    """
    piece, at = "", 0
    while at < len(text):
        char = text[at]
        # A bracket at the first place in a set does not end it.
        end = text.find("]", at + 2 + (text[at + 1 : at + 2] == "!")) if char == "[" else -1
        at += 1
        if char == "*":
            yield piece
            piece = ""
        elif char == "?":
            piece += inner
        elif end > 0:
            piece += f"(?={inner}){translate(text[at - 1 : end + 1])[4:-3]}"
            at = end + 1
        else:
            piece += re.escape(char)
    yield piece


def _is_bounded(char: str) -> bool:
    """Return whether a pattern that begins or ends with ``char`` needs a boundary there."""
    return char == "_" or char in "?[]" or char.isalnum()


def _hide_cards(found: re.Match[str]) -> str:
    """Hide each number in a row of digits that has the length and the check digit of a card.

    Other numbers may be beside it, so all that begin and end with a group of digits are compared.
    """
    text = found[0]
    groups = [group.span() for group in _groups.finditer(text)]
    digits = [int(char) for char in text if char.isdigit()]
    # Sums of the first digits, where those at even or at odd places count twice.
    sums = [
        list(
            accumulate((_twice(d) if n % 2 == odd else d for n, d in enumerate(digits)), initial=0)
        )
        for odd in (0, 1)
    ]
    counts = list(accumulate((end - start for start, end in groups), initial=0))
    shown, done = [], 0
    for first, (start, _) in enumerate(groups):
        begun = counts[first]
        shortest = bisect_left(counts, begun + _CARD_SIZES.start)
        for last in range(shortest, bisect_left(counts, begun + _CARD_SIZES.stop)):
            ended = counts[last]
            of = sums[ended % 2]  # the last digit but one counts twice
            is_decimal = text.count(".", start, groups[last - 1][1]) == 1
            if (of[ended] - of[begun]) % 10 == 0 and not is_decimal:
                if start >= done:
                    shown += [text[done:start], HIDDEN]
                done = max(done, groups[last - 1][1])
    return "".join([*shown, text[done:]])


def _twice(digit: int) -> int:
    return 2 * digit - 9 * (digit > 4)


_NAMED: Final[dict[str, Replace]] = {
    "card": lambda text: _digits.sub(_hide_cards, text),
    "email": lambda text: _emails.sub(HIDDEN, text),
    "iban": lambda text: _ibans.sub(HIDDEN, text),
    "jwt": lambda text: _tokens.sub(HIDDEN, text),
}
