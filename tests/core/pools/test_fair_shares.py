"""How jobs are divided among the queues of a pool, without Redis."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.pools.fair_shares import FairShares, plan_deepest
from ojs_cluster.core.pools.pool import Pool, decode, encode, new_pool

WEIGHTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 1000), min_size=1, max_size=8)


@given(weights=WEIGHTS, counts=st.lists(st.integers(1, 20), min_size=1, max_size=20))
def test_no_queue_is_ever_far_from_its_share(weights: dict[str, int], counts: list[int]) -> None:
    shares, full = FairShares(weights), dict.fromkeys(weights, 10**6)
    got: Counter[str] = Counter()
    for count in counts:
        planned = shares.plan(count, full)
        assert sum(planned.values()) == count
        got.update(planned)
        total, all_weights = got.total(), sum(weights.values())
        for queue, weight in weights.items():
            assert abs(got[queue] - total * weight / all_weights) <= len(weights)


def test_the_shares_stay_exact_over_millions_of_jobs() -> None:
    weights = {"a": 1000, "b": 333, "c": 1}
    shares, got = FairShares(weights), Counter[str]()
    full = dict.fromkeys(weights, 10**9)
    for _ in range(2000):
        got.update(shares.plan(1334, full))
    assert got == {queue: 2000 * weight for queue, weight in weights.items()}


def test_positions_are_reduced_without_a_change_of_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ojs_cluster.core.pools.fair_shares._REBASE_AT", 3)
    shares = FairShares({"a": 2, "b": 1})
    picked = "".join(next(iter(shares.plan(1, {"a": 9, "b": 9}))) for _ in range(60))
    assert (picked.count("a"), picked.count("b")) == (40, 20)
    assert "aaa" not in picked
    assert "bb" not in picked
    assert max(shares._positions.values()) < 5


def test_round_robin_takes_one_job_of_each_queue_in_turn() -> None:
    shares = FairShares(dict.fromkeys("abc", 1))
    full = dict.fromkeys("abc", 100)
    assert [next(iter(shares.plan(1, full))) for _ in range(7)] == list("abcabca")
    assert shares.plan(4, full) == {"b": 2, "c": 1, "a": 1}


def test_an_empty_queue_costs_nobody_its_share_and_saves_none() -> None:
    shares = FairShares({"a": 1, "b": 1, "c": 1})
    assert shares.plan(300, {"a": 500, "c": 500}) == {"a": 150, "c": 150}
    planned = shares.plan(30, dict.fromkeys("abc", 500))
    assert planned.keys() == set("abc")
    assert all(9 <= number <= 11 for number in planned.values())


def test_jobs_that_were_not_found_are_taken_back() -> None:
    shares = FairShares({"a": 1, "b": 1})
    assert shares.plan(2, {"a": 9, "b": 9}) == {"a": 1, "b": 1}
    shares.undo("b", 1)
    assert shares.plan(1, {"a": 9, "b": 9}) == {"b": 1}
    shares.add("a", 2)
    assert shares.order("ab") == ["b", "a"]
    assert shares.plan(2, {"a": 9, "b": 9}) == {"b": 2}


def test_bursts_without_a_plan_keep_the_shares_and_save_none_for_an_empty_queue() -> None:
    shares, got = FairShares({"a": 7, "b": 3, "empty": 90}), Counter[str]()
    for _ in range(300):
        first = shares.order(["a", "b"])[0]  # the empty queue is passed over
        shares.add(first, 10)
        got[first] += 10
    assert abs(got["a"] - 2100) <= 20
    planned = shares.plan(10_000, dict.fromkeys(("a", "b", "empty"), 20_000))
    assert 9_000 <= planned["empty"] <= 9_400  # it would get all jobs if it had saved its share


def test_a_plan_takes_no_more_jobs_than_there_are() -> None:
    assert FairShares({"a": 5, "b": 1}).plan(10, {"a": 2, "b": 3}) == {"a": 2, "b": 3}
    assert FairShares({"a": 5}).plan(10, {}) == {}
    assert plan_deepest(10, {"a": 2, "b": 0, "c": 3}) == {"c": 3, "a": 2}


def test_least_loaded_takes_from_the_deepest_queue() -> None:
    assert plan_deepest(1, {"a": 3, "b": 7, "c": 7}) == {"b": 1}
    assert plan_deepest(6, {"a": 3, "b": 7}) == {"b": 5, "a": 1}


@pytest.mark.parametrize(
    ("field", "members"),
    [
        ("name", {"name": "-x"}),
        ("strategy", {"strategy": "random"}),
        ("queues", {"queues": []}),
        ("queues", {"queues": ["a", "a"]}),
        ("queues", {"queues": [f"q{number}" for number in range(65)]}),
        ("queues", {"queues": ["A"]}),
        ("weights", {"weights": {"b": 1}}),
        ("weights", {"weights": {"a": 0}}),
        ("weights", {"weights": {"a": 1001}}),
    ],
)
def test_an_invalid_pool_is_refused(field: str, members: dict[str, object]) -> None:
    valid: dict[str, object] = {"name": "p", "strategy": None, "queues": ["a"], "weights": {}}
    assert new_pool(**valid).strategy == "round-robin"  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as refused:
        new_pool(**{**valid, **members})  # type: ignore[arg-type]
    assert refused.value.details["field"] == field


def test_a_damaged_record_is_recognized() -> None:
    pool = Pool(name="p", queues=("a", "b"), strategy="weighted", weights={"b": 3})
    assert decode(encode(pool)) == pool
    assert pool.shares == {"a": 1, "b": 3}
    for damaged in (b"", b"{}", b'{"name":"p","queues":[]}', encode(pool).replace(b"3", b"0")):
        with pytest.raises(ValueError, match=r".*"):
            decode(damaged)
