"""A cached value: who waits for the next one, and who gets the last one."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.store.ground.background import Background
from ojs_cluster.store.ground.cached import Cached

KEPT_S, MAX_AGE_S, TAKES_S = 10.0, 30.0, 2.0


class Counter:
    """Computes 1, 2, 3, ..., each in ``TAKES_S``."""

    def __init__(self) -> None:
        self.computed = 0
        self.fails = False

    async def __call__(self) -> int:
        await trio.sleep(TAKES_S)
        if self.fails:
            raise BackendUnavailable("away", outcome="not_applied")
        self.computed += 1
        return self.computed


def cached(counter: Counter, nursery: trio.Nursery | None, max_age_s: float) -> Cached[int]:
    return Cached(
        counter,
        lambda _value, _took_s: KEPT_S,
        background=None if nursery is None else Background(nursery),
        max_age_s=lambda _value: max_age_s,
    )


async def test_callers_share_a_computation(autojump_clock: trio.testing.MockClock) -> None:
    counter = Counter()
    cache = cached(counter, None, 0.0)
    found = []

    async def get() -> None:
        found.append(await cache.get())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(get)
    await trio.sleep(KEPT_S - 1)
    assert [*found, await cache.get()] == [1] * 6
    await trio.sleep(1)
    assert await cache.get() == 2


async def test_callers_get_the_last_value_while_the_next_one_is_computed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    counter = Counter()
    async with trio.open_nursery() as nursery:
        cache = cached(counter, nursery, MAX_AGE_S)
        assert await cache.get() == 1
        await trio.sleep(KEPT_S)
        began = trio.current_time()
        assert [await cache.get() for _ in range(5)] == [1] * 5
        assert trio.current_time() == began, "nobody waits"
        await trio.sleep(TAKES_S + 1)
        assert await cache.get() == 2
        assert counter.computed == 2, "one task computes for all callers"


async def test_a_caller_waits_if_the_last_value_is_too_old(
    autojump_clock: trio.testing.MockClock,
) -> None:
    counter = Counter()
    async with trio.open_nursery() as nursery:
        cache = cached(counter, nursery, MAX_AGE_S)
        assert await cache.get() == 1
        await trio.sleep(MAX_AGE_S - TAKES_S)  # its age began with its computation
        assert await cache.get() == 2
        small = cached(counter, nursery, 0.0)
        assert await small.get() == 3
        await trio.sleep(KEPT_S)
        assert await small.get() == 4


async def test_a_failure_is_raised_once_the_last_value_is_too_old(
    autojump_clock: trio.testing.MockClock,
) -> None:
    counter = Counter()
    async with trio.open_nursery() as nursery:
        cache = cached(counter, nursery, MAX_AGE_S)
        assert await cache.get() == 1
        counter.fails = True
        await trio.sleep(KEPT_S)
        for _ in range(3):
            assert await cache.get() == 1
            await trio.sleep(TAKES_S + 1)
        await trio.sleep(MAX_AGE_S)
        with pytest.raises(BackendUnavailable):
            await cache.get()
        counter.fails = False
        assert await cache.get() == 2
