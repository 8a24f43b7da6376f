"""JSON on pages: unchanged numbers, no hidden member, no markup."""

from __future__ import annotations

import json
import threading
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from ojs_cluster.ui import json_view
from ojs_cluster.ui.json_view import (
    MAX_SHOWN,
    MAX_TOKENS,
    readable,
    short_json,
    show_json,
    show_values,
)
from ojs_cluster.ui.redaction.rules import parse_rules

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_the_shown_text_has_the_same_value(value: object, ascii_only: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    assert json.loads(unescape(_without_tags(show_json(raw)))) == value


def _without_tags(text: str) -> str:
    for tag in ("json-key", "json-text", "json-number", "json-word"):
        text = text.replace(f'<span class="{tag}">', "")
    return text.replace("</span>", "")


def test_numbers_and_repeated_members_stay_as_they_were_sent() -> None:
    raw = b'{"a":1.0,"a":12345678901234567890123,"b":1e400,"c":-0}'
    shown = _without_tags(show_json(raw))
    for part in ("1.0", "12345678901234567890123", "1e400", "-0"):
        assert part in shown
    assert shown.count("a") >= 2


def hide(raw: bytes) -> bytes:
    return parse_rules(frozenset({"password"})).json(raw, "", ("args",))


def test_a_hidden_member_shows_nothing_of_its_value() -> None:
    raw = b'{"Pass\\u0077ord":{"x":["s3cret",{"y":"s3cret"}]},"n":[{"password":"s3cret"}],"k":1}'
    shown = show_json(hide(raw), redacted=True)
    assert "s3cret" not in shown
    assert shown.count("hidden</span>") == 2
    rest = _without_tags(shown.replace('<span class="json-hidden">hidden</span>', "0"))
    assert json.loads(unescape(rest))["k"] == 1
    assert "s3cret" not in short_json(hide(raw))


def test_markup_in_a_value_is_text() -> None:
    assert "<b>" not in show_json(b'["<b>"]')
    assert show_json(b'["<b>"]').count("&lt;b&gt;") == 1


def test_large_values_are_cut_and_never_half_hidden() -> None:
    raw = json.dumps([{"password": "s3cret"}] * 10_000).encode()
    assert len(show_json(raw)) < 3 * MAX_SHOWN
    assert show_json(hide(raw), redacted=True).striptags() == "hidden"
    assert "s3cret" not in short_json(hide(raw))
    assert len(short_json(raw)) == 160


def test_nested_and_numerous_values_make_no_huge_page() -> None:
    nested = b"[" * 400 + b"1," * 31_000 + b"1" + b"]" * 400
    numerous = b'{"password":"s3cret","a":[' + b"1," * 31_000 + b"1]}"
    for raw in (nested, numerous, b"[" * 32_000 + b"]" * 32_000):
        assert len(raw) <= MAX_SHOWN
        shown = show_json(hide(raw), redacted=True)
        assert len(shown) < 1_000_000
        assert shown.count("json-number") <= MAX_TOKENS
        assert "json-cut" in shown
        assert "s3cret" not in shown
    assert short_json(hide(numerous)).endswith("…")


async def test_large_values_are_converted_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    convert = json_view.show_json

    def spy(raw: bytes, *, redacted: bool = False) -> Markup:
        threads.append(threading.get_ident())
        return convert(raw, redacted=redacted)

    monkeypatch.setattr(json_view, "show_json", spy)
    large = json.dumps([1] * 20_000).encode()
    hidden = hide(b'{"password":"s3cret"}')
    shown = await show_values({"args": large, "meta": hidden}, redacted=True)
    assert shown["args"] == convert(large, redacted=True)
    assert "s3cret" not in shown["meta"]
    assert threading.get_ident() not in threads
    threads.clear()
    assert await show_values({"n": b"[1]"}) == {"n": convert(b"[1]")}
    assert threads == [threading.get_ident()]


def test_text_cannot_change_the_direction_of_what_follows() -> None:
    assert readable("a\u202eb") == "a\\u202eb"
    assert "\u202e" not in show_json('["\u202e"]'.encode())
