"""Scopes, and patterns of queue names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.access.scopes import (
    ALL_SCOPES,
    PRESETS,
    QueuePatterns,
    Scope,
    is_queue_pattern,
)


def test_scopes_are_those_of_the_specification() -> None:
    assert set(Scope) == {
        "ojs:data:read",
        "ojs:data:write",
        "ojs:worker",
        "ojs:admin:read",
        "ojs:admin:write",
        "ojs:admin:purge",
    }
    assert list(PRESETS) == ["producer", "worker", "viewer", "operator", "admin"]
    assert Scope.WORKER not in PRESETS["producer"]
    assert Scope.DATA_WRITE not in PRESETS["worker"]
    assert Scope.ADMIN_PURGE not in PRESETS["operator"]
    assert PRESETS["admin"] == ALL_SCOPES


@pytest.mark.parametrize(
    ("pattern", "admitted", "refused"),
    [
        ("mail", ["mail"], ["mail-1", "email", "mai", "mail\n"]),
        ("mail-*", ["mail-", "mail-1", "mail-a.b"], ["mail", "amail-1", "mail.1"]),
        ("*", ["a", "mail-1"], []),
        ("a*c*e", ["ace", "abcde", "a-c-c-e"], ["acf", "aec"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_a_pattern_admits_a_name_or_what_its_stars_stand_for(
    pattern: str, admitted: list[str], refused: list[str]
) -> None:
    patterns = QueuePatterns([pattern])
    assert [queue for queue in admitted if not patterns.admits(queue)] == []
    assert [queue for queue in refused if patterns.admits(queue)] == []


def test_without_patterns_no_queue_is_accessible() -> None:
    assert not QueuePatterns([]).admits("mail")


@given(
    st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=12), st.text("ab", max_size=9)
)
def test_patterns_agree_with_a_matcher_of_one_line(pieces: list[str], queue: str) -> None:
    pattern = "".join(pieces)

    def matches(p: str, q: str) -> bool:
        if not p:
            return not q
        if p[0] == "*":
            return matches(p[1:], q) or (bool(q) and matches(p, q[1:]))
        return bool(q) and p[0] == q[0] and matches(p[1:], q[1:])

    assert QueuePatterns([pattern]).admits(queue) == matches(pattern, queue)


@pytest.mark.parametrize("text", ["", "A", "a b", "[a]", "a?", "-a", "a" * 1000])
def test_a_pattern_must_match_valid_queue_names(text: str) -> None:
    assert not is_queue_pattern(text)
