"""Refreshes of open pages: only the content, and nothing if nothing has changed."""

from __future__ import annotations

import httpx

from ojs_cluster.ui.fragments import Fragments, without_known_rows
from tests.support.servers import wait_until
from tests.ui.dashboard import Running
from tests.ui.demo import Demo

REFRESH = {"HX-Request": "true"}


def test_fragments_of_one_name_are_rendered_once() -> None:
    fragments, rendered = Fragments(), []

    def render(text: str) -> bytes:
        rendered.append(text)
        return text.encode()

    first = fragments.get("a", lambda: render("x"))
    again = fragments.get("a", lambda: render("y"))
    assert again is first
    assert fragments.get(None, lambda: render("z")).etag != first.etag
    assert fragments.get(None, lambda: render("x")).etag == first.etag
    assert rendered == ["x", "z", "x"]
    for number in range(60):
        fragments.get(number, lambda: b"0")
        fragments.get("a", lambda: render("never"))
    assert len(fragments._kept) == 50, "the oldest ones make room"
    large = b"l" * 100_000
    assert fragments.get("large", lambda: large).body == large
    assert "large" not in fragments._kept


def test_a_refresh_gets_the_content_without_the_frame(admin: httpx.Client) -> None:
    for path in ("", "queues", "jobs", "dead", "workers", "cron", "operations", "audit"):
        whole = admin.get(f"/ui/{path}").text
        fragment = admin.get(f"/ui/{path}", headers=REFRESH)
        assert fragment.status_code == 200
        assert "<html" in whole
        assert "<html" not in fragment.text
        assert 'aria-label="Pages"' not in fragment.text
        assert 'id="refreshed"' in fragment.text


def test_an_unchanged_page_is_not_sent_again(running: Running, admin: httpx.Client) -> None:
    first = admin.get("/ui/", headers=REFRESH)
    assert first.headers["etag"]

    def unchanged() -> bool:
        """Whether a second refresh gets nothing; jobs of other tests may change the numbers."""
        known = admin.get("/ui/", headers=REFRESH).headers["etag"]
        again = admin.get("/ui/", headers={**REFRESH, "If-None-Match": known})
        assert again.headers["etag"] == known or again.status_code == 200
        assert again.headers["cache-control"] == "no-store"
        return again.status_code == 304 and again.content == b""

    wait_until(unchanged, what="a refresh of an unchanged page")
    etag = admin.get("/ui/", headers=REFRESH).headers["etag"]
    with running.api() as api:
        api.post("/ojs/v1/jobs", json={"type": "a.b", "args": [], "options": {"queue": "etag"}})

    def changed() -> bool:
        sent = admin.get("/ui/", headers={**REFRESH, "If-None-Match": etag})
        return sent.status_code == 200 and sent.headers["etag"] != etag

    wait_until(changed, what="the new job in the sums")


def test_viewers_with_other_rights_share_no_fragment(running: Running, demo: Demo) -> None:
    with running.browser() as boss, running.browser("email-key") as team:
        for _ in range(2):
            shown = boss.get("/ui/", headers=REFRESH).text
            assert shown != team.get("/ui/", headers=REFRESH).text
            assert "workers" in shown


def test_a_note_waits_for_the_next_whole_page(running: Running, admin: httpx.Client) -> None:
    admin.post("/ui/queues/noted/pause", data={"back": "queues"})
    assert "is paused. Active jobs" not in admin.get("/ui/queues", headers=REFRESH).text
    assert "is paused. Active jobs" in admin.get("/ui/queues").text
    assert "is paused. Active jobs" not in admin.get("/ui/queues").text
    admin.post("/ui/queues/noted/resume", data={"back": "queues"})
    admin.get("/ui/queues")


def test_rows_that_the_browser_has_are_not_sent_again() -> None:
    first = b'<table><tr><th>x</th></tr></table><div id="refreshed"><tr><td>a</td></tr><tr>b</tr>'
    whole, names = without_known_rows(first, "")
    assert whole == first
    second = first.replace(b"<tr>b</tr>", b"<tr>c</tr>") + b"<tr>b</tr>"
    changed, more = without_known_rows(second, names)
    assert changed == first.partition(b"<tr><td>")[0] + (
        b'<tr data-same="0"></tr><tr>c</tr><tr data-same="1"></tr>'
    )
    assert more.split(",")[0] == names.split(",")[0]
    assert len(more.split(",")) == 3
    assert without_known_rows(second, ",".join(["x"] * 5000)) == (second, more)


def test_rows_of_one_checksum_are_different_rows() -> None:
    page = b'<div id="refreshed"><tr><td>%b</td></tr>'
    _, names = without_known_rows(page % b"plumless", "")
    assert without_known_rows(page % b"buckeroo", names)[0] == page % b"buckeroo"


def test_of_a_row_whose_times_alone_have_changed_only_these_are_sent() -> None:
    row = b'<div id="refreshed"><tr><td><time datetime="1">2 s ago</time></td><td>a</td></tr>'
    _, names = without_known_rows(row, "")
    later, same = without_known_rows(row.replace(b"2 s", b"7 s"), names)
    assert later.endswith(b'<tr data-same="0"><td>7 s ago</td></tr>')
    assert same == names
    assert without_known_rows(row.replace(b'"1"', b'"2"'), names)[1] != names


def test_a_refresh_of_a_list_gets_the_changed_rows(admin: httpx.Client) -> None:
    path = "/ui/queues?find=media&sort=name"

    def refresh(known: str) -> tuple[str, str]:
        answer = admin.get(path, headers={**REFRESH, "X-Rows": known})
        assert answer.status_code == 200
        return answer.text, answer.headers["x-rows"]

    def is_short() -> bool:
        whole, names = refresh("")
        again, _ = refresh(names)
        return again.count("data-same") == whole.count("<tr") and len(again) < len(whole) / 2

    wait_until(is_short, what="a list in which no job has changed")


def test_pages_are_compressed_for_browsers_that_accept_it(admin: httpx.Client) -> None:
    for path in ("queues", "jobs/values.json?field=queue", "static/app.js"):
        for headers in ({}, REFRESH):
            plain = admin.get(f"/ui/{path}", headers={**headers, "Accept-Encoding": "identity"})
            assert "content-encoding" not in plain.headers
            refused = {**headers, "Accept-Encoding": "br, gzip;q=0"}
            assert "content-encoding" not in admin.get(f"/ui/{path}", headers=refused).headers
            sent = admin.get(f"/ui/{path}", headers={**headers, "Accept-Encoding": "gzip, br"})
            is_large = len(plain.content) >= 1000
            assert (sent.headers.get("content-encoding") == "gzip") is is_large
            if is_large:
                assert int(sent.headers["content-length"]) < len(plain.content) / 2
