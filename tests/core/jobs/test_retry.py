from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.durations import MAX_DURATION_MS
from ojs_cluster.core.errors import ValidationFailed
from ojs_cluster.core.jobs.retry import (
    DEFAULT_RETRY,
    STRATEGIES,
    RetryPolicy,
    is_packed_retry,
    parse_retry,
)
from tests.model.retries import backoff_ms, matches_pattern

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(0, 2**31 - 1),
    initial_ms=st.integers(1, 10_000),
    coefficient=st.floats(1, 1e6),
    max_ms=st.integers(10_000, MAX_DURATION_MS),
    jitter=st.booleans(),
    strategy=st.sampled_from(sorted(set(STRATEGIES.values()))),
    on_exhaustion=st.sampled_from([None, "discard", "dead_letter"]),
    non_retryable=st.lists(st.from_regex(r"\A[A-Za-z.*]{1,20}\Z"), max_size=3).map(tuple),
)


def test_a_policy_without_fields_is_the_default_one() -> None:
    assert parse_retry({}) == parse_retry(None) == DEFAULT_RETRY
    assert (
        RetryPolicy(
            max_attempts=3,
            initial_ms=1_000,
            coefficient=2.0,
            max_ms=300_000,
            jitter=True,
            strategy="exponential",
            on_exhaustion=None,
            non_retryable=(),
        )
        == DEFAULT_RETRY
    )


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({"max_attempts": 0}, {"max_attempts": 0}),
        ({"max_attempts": 2**31 - 1}, {"max_attempts": 2**31 - 1}),
        ({"backoff_coefficient": 1e6}, {"coefficient": 1e6}),
        ({"initial_interval": "PT0.25S"}, {"initial_ms": 250}),
        ({"initial_interval_ms": 250}, {"initial_ms": 250}),
        ({"initial_delay_ms": 250}, {"initial_ms": 250}),
        ({"max_interval": "PT1H"}, {"max_ms": 3_600_000}),
        ({"max_interval_ms": 3_600_000}, {"max_ms": 3_600_000}),
        ({"backoff_coefficient": 1}, {"coefficient": 1.0}),
        ({"jitter": False}, {"jitter": False}),
        ({"backoff_strategy": "linear"}, {"strategy": "linear"}),
        ({"backoff_type": "polynomial"}, {"strategy": "polynomial"}),
        ({"strategy": "constant"}, {"strategy": "constant"}),
        ({"backoff": "none"}, {"strategy": "constant"}),
        ({"on_exhaustion": "dead_letter"}, {"on_exhaustion": "dead_letter"}),
        ({"non_retryable_errors": ["A", "B.*"]}, {"non_retryable": ("A", "B.*")}),
        ({"max_attempts": None, "jitter": None, "max_interval": None}, {}),
        ({"unknown": 1}, {}),
    ],
)
def test_each_field_replaces_only_its_own_default(
    values: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert parse_retry(values) == RetryPolicy(**changed)


def test_the_canonical_spelling_wins_over_the_others() -> None:
    policy = parse_retry(
        {
            "initial_delay_ms": 1,
            "initial_interval_ms": 2,
            "initial_interval": "PT3S",
            "max_interval_ms": 4,
            "max_interval": "PT5S",
            "backoff": "linear",
            "backoff_strategy": "constant",
            "max_attempts": 6,
        },
        max_attempts=7,
    )
    assert (policy.initial_ms, policy.max_ms) == (3_000, 5_000)
    assert (policy.strategy, policy.max_attempts) == ("constant", 6)


def test_attempts_outside_of_the_policy_count_when_it_names_none() -> None:
    assert parse_retry({"jitter": False}, max_attempts=7).max_attempts == 7
    assert parse_retry(None, max_attempts=0).max_attempts == 0


REJECTED = [
    ("max_attempts", -1),
    ("max_attempts", 2**31),
    ("max_attempts", 1.0),
    ("max_attempts", "3"),
    ("max_attempts", True),
    ("max_attempts", [3]),
    ("backoff_coefficient", 0.999),
    ("backoff_coefficient", 0),
    ("backoff_coefficient", -2),
    ("backoff_coefficient", 1e7),
    ("backoff_coefficient", float("inf")),
    ("backoff_coefficient", "2"),
    ("backoff_coefficient", True),
    ("initial_interval", "PT0S"),
    ("initial_interval", "1s"),
    ("initial_interval", 1),
    ("initial_interval_ms", 0),
    ("initial_interval_ms", 1.5),
    ("initial_delay_ms", True),
    ("max_interval", "PT0.5S"),
    ("max_interval", "P1M"),
    ("max_interval_ms", -1),
    ("jitter", 1),
    ("jitter", "true"),
    ("backoff_strategy", "fibonacci"),
    ("backoff_type", "Linear"),
    ("strategy", 1),
    ("backoff", {"type": "linear"}),
    ("on_exhaustion", "retry_forever"),
    ("on_exhaustion", ["discard"]),
    ("non_retryable_errors", "A"),
    ("non_retryable_errors", [""]),
    ("non_retryable_errors", [1]),
    ("non_retryable_errors", ["a\nb"]),
    ("non_retryable_errors", ["a" * 256]),
    ("non_retryable_errors", ["a"] * 101),
]


@pytest.mark.parametrize(("name", "value"), REJECTED, ids=str)
def test_a_bad_field_is_rejected_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_retry({name: value}, path="options.retry_policy")
    assert caught.value.field == f"options.retry_policy.{name}"
    assert name in caught.value.message


def test_bad_attempts_outside_of_the_policy_are_rejected_at_their_own_place() -> None:
    with pytest.raises(ValidationFailed, match="max_attempts") as caught:
        parse_retry({}, max_attempts=-1)
    assert caught.value.field == "options.max_attempts"


def test_the_longest_delay_must_not_be_shorter_than_the_first() -> None:
    assert parse_retry({"initial_interval": "PT5S", "max_interval": "PT5S"}).max_ms == 5_000
    with pytest.raises(ValidationFailed, match="initial_interval"):
        parse_retry({"initial_interval": "PT10M"})


def _delays(attempts: int, **changes: Any) -> list[int]:
    policy = RetryPolicy(jitter=False, **changes)
    return [backoff_ms(policy, attempt) for attempt in range(1, attempts + 1)]


def test_the_strategies_grow_as_specified() -> None:
    assert _delays(10) == [1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000, 300000]
    assert _delays(3, strategy="linear", initial_ms=5000) == [5000, 10000, 15000]
    assert _delays(3, strategy="constant", initial_ms=5000) == [5000, 5000, 5000]
    assert _delays(5, strategy="polynomial", coefficient=4.0) == [
        1000,
        16000,
        81000,
        256000,
        300000,
    ]
    assert _delays(3, coefficient=1.0) == [1000, 1000, 1000]
    assert _delays(3, coefficient=10.0, max_ms=2000) == [1000, 2000, 2000]
    assert _delays(3, coefficient=1.5, initial_ms=1) == [1, 2, 2]  # 1.5 rounds up, 2.25 down


def test_jitter_spreads_around_the_delay_and_stays_below_the_cap() -> None:
    policy = RetryPolicy(initial_ms=10_000, max_ms=12_000)
    assert backoff_ms(policy, 1, 0.0) == 5_000
    assert backoff_ms(policy, 1, 0.5) == 10_000
    assert backoff_ms(policy, 1, 0.999) == 12_000
    assert backoff_ms(policy, 2, 0.0) == 6_000  # capped before jitter, too


@given(policies, st.one_of(st.integers(1, 100), st.integers(1, 2**80)), st.floats(0, 0.9999))
def test_a_delay_stays_within_its_bounds_at_any_attempt(
    policy: RetryPolicy, attempt: int, factor: float
) -> None:
    delay = backoff_ms(policy, attempt, factor)
    assert policy.initial_ms * 0.5 - 1 <= delay <= policy.max_ms


@given(policies)
def test_the_written_policy_reads_back_as_the_same(policy: RetryPolicy) -> None:
    assert parse_retry(json.loads(policy.json())) == policy


def test_the_packed_backoff_has_what_a_script_needs() -> None:
    policy = parse_retry(
        {"initial_interval": "PT2S", "backoff_coefficient": 1.5, "backoff": "linear"}
    )
    assert policy.packed() == b"linear:2000:1.5:300000:1"
    assert RetryPolicy(jitter=False).packed() == b"exponential:1000:2.0:300000:0"


def test_the_default_backoff_takes_no_space() -> None:
    assert RetryPolicy(max_attempts=9, on_exhaustion="dead_letter").packed() == b""


@given(policies)
def test_a_packed_backoff_is_known_as_one(policy: RetryPolicy) -> None:
    assert is_packed_retry((policy.packed() or b"exponential:1000:2.0:300000:1").decode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "often",
        "exponential:1000:1.2.3:5000:0",
        "exponential:1.0.0:1.5:5000:0",
        "exponential:1000:1.5:5.0:0",
        "exponential:1000:1e400:5000:0",
        "exponential:1000:1e6:5000:0",
        "exponential:1000:0.5:5000:0",
        "exponential:1000:1000001.0:5000:0",
        "exponential:0:1.5:5000:0",
        "exponential:5001:1.5:5000:0",
        "exponential:1:1.5:999999999999:0",
        "exponential:1000:1.5:5000:2",
        "exponential:1000:1.5:5000",
        "exponential:1000:1.5:5000:0\n",
        "exponential:\u0661:1.5:5000:0",
        "none:1000:1.5:5000:0",
        "soon:1000:1.5:5000:0",
    ],
)
def test_anything_else_is_no_packed_backoff(text: str) -> None:
    assert not is_packed_retry(text)


def test_patterns_are_joined_by_lines() -> None:
    assert RetryPolicy(non_retryable=("A", "é.*")).patterns() == "A\né.*".encode()
    assert DEFAULT_RETRY.patterns() == b""


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("validation.payload_invalid", "validation.payload_invalid", True),
        ("validation.payload_invalid", "validation.payload_invalid.x", False),
        ("validation.payload_invalid", "validation.schema_error", False),
        ("auth.*", "auth.token_expired", True),
        ("auth.*", "auth", False),
        ("auth.*", "external.auth.failure", False),
        ("auth.*", "Auth.token_expired", False),
        ("Auth.*", "AuthenticationError", True),
        ("auth.*", "auth.*", True),
        ("a*", "abc", False),
        (".*", "anything", True),
    ],
)
def test_patterns_match_exactly_or_by_prefix(pattern: str, name: str, expected: bool) -> None:
    assert matches_pattern([pattern], ["other", name]) is expected


def test_without_patterns_or_names_nothing_matches() -> None:
    assert not matches_pattern([], ["x"])
    assert not matches_pattern([".*"], [])
