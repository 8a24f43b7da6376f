"""Translations have the values and the markup of the English texts of the dashboard."""

from __future__ import annotations

import re
from collections import Counter
from gettext import c2py
from pathlib import Path

import polib
import pytest

from ojs_cluster.ui.languages.catalogs import FOLDER, languages, read_language
from tests.ui.languages.collect import differences, texts_of_dashboard
from tests.ui.languages.unmarked import find

FILES = sorted(FOLDER.glob("*.po"))
_VALUE = re.compile(r"%\((\w+)\)s")
_TAG = re.compile(r"</?[a-z][^>]*>")
_FORMS = re.compile(r"nplurals=(\d+)")


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Return all marked texts, and their plurals."""
    return {entry.msgid: entry.msgid_plural for entry in texts_of_dashboard()}


def test_all_texts_are_marked() -> None:
    assert list(find([])) == []


def test_texts_are_formats_with_named_values(texts: dict[str, str]) -> None:
    for text in filter(None, [*texts, *texts.values()]):
        values = dict.fromkeys(_VALUE.findall(text), "x")
        assert text % values, text
        assert len(re.findall(r"[^\W\d_]", text)) > 1, "no text is a piece of a sentence"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_translations_of_a_language_fit(path: Path) -> None:
    """A text without a translation is shown in English: ``make release-check`` counts them."""
    file = polib.pofile(str(path), check_for_duplicates=True)
    assert not file.obsolete_entries()
    forms = int(_FORMS.findall(file.metadata["Plural-Forms"])[0])
    form_of = c2py(file.metadata["Plural-Forms"].partition("plural=")[2].rstrip(";"))
    numbers = Counter(form_of(number) for number in range(200))
    assert len(file.translated_entries()) > 500
    for entry in file.translated_entries():
        found = list(entry.msgstr_plural.values()) if entry.msgid_plural else [entry.msgstr]
        assert len(found) == (forms if entry.msgid_plural else 1), entry.msgid
        for form, text in enumerate(found):
            # A form for a single number may say "one" or nothing instead of the number.
            names_it = bool(entry.msgid_plural) and numbers[form] == 1
            _compare(text, entry.msgid_plural or entry.msgid, names_it=names_it)


def _compare(text: str, english: str, *, names_it: bool) -> None:
    """Compare the values, the markup and the spaces at the ends of a translation."""
    assert text, english
    values = Counter(_VALUE.findall(english))
    given = Counter(_VALUE.findall(text))
    assert given == values or (names_it and set(given) <= set(values)), text
    assert text % dict.fromkeys(values, "x"), text
    assert sorted(_TAG.findall(text)) == sorted(_TAG.findall(english)), text
    # Texts are markup, also in attributes.
    assert [text.count(sign) for sign in '<>&"'] == [english.count(sign) for sign in '<>&"'], text
    for end in (0, -1):
        assert text[end].isspace() == english[end].isspace(), text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_says_how_the_language_is_written(path: Path) -> None:
    language = read_language(path)
    names = [each.name for each in languages().values()]
    assert names.count(language.name) == 1
    assert language.direction in ("ltr", "rtl")
    assert len(language.decimal) == len(language.thousands) == 1
    assert language.decimal != language.thousands
    assert language.name.strip()


def test_a_release_needs_every_translation(tmp_path: Path) -> None:
    texts = [polib.POEntry(msgid=text) for text in ("Retry", "Cancel", "Pause")]
    file = polib.POFile()
    file.append(polib.POEntry(msgid="Retry", msgstr="Wiederholen"))
    file.append(polib.POEntry(msgid="Cancel", msgstr=""))
    file.append(polib.POEntry(msgid="Gone", msgstr="Weg"))
    file.save(str(tmp_path / "xx.po"))
    assert differences(tmp_path / "xx.po", texts) == (2, 1)
