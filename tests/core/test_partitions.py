"""The stages of a change, in pure form: what producers use is always looked at by readers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.partitions import DRAIN_MS, SPREAD_MS, Layout
from ojs_cluster.keys import MAX_SHARDS, Keyspace

STEPS = st.tuples(
    st.sampled_from(["change", "reopen", "drain"]), st.integers(1, 64), st.integers(0, 2 * DRAIN_MS)
)


@given(st.lists(STEPS, max_size=20))
def test_producers_only_use_what_readers_look_at(steps: list[tuple[str, int, int]]) -> None:
    layout, now = Layout.of(1), 10**12
    for what, number, after in steps:
        now += after
        before, may_know = layout, layout.spread(now)
        if what == "change":
            layout = layout.changed(number, now)
        elif what == "reopen":
            layout = layout.reopened(number, now)
        else:
            live = min(number, layout.held)
            layout = layout.drained(live, now)
            assert layout.open >= live
        assert Layout.parse(layout.pack().encode()) == layout
        assert 1 <= layout.spread(now) <= layout.open <= layout.held
        assert layout.parts <= layout.open
        # Who has not heard of it yet goes on as before, and is found.
        assert may_know <= layout.open
        assert layout.spread(now) <= max(before.spread(now), 1)


def test_growth_reaches_readers_first_and_producers_later() -> None:
    grown = Layout.of(2).changed(8, 1000)

    assert (grown.open, grown.spread(1000), grown.spread(999 + SPREAD_MS)) == (8, 2, 2)
    assert grown.spread(1000 + SPREAD_MS) == 8


def test_shrinking_reaches_producers_at_once_and_readers_when_it_is_empty() -> None:
    shrunk = Layout.of(8).changed(2, 1000)

    assert (shrunk.open, shrunk.spread(1000)) == (8, 2)
    assert shrunk.drained(0, 999 + DRAIN_MS) == shrunk
    assert shrunk.drained(5, 1000 + DRAIN_MS).open == 5
    closed = shrunk.drained(0, 1000 + DRAIN_MS)
    assert (closed.parts, closed.open, closed.held) == (2, 2, 8)
    assert closed.to_watch(closed.at_ms + DRAIN_MS)
    assert not closed.to_watch(closed.at_ms + 2 * DRAIN_MS)


def test_a_change_to_the_same_number_is_none() -> None:
    layout = Layout.of(4).changed(8, 1000)
    assert layout.changed(8, 5000) is layout


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 8, 64, 100, 1000, MAX_SHARDS])
def test_partitions_lie_in_different_shards_and_are_told_from_them(shards: int) -> None:
    keys = Keyspace(shards)
    for queue in ("default", "mail", "a.b-c"):
        found = keys.partitions(queue, keys.most_partitions)
        assert len(set(found)) == keys.most_partitions == min(64, shards)
        assert found[0] is keys.shard_of_queue(queue)
        assert [keys.partition_of(queue, shard) for shard in found] == list(range(len(found)))


@pytest.mark.parametrize("masters", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("count", [4, 8, 16, 32, 64])
def test_partitions_spread_over_the_masters(masters: int, count: int) -> None:
    keys = Keyspace(64)
    for number in range(100):
        owned = [0] * masters
        for shard in keys.partitions(f"queue{number}", count):
            owned[shard.slot * masters // 16384] += 1
        assert max(owned) <= count / masters + 2


def test_where_partitions_lie_never_changes() -> None:
    """It is part of the layout of data that exists."""
    assert [shard.index for shard in Keyspace(64).partitions("mail", 6)] == [8, 47, 22, 61, 36, 11]
