"""What a language is, and which one the current request speaks."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from gettext import NullTranslations
from typing import Final


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """A language of the dashboard.

    Attributes:
        code: its tag, such as ``de`` or ``pt-BR`` (BCP 47).
        name: its name in the language itself.
        direction: ``ltr`` if lines run from left to right, otherwise ``rtl``.
        thousands: what separates groups of three digits.
        decimal: what separates the decimals.
        translations: the texts.
    """

    code: str
    name: str
    direction: str
    thousands: str
    decimal: str
    translations: NullTranslations


ENGLISH: Final = Language("en", "English", "ltr", ",", ".", NullTranslations())
"""The language in which texts are written, so it needs no translations."""
_current: Final[ContextVar[Language]] = ContextVar("language", default=ENGLISH)


def current() -> Language:
    """Return the language of the request that runs in this task; English outside of requests."""
    return _current.get()


def speak(language: Language) -> None:
    """Answer the request that runs in this task in a language."""
    _current.set(language)
