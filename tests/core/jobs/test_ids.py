from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.jobs.ids import RAND_A_VALUES, OrderedIds, is_job_id, new_job_id, shard_of

NOW = 1_767_225_600_123


@given(
    shards=st.integers(1, RAND_A_VALUES),
    which=st.floats(0, 1, exclude_max=True),
    now=st.integers(0, 2**48 - 1),
    random=st.binary(min_size=10, max_size=10),
)
def test_an_id_is_a_uuid7_that_names_its_shard_and_its_time(
    shards: int, which: float, now: int, random: bytes
) -> None:
    shard = int(which * shards)
    job_id = new_job_id(shard, shards, now, random)
    parsed = uuid.UUID(job_id)
    assert is_job_id(job_id)
    assert shard_of(job_id, shards) == shard
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == now
    assert str(parsed) == job_id


@pytest.mark.parametrize("shards", [1, 3, 64, 1000, RAND_A_VALUES])
def test_ids_of_one_millisecond_are_distinct(shards: int) -> None:
    assert len({new_job_id(0, shards, NOW) for _ in range(5000)}) == 5000


@pytest.mark.parametrize("shards", [1, 64, RAND_A_VALUES])
def test_ordered_ids_sort_as_they_were_made(shards: int) -> None:
    ids = OrderedIds(shards)
    made = [ids.new(0, NOW + number // 5000) for number in range(10_000)]
    assert made == sorted(set(made))
    assert all(is_job_id(job_id) and shard_of(job_id, shards) == 0 for job_id in made)


@pytest.mark.parametrize("shards", [1, 64, RAND_A_VALUES])
def test_ids_keep_their_order_when_the_clock_steps_back_by_less_than_a_second(shards: int) -> None:
    ids = OrderedIds(shards)
    made = [ids.new(0, NOW + ms) for ms in (0, 990, 0, 500, 990, -5, 985, 991, 991)]
    assert made == sorted(set(made))
    earlier = ids.new(0, NOW - 60_000)  # a wrong clock was corrected
    assert uuid.UUID(earlier).int >> 80 == NOW - 60_000


@pytest.mark.parametrize(("shard", "shards"), [(-1, 4), (4, 4), (0, 0), (0, RAND_A_VALUES + 1)])
def test_a_shard_that_does_not_fit_is_refused(shard: int, shards: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        new_job_id(shard, shards, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0F",
        "019461A8-1A2B-7C3D-8E4F-5A6B7C8D9E0F",
        "019461A8-1a2b-7c3d-8e4f-5a6b7c8d9e0f",
        "019461a8-1A2b-7c3d-8e4f-5a6b7c8d9e0f",
        "019461a8-1a2b-7C3d-8e4f-5a6b7c8d9e0f",
        "019461a8-1a2b-7c3d-8E4f-5a6b7c8d9e0f",
        "550e8400-e29b-41d4-a716-446655440000",
        "019461a8-1a2b-7c3d-ce4f-5a6b7c8d9e0f",
        "019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f\n",
        " 019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f",
        "019461a81a2b7c3d8e4f5a6b7c8d9e0f",
        "{019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f}",
        "019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f0",
        "٠19461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f",  # noqa: RUF001 - a digit, but not of ASCII
    ],
)
def test_only_a_lower_case_uuid7_is_a_job_id(text: str) -> None:
    assert not is_job_id(text)
