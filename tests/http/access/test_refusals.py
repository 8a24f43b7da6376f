"""Refusals become few audit entries, independent of their number and their sources."""

from __future__ import annotations

from math import inf

from ojs_cluster.http.access.refusals import RefusalCounter

FIELDS = {"address": "192.0.2.1", "principal": None, "object": "q", "outcome": "unauthenticated"}


def test_the_first_refusal_of_a_source_is_an_entry_at_once() -> None:
    refusals = RefusalCounter(interval_s=10)
    assert refusals.count("a", FIELDS, 0.0) == {**FIELDS, "count": 1}
    assert refusals.count("a", FIELDS, 1.0) is None
    assert refusals.count("b", FIELDS, 1.0) == {**FIELDS, "count": 1}


def test_further_refusals_become_one_entry_with_their_number_after_the_interval() -> None:
    refusals = RefusalCounter(interval_s=10)
    assert refusals.next_due == inf
    for n in range(100):
        refusals.count("a", {**FIELDS, "request_id": str(n)}, n / 20)
    refusals.count("b", FIELDS, 1.0)
    assert refusals.next_due == 10.0
    assert refusals.pop_due(9.9) == []
    assert refusals.pop_due(10.0) == [{**FIELDS, "request_id": "99", "count": 99}]
    assert refusals.pop_due(inf) == []  # "b" was refused once, and has had its entry
    assert refusals.next_due == inf
    assert refusals.count("a", FIELDS, 10.1) == {**FIELDS, "count": 1}


def test_sources_above_the_bound_are_counted_together_without_a_name() -> None:
    refusals = RefusalCounter(interval_s=10, max_sources=3)
    noted = [
        refusals.count(str(n), {**FIELDS, "address": str(n), "request_id": "r"}, 0.0)
        for n in range(1000)
    ]
    entries = [entry for entry in noted if entry is not None]
    assert [entry["address"] for entry in entries] == ["0", "1", "2", None]
    assert entries[3]["principal"] is entries[3]["object"] is entries[3]["request_id"] is None
    assert len(refusals._sources) == 4
    (rest,) = refusals.pop_due(inf)
    assert (rest["address"], rest["count"]) == (None, 996)
    assert sum(entry["count"] for entry in [*entries, rest]) == 1000
