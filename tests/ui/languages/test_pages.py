"""Pages in the language of the browser, or in the one that its user has chosen."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import polib
import pytest

from ojs_cluster.ui import formats
from ojs_cluster.ui.languages import catalogs
from ojs_cluster.ui.languages.catalogs import FOLDER, language_of, languages, read_texts
from ojs_cluster.ui.languages.language import ENGLISH, current, speak
from tests.ui.dashboard import Running
from tests.ui.demo import Demo
from tests.ui.every_page import every_page
from tests.ui.test_pages import page

REFRESH = {"HX-Request": "true"}


@pytest.mark.parametrize(
    ("chosen", "accepted", "expected"),
    [
        (None, "", "en"),
        (None, "de-AT,de;q=0.9,en;q=0.5", "de"),
        (None, "en-US,en;q=0.9,de;q=0.8", "en"),
        (None, "zh-TW", "zh"),
        (None, "tlh, de;q=0.1", "de"),
        (None, "*", "en"),
        (None, "de," * 300, "en"),
        (None, "\x00;q=x,,;", "en"),
        ("es", "de", "es"),
        ("en", "de", "en"),
        ("../de", "de", "de"),
    ],
)
def test_the_choice_comes_before_the_language_of_the_browser(
    chosen: str | None, accepted: str, expected: str
) -> None:
    assert language_of(chosen, accepted).code == expected


@pytest.mark.parametrize("code", sorted(languages()))
def test_every_page_is_shown_in_each_language(running: Running, demo: Demo, code: str) -> None:
    language = languages()[code]
    with running.browser() as client:
        client.headers["accept-language"] = code
        for path in every_page(demo).values():
            answer = client.get(f"/ui/{path}")
            expected = {"nothing": 404, "jobs?query=colour:red": 400}.get(path, 200)
            assert answer.status_code == expected, path
            head = f'<html lang="{code}" dir="{language.direction}"'
            assert head in answer.text, path
        title = re.search(r"<title>(.+?) ·", client.get("/ui/queues").text)
    assert title
    assert title[1] == language.gettext("Queues")


def test_the_choice_is_kept_by_the_browser_and_other_viewers_keep_theirs(
    running: Running, admin: httpx.Client
) -> None:
    with running.browser() as client:
        client.headers["accept-language"] = "es"
        sent = client.post("/ui/language", data={"language": "de", "back": "queues"})
        assert (sent.status_code, sent.headers["location"]) == (303, "./queues")
        assert "max-age=31536000" in sent.headers["set-cookie"].lower()
        for _ in range(2):  # what viewers share is kept between the two
            german = client.get("/ui/", headers=REFRESH).text
            english = admin.get("/ui/", headers=REFRESH).text
            assert german != english
            heading = re.compile(r"<h2[^>]*>([^<]+)<")
            gettext = languages()["de"].gettext
            assert heading.findall(german) == [gettext(h) for h in heading.findall(english)]
        unknown = client.post("/ui/language", data={"language": "xx", "back": "//example.com"})
        assert unknown.headers["location"] == "./"
        assert '<html lang="es"' in client.get("/ui/queues").text


def test_a_language_whose_file_cannot_be_read_is_shown_in_english(
    running: Running,
    demo: Demo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    language = languages()["ja"]
    (tmp_path / "ja.po").write_bytes(b'msgid "\xff')
    with running.browser() as client, monkeypatch.context() as patch:
        client.headers["accept-language"] = "ja"
        patch.setattr(catalogs, "FOLDER", tmp_path)
        patch.setattr(language, "translations", None)
        patch.setattr(language, "next_read_s", 0.0)
        for _ in range(2):
            assert '<html lang="en"' in page(client, "/ui/queues")
        told = [each for each in caplog.messages if "ja.po" in each]
        assert len(told) == 1
        patch.setattr(catalogs, "FOLDER", FOLDER)
        patch.setattr(language, "next_read_s", 0.0)
        assert '<html lang="ja"' in page(client, "/ui/queues"), "it is read again"


def test_a_text_without_a_translation_is_shown_in_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = polib.pofile(str(FOLDER / "de.po"))
    for entry in list(file):
        if entry.msgid == "Queues":
            entry.msgstr = ""
        elif entry.msgid == "Workers":
            file.remove(entry)
    file.save(str(tmp_path / "de.po"))
    monkeypatch.setattr(catalogs, "FOLDER", tmp_path)
    language = catalogs.read_language(tmp_path / "de.po")
    read_texts(language)
    shown = [language.gettext(text) for text in ("Queues", "Workers", "Jobs")]
    assert shown == ["Queues", "Workers", languages()["de"].gettext("Jobs")]


def test_a_language_with_a_damaged_header_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catalogs, "FOLDER", tmp_path)
    (tmp_path / "de.po").write_bytes((FOLDER / "de.po").read_bytes())
    (tmp_path / "es.po").write_text('msgid ""\nmsgstr ""\n')
    assert [*languages.__wrapped__()] == ["en", "de"]
    assert ["es.po" in each for each in caplog.messages] == [True]


def test_numbers_have_the_separators_of_the_language() -> None:
    before = current()
    try:
        read_texts(languages()["de"])
        speak(languages()["de"])
        assert [formats.number(each) for each in (1_234_567, 0.25, None)] == [
            "1.234.567",
            "0,25",
            formats.NONE,
        ]
        assert formats.plain(1234.5) == "1234.5", "scripts read it"
        speak(ENGLISH)
        assert formats.number(1_234_567) == "1,234,567"
        assert formats.duration(26_329 * 86_400_000) == "26,329 d"
    finally:
        speak(before)
