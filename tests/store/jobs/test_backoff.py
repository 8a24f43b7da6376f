"""The Lua twins of core's retry rules give the same answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ojs_cluster.core.durations import MAX_DURATION_MS
from ojs_cluster.core.jobs.retry import (
    DEFAULT_RETRY,
    MAX_ATTEMPTS,
    STRATEGIES,
    RetryPolicy,
)
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground.scripts import read_includes
from tests.model.retries import backoff_ms, matches_pattern
from tests.support.servers import observer

BACKOFF = read_includes()["backoff_delay"]
IS_NON_RETRYABLE = read_includes()["match_error"]

Eval = Callable[..., object]

policies = st.builds(
    RetryPolicy,
    max_attempts=st.just(3),
    initial_ms=st.integers(1, 10_000) | st.integers(1, MAX_DURATION_MS),
    coefficient=st.floats(1, 1e6) | st.sampled_from([1.0, 1.5, 2.0, 3.0, 10.0, 1e6]),
    max_ms=st.integers(1, 10_000_000) | st.integers(1, MAX_DURATION_MS),
    jitter=st.booleans(),
    strategy=st.sampled_from(sorted(set(STRATEGIES.values()))),
)
attempts = st.integers(1, 20) | st.integers(1, MAX_ATTEMPTS)
chances = st.floats(0, 1, exclude_max=True)
quick = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def lua(standalone: Embedded) -> Iterator[Eval]:
    """Runs Lua on a real server."""
    with observer(standalone) as client:
        yield client.eval


def in_lua(lua: Eval, policy: RetryPolicy, attempt: int, chance: float) -> int:
    packed = policy.packed().decode()
    code = f"""{BACKOFF}
        local packed = ARGV[1] ~= '' and ARGV[1] or nil
        return string.format('%.0f', backoff(packed, tonumber(ARGV[2]), tonumber(ARGV[3])))"""
    reply = lua(code, 0, packed, attempt, repr(chance))
    assert isinstance(reply, bytes)
    return int(reply)


@quick
@given(policy=policies, attempt=attempts, chance=chances)
@example(DEFAULT_RETRY, 1, 0.0)
@example(DEFAULT_RETRY, MAX_ATTEMPTS, 1 - 2**-53)
@example(replace(DEFAULT_RETRY, strategy="polynomial", coefficient=1e6), MAX_ATTEMPTS, 0.5)
@example(replace(DEFAULT_RETRY, strategy="linear", initial_ms=MAX_DURATION_MS), MAX_ATTEMPTS, 0.5)
@example(replace(DEFAULT_RETRY, max_ms=MAX_DURATION_MS, coefficient=1e6), 60, 0.999)
@example(replace(DEFAULT_RETRY, initial_ms=1, max_ms=1), 1, 0.0)
def test_backoff_in_lua_equals_backoff_in_python(
    lua: Eval, policy: RetryPolicy, attempt: int, chance: float
) -> None:
    wanted = backoff_ms(policy, attempt, chance)
    given_ = in_lua(lua, policy, attempt, chance)

    # pow() of two C libraries may differ in the last of 53 bits; nothing else may.
    assert math.isclose(given_, wanted, rel_tol=1e-14, abs_tol=0)
    assert 0 <= given_ <= policy.max_ms


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (replace(DEFAULT_RETRY, jitter=False), [1000, 2000, 4000]),
        (replace(DEFAULT_RETRY, jitter=False, coefficient=10.0, max_ms=2000), [1000, 2000, 2000]),
        (replace(DEFAULT_RETRY, jitter=False, strategy="linear"), [1000, 2000, 3000]),
        (replace(DEFAULT_RETRY, jitter=False, strategy="constant"), [1000, 1000, 1000]),
        (replace(DEFAULT_RETRY, jitter=False, strategy="polynomial"), [1000, 4000, 9000]),
    ],
)
def test_delays_of_the_specs_examples(lua: Eval, policy: RetryPolicy, delays: list[int]) -> None:
    assert [in_lua(lua, policy, attempt, 0.3) for attempt in (1, 2, 3)] == delays


words = st.text(st.sampled_from("Ab.*%-é"), min_size=1, max_size=6)


@quick
@given(patterns=st.lists(words, max_size=4), names=st.lists(words, max_size=3))
@example(["Auth.*"], ["Auth.TokenExpired"])
@example(["Auth.*"], ["AuthenticationError"])
@example(["Auth.*"], ["Auth"])
@example(["Auth.*"], ["Auth.*"])
@example([".*"], ["x"])
@example(["%a+.*"], ["abc"])
def test_non_retryable_patterns_match_as_in_python(
    lua: Eval, patterns: list[str], names: list[str]
) -> None:
    policy = replace(DEFAULT_RETRY, non_retryable=tuple(patterns))
    code = f"{IS_NON_RETRYABLE}\nreturn is_non_retryable(KEYS[1], ARGV, 1) and 1 or 0"

    found = lua(code, 1, policy.patterns(), *names)

    assert bool(found) == matches_pattern(patterns, names)
