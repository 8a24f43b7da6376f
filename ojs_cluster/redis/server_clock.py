"""The clock of Redis, which a process reads without a call to Redis.

The command TIME tells the time of a master at some point between the request and the reply. So each
reply gives an interval for the difference between the master's clock and the monotonic clock of
this process. The narrowest recent interval is kept. A step of the wall clock of this process has no
effect, and a step of a master's clock is followed after the next reply.

The masters of a cluster may differ slightly. The clock of a process is their median, so one wrong
clock among three does not move it. Nothing tells which one of two is wrong. The earlier one counts
then, so no job is old by one of them only. A master that has never answered does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from statistics import median_low
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.errors import RedisReplyError, ReplyTooLarge
from ojs_cluster.redis.settings import Address
from ojs_cluster.wall_clock import wall_s

if TYPE_CHECKING:
    from ojs_cluster.redis.client import Client

MEASURE_S: Final = 10.0
"""Time in seconds between two measurements."""
_RETRY_S: Final = 0.2
"""Time in seconds after which a measurement is repeated if no master has answered yet."""
_PATIENCE_S: Final = 1.0
"""Longest wait for a reply in seconds. A later reply would say little about the time."""
_BOOT_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
"""The clock of Linux that goes on in a suspended machine."""
_DRIFT: Final = 0.0005
"""How many seconds two clocks may drift apart in a second: 500 ppm, the most that NTP corrects."""


def time_since_boot_s() -> float:
    """Return a monotonic time in seconds that goes on while the machine is suspended.

    ``time.monotonic`` stops in a suspended Linux machine. The clock of Redis would be behind then,
    until the next measurement.
    """
    if _BOOT_CLOCK is None:
        return time.monotonic()
    return time.clock_gettime(_BOOT_CLOCK)  # noqa: TID251 - this clock is monotonic


@dataclass(frozen=True, slots=True)
class _Interval:
    """How far a master's clock is ahead of the monotonic clock of this process, in seconds.

    Attributes:
        low: the smallest possible difference when it was measured.
        high: the largest possible difference.
        at: when it was measured, in seconds of the monotonic clock.
    """

    low: float
    high: float
    at: float

    def widened(self, now: float) -> _Interval:
        """Return the interval at a later time: the clocks may have drifted."""
        drift_s = _DRIFT * (now - self.at)
        return _Interval(self.low - drift_s, self.high + drift_s, now)

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


class ServerClock:
    """The time of Redis as this process knows it.

    Before the first measurement it is the wall clock of this process, which must decide nothing.
    So ``open_store`` fails without a measurement.

    Args:
        monotonic: the monotonic clock, in seconds; tests pass their own.

    Attributes:
        measured: set at the end of the first measurement that a master has answered: when all
            masters have answered, or their time is up.
    """

    def __init__(self, monotonic: Callable[[], float] = time_since_boot_s) -> None:
        self.measured = trio.Event()
        self._monotonic = monotonic
        self._masters: dict[Address, _Interval] = {}
        self._ahead_s = wall_s() - monotonic()

    def now_ms(self) -> int:
        """Return the time of Redis in Unix milliseconds."""
        return int((self._monotonic() + self._ahead_s) * 1000)

    def now_s(self) -> float:
        """Return the time of Redis in Unix seconds."""
        return self._monotonic() + self._ahead_s

    @property
    def process_ahead_ms(self) -> int:
        """How far the wall clock of this process is ahead of Redis, in ms; negative if behind."""
        return round((wall_s() - self.now_s()) * 1000) if self._masters else 0

    @property
    def masters_apart_ms(self) -> int:
        """The largest difference between the clocks of two masters, in ms, as far as it is sure."""
        now = self._monotonic()
        known = [interval.widened(now) for interval in self._masters.values()]
        if not known:
            return 0
        apart_s = max(each.low for each in known) - min(each.high for each in known)
        return max(0, round(apart_s * 1000))

    async def run(self, client: Client) -> None:
        """Measure at regular intervals until cancelled."""
        while True:
            await self.measure(client)
            await trio.sleep(MEASURE_S if self.measured.is_set() else _RETRY_S)

    async def measure(self, client: Client) -> None:
        """Ask all masters for the time. A master that does not answer keeps its last measurement.

        Args:
            client: the client.
        """
        masters = client.topology.masters

        async def ask(address: Address) -> None:
            failures = (BackendUnavailable, RedisReplyError, ReplyTooLarge)
            with trio.move_on_after(_PATIENCE_S), suppress(*failures):
                sent = self._monotonic()
                seconds, micros = await client.call_node(address, "TIME")  # type: ignore[misc]
                self.observe(address, sent, int(seconds) + int(micros) / 1_000_000)

        async with trio.open_nursery() as nursery:
            for address in masters:
                nursery.start_soon(ask, address)
        self.keep_only(masters)
        if self._masters:
            self.measured.set()

    def observe(self, master: Address, sent: float, server_s: float) -> None:
        """Note a reply to TIME that has just arrived.

        Args:
            master: the address of the master.
            sent: when the request was sent, in seconds of the monotonic clock.
            server_s: the time in the reply, in Unix seconds.
        """
        now = self._monotonic()
        new = _Interval(server_s - now, server_s - sent, now)
        last = self._masters.get(master)
        if last is not None:
            last = last.widened(now)
            has_stepped = new.low > last.high or new.high < last.low
            if not has_stepped and last.high - last.low < new.high - new.low:
                new = last
        self._masters[master] = new
        self._ahead_s = median_low(each.middle for each in self._masters.values())

    def keep_only(self, masters: Collection[Address]) -> None:
        """Forget the clocks of nodes that are no masters any more, unless none would be left."""
        kept = {known: self._masters[known] for known in masters if known in self._masters}
        if kept:
            self._masters = kept
            self._ahead_s = median_low(each.middle for each in kept.values())
