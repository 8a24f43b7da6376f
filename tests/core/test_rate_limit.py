"""Every form of a rate limit, its canonical JSON, and invalid ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.rate_limit import (
    Rate,
    RateLimitPolicy,
    RateLimits,
    check_key,
    parse_limits,
    parse_rate_limit,
    unpack_limits,
)

PER_MINUTE = Rate(100, 60_000)
PACED = Rate(10, 1_000)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"max_per_second": 7}, RateLimitPolicy(7)),
        ({"key": "k", "concurrency": 0}, RateLimitPolicy(key="k", limits=RateLimits(0))),
        (
            {"key": "k", "concurrency": 2, "on_limit": "drop", "rate": None},
            RateLimitPolicy(key="k", limits=RateLimits(2), on_limit="drop"),
        ),
        (
            {"key": "k", "rate": 1, "period": "second"},
            RateLimitPolicy(key="k", limits=RateLimits(rate=Rate(1, 1_000))),
        ),
        (
            {"key": "k", "rate": 5, "period": "PT0.5S"},
            RateLimitPolicy(key="k", limits=RateLimits(rate=Rate(5, 500))),
        ),
        (
            {
                "key": "tenant:acme:a_b.c-d",
                "concurrency": 5,
                "rate": {"limit": 100, "period": "PT1M"},
                "throttle": {"limit": 10, "period": "second"},
                "on_limit": "reschedule",
            },
            RateLimitPolicy(
                key="tenant:acme:a_b.c-d",
                limits=RateLimits(5, PER_MINUTE, PACED),
                on_limit="reschedule",
            ),
        ),
    ],
    ids=str,
)
def test_every_shape_is_understood_and_its_echo_means_the_same(
    values: dict[str, Any], expected: RateLimitPolicy
) -> None:
    policy = parse_rate_limit(values)

    assert policy == expected
    assert parse_rate_limit(json.loads(policy.json())) == policy


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "key"),
        ({"key": ""}, "key"),
        ({"key": "-a", "concurrency": 1}, "key"),
        ({"key": "a b", "concurrency": 1}, "key"),
        ({"key": "ä", "concurrency": 1}, "key"),
        ({"key": "k\n", "concurrency": 1}, "key"),
        ({"key": "k" * 256, "concurrency": 1}, "key"),
        ({"key": 1, "concurrency": 1}, "key"),
        ({"key": "k"}, "concurrency"),
        ({"key": "k", "concurrency": -1}, "concurrency"),
        ({"key": "k", "concurrency": True}, "concurrency"),
        ({"key": "k", "concurrency": 1.5}, "concurrency"),
        ({"key": "k", "concurrency": 10**20}, "concurrency"),
        ({"key": "k", "rate": 1}, "period"),
        ({"key": "k", "rate": 0, "period": "second"}, "rate"),
        ({"key": "k", "rate": 1, "period": "fortnight"}, "period"),
        ({"key": "k", "rate": 1, "period": "P1M"}, "period"),
        ({"key": "k", "rate": {"period": "PT1M"}}, "rate.limit"),
        ({"key": "k", "rate": {"limit": 1}}, "rate.period"),
        ({"key": "k", "throttle": {"limit": "1", "period": "PT1M"}}, "throttle.limit"),
        ({"key": "k", "concurrency": 1, "on_limit": "block"}, "on_limit"),
        ({"key": "k", "concurrency": 1, "on_limit": ["wait"]}, "on_limit"),
        ({"key": "k", "max_per_second": 1}, "max_per_second"),
        ({"max_per_second": 0}, "max_per_second"),
        ({"max_per_second": 0.5}, "max_per_second"),
        ({"max_per_second": "1"}, "max_per_second"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_its_place(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_rate_limit(values)
    assert caught.value.field == f"options.rate_limit.{field}"


def test_limits_without_a_key_are_those_of_a_queue() -> None:
    values = {"concurrency": 20, "rate": {"limit": 100, "period": "PT1M"}}
    assert parse_limits(values, path="") == RateLimits(20, PER_MINUTE)
    assert parse_limits({}, path="") == RateLimits()
    with pytest.raises(ValidationFailed) as caught:
        parse_limits({"concurrency": "x"}, path="")
    assert caught.value.field == "concurrency"


@pytest.mark.parametrize(
    "limits",
    [RateLimits(), RateLimits(0), RateLimits(5, PER_MINUTE), RateLimits(None, None, PACED)],
    ids=str,
)
def test_limits_come_back_as_they_were_packed(limits: RateLimits) -> None:
    assert unpack_limits(limits.packed()) == limits


def test_a_key_is_checked_by_itself_too() -> None:
    assert check_key("tenant:acme") == "tenant:acme"
    with pytest.raises(ValidationFailed) as caught:
        check_key("a/b")
    assert caught.value.field == "key"


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_quotas_add_up_and_none_falls_when_the_limit_rises(count: int) -> None:
    before = [0] * count
    for limit in (0, *range(count, 4 * count)):
        whole = RateLimits(limit, Rate(limit, 1000), Rate(limit, 60_000))
        parts = [whole.partition_quota(number, count) for number in range(count)]
        quotas = [part.concurrency or 0 for part in parts]
        assert sum(quotas) == limit
        assert max(quotas) - min(quotas) <= 1
        for part, quota, previous in zip(parts, quotas, before, strict=True):
            assert part == RateLimits(quota, Rate(quota, 1000), Rate(quota, 60_000))
            assert quota >= previous
        before = quotas


def test_a_closed_partition_has_the_smallest_quota() -> None:
    assert RateLimits(8).partition_quota(4, 4) == RateLimits(1)
    assert RateLimits(0).partition_quota(4, 4) == RateLimits(0)
    assert RateLimits(2).partition_quota(3, 4) == RateLimits(1)
    assert RateLimits().partition_quota(0, 4) == RateLimits()
