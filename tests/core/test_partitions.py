"""The stages of a change, in pure form: workers always search what producers use."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.partitions import DRAIN_MS, PROPAGATION_MS, PartitionLayout
from ojs_cluster.keys import MAX_SHARDS, Keyspace

STEPS = st.tuples(
    st.sampled_from(["change", "reopen", "drain"]), st.integers(1, 64), st.integers(0, 2 * DRAIN_MS)
)


@given(st.lists(STEPS, max_size=20))
def test_producers_only_use_partitions_that_workers_search(
    steps: list[tuple[str, int, int]],
) -> None:
    layout, now = PartitionLayout.of_count(1), 10**12
    for what, number, after in steps:
        now += after
        before, stale_count = layout, layout.producer_count(now)
        if what == "change":
            layout = layout.resized(number, now)
        elif what == "reopen":
            layout = layout.with_open(number, now)
        else:
            live = min(number, layout.occupied_count)
            layout = layout.after_live_check(live, now)
            assert layout.open_count >= live
        assert PartitionLayout.parse(layout.pack().encode()) == layout
        assert 1 <= layout.producer_count(now) <= layout.open_count <= layout.occupied_count
        assert layout.count <= layout.open_count
        # A process that has not read the change uses partitions that workers search.
        assert stale_count <= layout.open_count
        assert layout.producer_count(now) <= max(before.producer_count(now), 1)


def test_growth_reaches_workers_first_and_producers_later() -> None:
    grown = PartitionLayout.of_count(2).resized(8, 1000)

    assert (
        grown.open_count,
        grown.producer_count(1000),
        grown.producer_count(999 + PROPAGATION_MS),
    ) == (8, 2, 2)
    assert grown.producer_count(1000 + PROPAGATION_MS) == 8


def test_shrinking_reaches_producers_at_once_and_workers_when_it_is_empty() -> None:
    shrunk = PartitionLayout.of_count(8).resized(2, 1000)

    assert (shrunk.open_count, shrunk.producer_count(1000)) == (8, 2)
    assert shrunk.after_live_check(0, 999 + DRAIN_MS) == shrunk
    assert shrunk.after_live_check(5, 1000 + DRAIN_MS).open_count == 5
    closed = shrunk.after_live_check(0, 1000 + DRAIN_MS)
    assert (closed.count, closed.open_count, closed.occupied_count) == (2, 2, 8)
    assert closed.needs_check(closed.changed_at_ms + DRAIN_MS)
    assert not closed.needs_check(closed.changed_at_ms + 2 * DRAIN_MS)


def test_the_same_number_changes_nothing() -> None:
    layout = PartitionLayout.of_count(4).resized(8, 1000)
    assert layout.resized(8, 5000) is layout


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 8, 64, 100, 1000, MAX_SHARDS])
def test_partitions_have_different_shards_that_name_them(shards: int) -> None:
    keys = Keyspace(shards)
    for queue in ("default", "mail", "a.b-c"):
        found = keys.partitions(queue, keys.max_partitions)
        assert len(set(found)) == keys.max_partitions == min(64, shards)
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


def test_the_shards_of_partitions_never_change() -> None:
    """It is part of the layout of data that exists."""
    assert [shard.index for shard in Keyspace(64).partitions("mail", 6)] == [8, 47, 22, 61, 36, 11]


ANNOUNCED = PartitionLayout.of_count(2).announced(4, 10**6).without_announcement()


@pytest.mark.parametrize("behind_ms", [0, 60_000])
def test_producers_use_all_partitions_of_a_pinned_queue_although_the_clock_steps_back(
    behind_ms: int,
) -> None:
    now = 10**6 + PROPAGATION_MS
    pinned = ANNOUNCED.pinned(now)
    assert pinned.producer_count(now - behind_ms) == 2
    assert replace(pinned, changed_at_ms=now).producer_count(now - behind_ms) == 2
    # An earlier version uses the previous number, here 0, until the change is propagated.
    assert pinned.is_propagated(now - behind_ms)


def test_a_pinned_queue_stays_pinned_when_its_partitions_open_and_close() -> None:
    now = 10**6 + PROPAGATION_MS
    reserved = ANNOUNCED.pinned(now).reserved(8, now)
    opened = reserved.with_open(8, now)
    closed = opened.after_live_check(0, now + DRAIN_MS)
    for layout, at_ms in ((reserved, now), (opened, now), (closed, now + DRAIN_MS)):
        assert layout.is_pinned
        assert layout.is_temporary, "it takes no place of the operators' entries"
        assert (layout.producer_count(at_ms), layout.is_propagated(at_ms)) == (2, True)
    assert (reserved.open_count, opened.open_count, closed.open_count) == (2, 8, 2)
    assert opened.after_live_check(0, now) == opened, "a late producer may still use them"
    assert not opened.resized(2, now).is_pinned


def test_only_a_stable_default_replaces_an_entry() -> None:
    """The partitions of another default may lack the settings of the queue."""
    default = PartitionLayout.of_count(4).resized(1, 10**6)
    own = PartitionLayout.of_count(1)
    assert own.is_replaced_by(PartitionLayout.of_count(1))
    assert not own.is_replaced_by(PartitionLayout.of_count(1).announced(4, 10**6))
    assert not own.is_replaced_by(default), "a raised default uses its open partitions at once"
    assert own.is_replaced_by(default.after_live_check(0, 10**6 + DRAIN_MS))
