"""Collect the marked texts of the dashboard in the files of its languages: ``make messages``.

New texts are added without a translation, and those that are gone are removed. Babel finds the
texts; its own update of a file would drop what the header says about the language. With
``--check``, which ``make release-check`` uses, it changes nothing and fails unless every language
has exactly the texts of the dashboard.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import polib
from babel.messages.frontend import CommandLineInterface

from ojs_cluster.ui.languages.catalogs import FOLDER

_ROOT = Path(__file__).parents[3]
_OPTIONS = ("-k", "later", "--add-location=file", "--sort-by-file", "--omit-header")


def texts_of_dashboard() -> polib.POFile:
    """Return all marked texts, with the files in which they stand."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "dashboard.pot"
        command = ["pybabel", "-q", "extract", "-F", str(_ROOT / "pyproject.toml"), *_OPTIONS]
        CommandLineInterface().run(  # type: ignore[no-untyped-call] # its class has no types
            [*command, "-o", str(found), str(_ROOT / "ojs_cluster/ui")]
        )
        texts = polib.pofile(str(found))
    for entry in texts:
        paths = sorted({path for path, _line in entry.occurrences})
        entry.occurrences = [(path[path.index("ojs_cluster/") :], "") for path in paths]
        entry.flags = []
    return texts


def collect(path: Path, texts: polib.POFile) -> int:
    """Update the file of a language, and return how many texts need a translation."""
    file = polib.pofile(str(path), wrapwidth=0)
    known = {(entry.msgid, entry.msgid_plural): entry for entry in file}
    merged = polib.POFile(wrapwidth=0)
    merged.header, merged.metadata = file.header, file.metadata
    for text in texts:
        entry = known.get((text.msgid, text.msgid_plural), text)
        entry.occurrences = text.occurrences
        merged.append(entry)
    merged.save(str(path))
    return sum(not entry.translated() for entry in merged)


def differences(path: Path, texts: Iterable[polib.POEntry]) -> tuple[int, int]:
    """Return how many texts a language lacks, and how many it has that are gone."""
    wanted = {(text.msgid, text.msgid_plural) for text in texts}
    file = polib.pofile(str(path))
    known = {(entry.msgid, entry.msgid_plural) for entry in file}
    translated = {(entry.msgid, entry.msgid_plural) for entry in file.translated_entries()}
    return len(wanted - translated), len(known - wanted)


def _check() -> int:
    texts = texts_of_dashboard()
    found = {path.name: differences(path, texts) for path in sorted(FOLDER.glob("*.po"))}
    for name, (missing, gone) in found.items():
        print(f"{name}: {missing} texts to translate, {gone} that are gone")
    return any(map(any, found.values()))


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(_check())
    for language in sorted(FOLDER.glob("*.po")):
        # Each file gets entries of its own.
        print(f"{language.name}: {collect(language, texts_of_dashboard())} texts to translate")
