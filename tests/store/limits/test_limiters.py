"""Limiters return exactly when they have room again; the test sets the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.ground.scripts import read_includes
from tests.support.servers import observer

PIECES = ("validate_job", "rate_limiter", "create_limiters")
LIMITERS = "".join(read_includes()[name] for name in PIECES)
NOW = 1_700_000_000_000

Run = Callable[[str, int], list[int]]


@pytest.fixture
def limiter(standalone: Embedded) -> Iterator[Run]:
    """Run a limiter until it is full, and check the time at which it says that it opens.

    Returns the number of starts, the ms until it opens, its room one ms before that, and its room
    then.
    """
    with observer(standalone) as client:

        def run(expression: str, now: int) -> list[int]:
            code = f"""
                local now = tonumber(ARGV[1])
                {LIMITERS}
                local saved
                local function make() return {expression} end
                local limiter = make()
                local began = limiter.free()
                local _, text = limiter.count(began)
                local opens_at = limiter.opens_at()
                saved, now = text, opens_at - 1
                local before = make().free()
                now = opens_at
                return {{began, opens_at - ARGV[1], before, make().free()}}"""
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
    limiter: Run, limit: int, period: int, started: int, pause: int
) -> None:
    found = limiter(f"throttle_limiter({limit}, {period}, saved, 'next')", NOW)
    assert found == [started, pause, 0, 1]


@pytest.mark.parametrize(("limit", "period"), [(1, 1000), (5, 1000), (300, 60_000)])
def test_a_window_opens_when_its_oldest_start_is_over(
    limiter: Run, limit: int, period: int
) -> None:
    found = limiter(f"rate_limiter({limit}, {period}, saved, 'starts')", NOW)
    assert found == [limit, period, 0, limit]


def test_starts_that_share_an_entry_count_until_the_latest_is_over(standalone: Embedded) -> None:
    code = f"""
        local now = tonumber(ARGV[1])
        {LIMITERS}
        local text
        for _, at in ipairs({{0, 90}}) do
            now = ARGV[1] + at
            _, text = rate_limiter(2, 6400, text, 'starts').count(1)
        end
        now = ARGV[1] + 6400 + 10
        return rate_limiter(2, 6400, text, 'starts').free()"""
    with observer(standalone) as client:
        assert client.eval(code, 0, NOW // 6400 * 6400) == 0


@pytest.mark.parametrize(
    ("starts", "uncounted", "log"),
    [
        ([0, 9, 9], 0, "9:2"),  # these share an entry, which keeps the latest time
        ([0, 9, 100], 0, "9:1 100:1"),
        ([0, 9, 100], 100, "9:2"),
        ([0, 100], 50, "0:1 100:1"),  # not counted
        ([0, 6400, 6401], 0, "6401:2"),  # it has left the window
        ([0, 6400, 6501], 6501, "6400:1"),
    ],
)
def test_a_rate_takes_back_a_start_that_it_has_counted(
    standalone: Embedded, starts: list[int], uncounted: int, log: str
) -> None:
    code = f"""
        local now, text = 0, ''
        {LIMITERS}
        local function make() return rate_limiter(9, 6400, text, 'starts') end
        for i = 2, #ARGV do now = tonumber(ARGV[i]); local _; _, text = make().count(1) end
        local limiter = make()
        limiter.uncount(tonumber(ARGV[1]))
        return {{limiter.saved()}}"""
    with observer(standalone) as client:
        name, text = cast(
            list[bytes],
            client.eval(code, 0, NOW + uncounted, *(NOW + start for start in starts)),
        )
    entries = dict(entry.split(":") for entry in log.split())
    expected = " ".join(f"{NOW + int(at)}:{n}" for at, n in entries.items())
    assert (name, text.decode()) == (b"starts", expected)
