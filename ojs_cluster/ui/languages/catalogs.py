"""Read the languages from their files, and find the one that a browser asks for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from gettext import GNUTranslations
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Final

import polib
from werkzeug.datastructures import LanguageAccept
from werkzeug.http import parse_accept_header

from ojs_cluster.ui.languages.language import ENGLISH, Language

FOLDER: Final = Path(__file__).parent
_MAX_HEADER: Final = 500  # characters; browsers send less


def read_language(path: Path) -> Language:
    """Read a language from a file of gettext.

    Args:
        path: the file. Its name without the suffix is the code of the language, and its header has
            ``X-Name``, ``X-Direction``, ``X-Thousands`` and ``X-Decimal``, the last two in double
            quotes.

    Raises:
        KeyError: the header lacks one of these.
        OSError: the file cannot be read, or is not of the format.
    """
    file = polib.pofile(str(path))
    header = file.metadata
    return Language(
        path.stem,
        header["X-Name"],
        header["X-Direction"],
        header["X-Thousands"].strip('"'),
        header["X-Decimal"].strip('"'),
        GNUTranslations(BytesIO(file.to_binary())),
    )


@cache
def languages() -> Mapping[str, Language]:
    """Return all languages by their codes, English first. The first call reads the files."""
    others = [read_language(path) for path in sorted(FOLDER.glob("*.po"))]
    return MappingProxyType({each.code: each for each in (ENGLISH, *others)})


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
    best = parse_accept_header(accepted, LanguageAccept).best_match(list(known), ENGLISH.code)
    return known[best]
