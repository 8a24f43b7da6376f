"""Read the languages from their files, and find the one that a browser asks for."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import cache, lru_cache
from gettext import GNUTranslations
from io import BytesIO
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Final

import polib
import trio
from werkzeug.datastructures import LanguageAccept
from werkzeug.http import parse_accept_header

from ojs_cluster.ui.languages.language import ENGLISH, Language

log = logging.getLogger("ojs.http")

FOLDER: Final = Path(__file__).parent
_reading: Final = Lock()
_READ_AGAIN_S: Final = 60.0
"""After how many seconds texts are read again that could not be read."""
_MAX_HEADER: Final = 500  # characters; browsers send less


def read_language(path: Path) -> Language:
    """Read what the header of a file of gettext says about its language, without its texts.

    Args:
        path: the file. Its name without the suffix is the code of the language, and its header has
            ``X-Name``, ``X-Direction``, ``X-Thousands`` and ``X-Decimal``, the last two in double
            quotes.

    Raises:
        KeyError: the header lacks one of these.
        OSError: the file cannot be read.
    """
    header = polib.pofile(path.read_text().partition("\n\n")[0]).metadata
    return Language(
        path.stem,
        header["X-Name"],
        header["X-Direction"],
        header["X-Thousands"].strip('"'),
        header["X-Decimal"].strip('"'),
    )


@cache
def languages() -> Mapping[str, Language]:
    """Return all languages by their codes, English first. The first call reads the headers.

    A language whose header cannot be read is left out, and logged.
    """
    known = {ENGLISH.code: ENGLISH}
    for path in sorted(FOLDER.glob("*.po")):
        try:
            known[path.stem] = read_language(path)
        except (OSError, ValueError, KeyError) as error:
            log.warning("the dashboard lacks the language of %s: %r", path.name, error)
    return MappingProxyType(known)


def read_texts(language: Language) -> None:
    """Read the texts of a language, unless they are known.

    It takes some 50 ms. One thread reads at a time: several would delay the event loop.

    Raises:
        OSError: the file cannot be read, or is damaged.
        ValueError: the file is damaged.
    """
    with _reading:
        if language.translations is None:
            file = polib.pofile(str(FOLDER / f"{language.code}.po"))
            language.translations = GNUTranslations(BytesIO(file.to_binary()))
            language.shown.clear()


async def with_texts(language: Language) -> Language:
    """Read the texts of a language beside the event loop, unless they are known.

    Returns:
        The language; English if its texts cannot be read. They are read again after a minute at
        the earliest.
    """
    if language.translations is not None:
        return language
    if time.monotonic() < language.next_read_s:
        return ENGLISH
    try:
        await trio.to_thread.run_sync(read_texts, language)
    except Exception as error:
        now = time.monotonic()
        # Other pages may have waited for the same file.
        if now >= language.next_read_s:
            language.next_read_s = now + _READ_AGAIN_S
            log.warning(
                "the texts of %s.po cannot be read, so its pages are in English: %r",
                language.code,
                error,
            )
        return ENGLISH
    return language


@lru_cache(maxsize=200)
def _best_match(accepted: str) -> str:
    codes = list(languages())
    return parse_accept_header(accepted, LanguageAccept).best_match(codes, ENGLISH.code)


def language_of(chosen: str | None, accepted: str) -> Language:
    """Return the language for a request.

    Args:
        chosen: the code that the user has chosen, if any.
        accepted: the header ``Accept-Language``, empty if there is none.
    """
    known = languages()
    if chosen is not None and chosen in known:
        return known[chosen]
    if not accepted or len(accepted) > _MAX_HEADER:
        return ENGLISH
    return known[_best_match(accepted)]
