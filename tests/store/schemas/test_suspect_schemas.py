"""What the processes of a node know about schemas with which one of them ended."""

from __future__ import annotations

import pytest

from ojs_cluster.store.ground.process_state import suspect_schemas
from ojs_cluster.store.ground.process_state.suspect_schemas import SuspectSchemas, digest_of


def test_a_schema_is_suspect_in_all_processes_after_one_has_ended() -> None:
    shared = memoryview(bytearray(SuspectSchemas.size(2)))
    one, two, supervisor = (SuspectSchemas(shared, index) for index in (0, 1, 0))
    poison, other = digest_of(b"poison"), digest_of(b"other")
    one.begin(poison)
    two.begin(other)
    two.end(other)
    assert not supervisor.blame(1), "it ended between two validations"
    assert poison not in two
    assert supervisor.blame(0)
    assert not supervisor.blame(0), "the next process has not validated yet"
    assert poison in one
    assert poison in two
    assert other not in two


def test_a_schema_stays_noted_while_others_are_validated_with() -> None:
    found = SuspectSchemas()
    found.begin(7)  # a thread compiles it
    found.begin(8)
    found.end(8)
    assert found.blame(0)
    assert 7 in found
    assert 8 not in found


def test_a_schema_is_suspect_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms = 1_000
    monkeypatch.setattr(suspect_schemas, "_now_ms", lambda: now_ms)
    found = SuspectSchemas()
    found.begin(7)
    found.blame(0)
    now_ms += 599_999
    assert 7 in found
    now_ms += 1
    assert 7 not in found
    found.begin(7)
    found.blame(0)
    assert 7 in found


def test_the_oldest_entries_are_replaced() -> None:
    found = SuspectSchemas()
    for digest in range(1, 200):
        found.begin(digest)
        found.blame(0)
    assert [digest for digest in range(1, 200) if digest in found] == list(range(136, 200))
