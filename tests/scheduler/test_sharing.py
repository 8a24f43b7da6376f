"""Schedulers share the shards, in virtual time: balance, and what a death or an outage costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

import pytest
import trio
from trio.testing import MockClock

from ojs_scheduler.election import LeaseFreedSignal, campaign
from ojs_scheduler.settings import SchedulerSettings
from ojs_scheduler.stats import ElectionStats
from tests.scheduler.lease_model import LeaseServer, Network, Witness

LEASE_S = 5.0
LEASE_TIMES = SchedulerSettings(lease_ttl_ms=int(LEASE_S * 1000)).lease_times
SHARDS = 65
# Every follower has called, and every leader renewed, and those of the next turn as well.
SETTLED_S = 3 * LEASE_S


class Scheduler:
    """One process: a campaign for each shard."""

    def __init__(self, name: str, servers: list[LeaseServer], witnesses: list[Witness]) -> None:
        self.ways = [Network(server, name) for server in servers]
        self.stats = ElectionStats()
        self.scope = trio.CancelScope()
        self.signals = [LeaseFreedSignal() for _ in servers]
        self.hears = True
        self._witnesses = witnesses
        self._random = Random(name)
        for server, call in zip(servers, self.signals, strict=True):
            server.hearers.append(partial(self._hear, call))

    def _hear(self, call: LeaseFreedSignal) -> None:
        if self.hears:
            call.set()

    async def run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                for shard in range(len(self.ways)):
                    nursery.start_soon(self._stand, shard)

    async def _stand(self, shard: int) -> None:
        await campaign(
            *(shard, self.ways[shard], LEASE_TIMES, self._witnesses[shard].work),
            stats=self.stats,
            random=self._random,
            lease_freed=self.signals[shard],
        )

    @property
    def led(self) -> set[int]:
        return set(self.stats.led_shards)

    def kill(self) -> None:
        """Do what kill -9 does: stop without a call to any server."""
        for way in self.ways:
            way.cut = True
        self.scope.cancel()


class Cluster:
    """The leases of all shards, and the schedulers."""

    def __init__(self) -> None:
        self.servers = [LeaseServer(LEASE_TIMES.key_ttl_s, shard=shard) for shard in range(SHARDS)]
        self.witnesses = [Witness(server) for server in self.servers]

    def scheduler(self, name: str) -> Scheduler:
        return Scheduler(name, self.servers, self.witnesses)

    @property
    def unled(self) -> set[int]:
        return {shard for shard, seen in enumerate(self.witnesses) if seen.working is None}

    @property
    def violations(self) -> list[str]:
        return [text for witness in self.witnesses for text in witness.violations]

    @property
    def terms(self) -> int:
        return sum(server.tokens for server in self.servers)

    @property
    def signals(self) -> int:
        return sum(server.calls for server in self.servers)


@pytest.fixture
def leases() -> Iterator[Cluster]:
    """All leases; the end checks that no shard had two leaders at once."""
    cluster = Cluster()
    yield cluster
    assert cluster.violations == []


def shares(*schedulers: Scheduler) -> list[int]:
    """Return how many shards each leads, the fewest first."""
    return sorted(len(one.led) for one in schedulers)


async def test_new_schedulers_share_the_shards_evenly(
    autojump_clock: MockClock, leases: Cluster
) -> None:
    one, two, three = (leases.scheduler(name) for name in ("b", "a", "c"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await trio.sleep(SETTLED_S)
        assert shares(one) == [SHARDS]
        nursery.start_soon(two.run)
        await trio.sleep(SETTLED_S)
        assert shares(one, two) == [32, 33]
        nursery.start_soon(three.run)
        await trio.sleep(SETTLED_S)
        assert shares(one, two, three) == [21, 22, 22]
        assert leases.unled == set()
        before = leases.terms
        await trio.sleep(100 * LEASE_S)
        assert leases.terms == before, "at rest no lease changes hands"
        nursery.cancel_scope.cancel()


async def test_a_hand_over_leaves_a_shard_unled_for_less_than_a_poll(
    autojump_clock: MockClock, leases: Cluster
) -> None:
    one, two = leases.scheduler("a"), leases.scheduler("b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await trio.sleep(SETTLED_S)
        nursery.start_soon(two.run)
        await trio.sleep(SETTLED_S)
        assert shares(one, two) == [32, 33]
        moved = [witness.terms for witness in leases.witnesses if witness.terms]
        assert len(moved) == 32
        nursery.cancel_scope.cancel()
    for (_, _, stopped), (_, began, _) in moved:
        assert began - stopped <= LEASE_TIMES.poll_s


@pytest.mark.parametrize("hears", [True, False])
async def test_a_scheduler_that_stops_is_replaced(
    autojump_clock: MockClock, leases: Cluster, hears: bool
) -> None:
    one, two, three = (leases.scheduler(name) for name in "abc")
    async with trio.open_nursery() as nursery:
        for scheduler in (one, two, three):
            nursery.start_soon(scheduler.run)
        await trio.sleep(SETTLED_S)
        for scheduler in (one, two):
            scheduler.hears = hears
        left, stopped_at = three.led, trio.current_time()
        three.scope.cancel()
        if hears:
            await trio.sleep(0.1)
            assert leases.unled == set()
            await trio.sleep(SETTLED_S)
            assert shares(one, two) == [32, 33]
        else:  # they get no signal of a hand-over, either
            await trio.sleep(LEASE_S)
            for shard in left:
                witness = leases.witnesses[shard]
                assert witness.working or witness.terms[-1][1] > stopped_at
            await trio.sleep(4 * SETTLED_S)
            assert shares(one, two) == [32, 33]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("victim", range(3))
async def test_the_shards_of_a_dead_scheduler_are_led_within_a_lease_time_and_shared(
    autojump_clock: MockClock, leases: Cluster, victim: int
) -> None:
    all_three = [leases.scheduler(name) for name in "abc"]
    async with trio.open_nursery() as nursery:
        for scheduler in all_three:
            nursery.start_soon(scheduler.run)
        await trio.sleep(SETTLED_S + victim)
        dead = all_three.pop(victim)
        lost = dead.led
        dead.kill()
        await trio.sleep(0.001)
        assert leases.unled == lost, "what the others lead goes on"
        await trio.sleep(LEASE_S)
        assert leases.unled == set()
        await trio.sleep(2 * SETTLED_S)
        assert shares(*all_three) == [32, 33]
        nursery.cancel_scope.cancel()


async def test_an_unreachable_master_stops_its_own_shards_only(
    autojump_clock: MockClock, leases: Cluster
) -> None:
    one, two = leases.scheduler("a"), leases.scheduler("b")
    away = set(range(0, 22))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(two.run)
        await trio.sleep(SETTLED_S)
        before = [server.tokens for server in leases.servers]
        for shard in away:
            one.ways[shard].cut = two.ways[shard].cut = True
        await trio.sleep(20 * LEASE_S)
        assert leases.unled == away
        after = [server.tokens for server in leases.servers]
        assert after[22:] == before[22:], "the others' leases have not even changed hands"
        assert one.stats.unreachable == two.stats.unreachable == away
        for shard in away:
            one.ways[shard].cut = two.ways[shard].cut = False
        await trio.sleep(SETTLED_S)
        assert leases.unled == set()
        assert shares(one, two) == [32, 33]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("count", "most"), [(1, 53), (2, 76), (3, 98)])
async def test_calls_at_rest(
    autojump_clock: MockClock, leases: Cluster, count: int, most: int
) -> None:
    """As docs/adr/020 says: renewals of all leases, and polls of each follower for the others."""
    running = [leases.scheduler(f"s{number}") for number in range(count)]
    async with trio.open_nursery() as nursery:
        for scheduler in running:
            nursery.start_soon(scheduler.run)
        await trio.sleep(2 * SETTLED_S)
        before = leases.signals
        await trio.sleep(100)
        per_second = (leases.signals - before) / 100
        nursery.cancel_scope.cancel()
    print(f"{count} schedulers, {SHARDS} leases: {per_second:.1f} lease signals per second")
    assert per_second <= most
