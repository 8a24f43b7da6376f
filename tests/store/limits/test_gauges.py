"""Gauges tell exactly when they have room again, at times of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.scripts import read_includes
from tests.support.servers import observer

GAUGES = "".join(read_includes()[name] for name in ("validate_job", "read_gauges"))
NOW = 1_700_000_000_000

Run = Callable[[str, int], list[int]]


@pytest.fixture
def gauge(standalone: Embedded) -> Iterator[Run]:
    """Makes the gauge of an expression, starts as many as it has room for, and looks at it when it
    says that it opens: how many that were, ms until then, its room a ms before, and its room then.
    """
    with observer(standalone) as client:

        def run(expression: str, now: int) -> list[int]:
            code = f"""
                local now = tonumber(ARGV[1])
                {GAUGES}
                local saved
                local function make() return {expression} end
                local gauge = make()
                local began = gauge.room()
                local _, text = gauge.start(began)
                local opens = gauge.opens()
                saved, now = text, opens - 1
                local before = make().room()
                now = opens
                return {{began, opens - ARGV[1], before, make().room()}}"""
            return cast(list[int], client.eval(code, 0, now))

        yield run


@pytest.mark.parametrize(
    ("limit", "period", "started", "pause"),
    [
        (100, 1000, 10, 10),  # a start every 10 ms: ten at once
        (20, 1000, 2, 50),
        (1, 1000, 1, 1000),
        (10, 600_000, 1, 60_000),
        (1000, 1000, 100, 1),
    ],
)
def test_a_throttle_opens_when_one_more_may_start(
    gauge: Run, limit: int, period: int, started: int, pause: int
) -> None:
    found = gauge(f"throttle({limit}, {period}, saved, 'next')", NOW)
    assert found == [started, pause, 0, 1]


@pytest.mark.parametrize(("limit", "period"), [(1, 1000), (5, 1000), (300, 60_000)])
def test_a_window_opens_when_its_oldest_start_is_over(gauge: Run, limit: int, period: int) -> None:
    found = gauge(f"window({limit}, {period}, saved, 'starts')", NOW)
    assert found == [limit, period, 0, limit]


def test_starts_that_share_an_entry_count_until_the_latest_is_over(standalone: Embedded) -> None:
    code = f"""
        local now = tonumber(ARGV[1])
        {GAUGES}
        local text
        for _, at in ipairs({{0, 90}}) do
            now = ARGV[1] + at
            _, text = window(2, 6400, text, 'starts').start(1)
        end
        now = ARGV[1] + 6400 + 10
        return window(2, 6400, text, 'starts').room()"""
    with observer(standalone) as client:
        assert client.eval(code, 0, NOW // 6400 * 6400) == 0
