"""What a language is, and which one the current request speaks."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from gettext import NullTranslations
from typing import Final

from markupsafe import Markup


@dataclass(slots=True, eq=False)
class Language:
    """A language of the dashboard.

    Attributes:
        code: its tag, such as ``de`` (BCP 47).
        name: its name in the language itself.
        direction: ``ltr`` if lines run from left to right, otherwise ``rtl``.
        thousands: what separates groups of three digits.
        decimal: what separates the decimals.
        translations: the texts; None until they are read, for the first page in this language.
        next_read_s: monotonic time in seconds before which the texts are not read again after a
            failure.
        shown: texts without values as templates show them. Texts are literals, so they are few.
    """

    code: str
    name: str
    direction: str
    thousands: str
    decimal: str
    translations: NullTranslations | None = None
    next_read_s: float = 0.0
    shown: dict[str, Markup] = field(default_factory=dict)

    def gettext(self, text: str) -> str:
        """Return the text in this language, or as it is if there is none."""
        # An empty text would get the header of the file.
        return self.translations.gettext(text) if self.translations and text else text

    def ngettext(self, one: str, many: str, count: int) -> str:
        """Return the text for a number of things in this language."""
        found = self.translations or _NOTHING
        return found.ngettext(one, many, count)


_NOTHING: Final = NullTranslations()
ENGLISH: Final = Language("en", "English", "ltr", ",", ".", _NOTHING)
"""The language in which texts are written, so it needs no translations."""
_current: Final[ContextVar[Language]] = ContextVar("language", default=ENGLISH)


def current() -> Language:
    """Return the language of the request that runs in this task; English outside of requests."""
    return _current.get()


def speak(language: Language) -> None:
    """Answer the request that runs in this task in a language."""
    _current.set(language)
