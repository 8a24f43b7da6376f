"""The clock of Redis, measured by one process."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio

from ojs_cluster.redis import server_clock
from ojs_cluster.redis.client import open_client
from ojs_cluster.redis.server_clock import ServerClock
from ojs_cluster.redis.settings import Address
from ojs_cluster.server.embedded.servers import Embedded
from tests.support.patience import LONG_S, patient_client

MASTER, SECOND, THIRD = (Address("master", port) for port in (1, 2, 3))


class Monotonic:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def measure(clock: ServerClock, own: Monotonic, ahead_s: float, took_s: float = 0.0) -> None:
    """Let a reply of ``MASTER`` arrive, which was made in the middle of ``took_s``."""
    sent = own.now
    own.now += took_s
    clock.observe(MASTER, sent, sent + took_s / 2 + ahead_s)


def test_it_is_as_far_ahead_as_the_reply_says() -> None:
    own = Monotonic()
    clock = ServerClock(own)
    measure(clock, own, 500.0, took_s=0.2)
    assert clock.now_s() == pytest.approx(own.now + 500.0)
    own.now += 7.5
    assert clock.now_ms() == pytest.approx((own.now + 500.0) * 1000, abs=1)


def test_a_slow_reply_does_not_replace_a_quick_one() -> None:
    own = Monotonic()
    clock = ServerClock(own)
    measure(clock, own, 500.0, took_s=0.002)
    clock.observe(MASTER, own.now - 3.0, own.now + 500.0 - 2.9)  # it arrived late
    assert clock.now_s() == pytest.approx(own.now + 500.0, abs=0.001)


def test_an_old_measurement_gives_way_to_a_slow_reply() -> None:
    own = Monotonic()
    clock = ServerClock(own)
    measure(clock, own, 500.0, took_s=0.002)
    own.now += 200.0  # in which the clocks may have drifted by 0.1 s
    measure(clock, own, 500.02, took_s=0.05)
    assert clock.now_s() == pytest.approx(own.now + 500.02, abs=0.001)


def test_a_step_of_the_servers_clock_is_followed() -> None:
    own = Monotonic()
    clock = ServerClock(own)
    measure(clock, own, 500.0, took_s=0.002)
    for ahead_s in (560.0, 440.0):
        measure(clock, own, ahead_s, took_s=0.2)
        assert clock.now_s() == pytest.approx(own.now + ahead_s, abs=0.001)


def test_a_clock_that_drifts_is_followed() -> None:
    own = Monotonic()
    clock = ServerClock(own)
    for measurement in range(1000):
        own.now += 10.0
        measure(clock, own, 500.0 + measurement * 0.003, took_s=0.05)
        assert clock.now_s() == pytest.approx(own.now + 500.0 + measurement * 0.003, abs=0.06)


def test_one_wrong_master_does_not_move_it_and_is_told() -> None:
    own = Monotonic()
    clock = ServerClock(own)
    for master, ahead_s in ((MASTER, 500.0), (SECOND, 500.25), (THIRD, 560.0)):
        clock.observe(master, own.now, own.now + ahead_s)
    assert clock.now_s() == pytest.approx(own.now + 500.25)
    assert clock.masters_apart_ms == 60_000
    clock.keep_only((MASTER, SECOND))
    assert clock.now_s() == pytest.approx(own.now + 500.0)
    assert clock.masters_apart_ms == 250


def test_masters_differ_only_by_what_is_sure() -> None:
    own = Monotonic()
    clock = ServerClock(own)
    clock.observe(MASTER, own.now, own.now + 500.0)
    clock.observe(SECOND, own.now - 4.0, own.now + 500.0)  # at most 4 s ahead, at least 0 s
    assert clock.masters_apart_ms == 0


def test_without_masters_the_last_measurement_stays() -> None:
    own = Monotonic()
    clock = ServerClock(own)
    measure(clock, own, 500.0)
    clock.keep_only(())
    assert clock.now_s() == pytest.approx(own.now + 500.0)


def test_a_step_of_the_processs_clock_moves_nothing_and_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ServerClock()
    assert clock.process_ahead_ms == 0, "nothing is measured"
    now = server_clock.time_since_boot_s()
    clock.observe(MASTER, now, time.time())
    before = clock.now_s()
    real = time.time
    monkeypatch.setattr("time.time", lambda: real() + 600.0)
    assert before <= clock.now_s() < before + 300.0
    assert clock.process_ahead_ms == pytest.approx(600_000, abs=100_000)
    monkeypatch.setattr("time.time", lambda: real() - 600.0)
    assert clock.process_ahead_ms == pytest.approx(-600_000, abs=100_000)


def test_of_two_masters_the_earlier_clock_counts() -> None:
    own = Monotonic()
    clock = ServerClock(own)
    for master, ahead_s in ((SECOND, 560.0), (MASTER, 500.0)):
        clock.observe(master, own.now, own.now + ahead_s)
    assert clock.now_s() == pytest.approx(own.now + 500.0)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="Linux has this clock")
def test_the_time_goes_on_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, real = ServerClock(), time.clock_gettime
    clock.observe(MASTER, real(time.CLOCK_BOOTTIME), 1000.0)
    monkeypatch.setattr(
        "time.clock_gettime",
        lambda which: real(which) + (5000.0 if which == time.CLOCK_BOOTTIME else 0.0),
    )
    assert clock.now_s() == pytest.approx(6000.0, abs=1000.0)


async def test_it_is_measured_when_all_masters_have_answered(
    cluster: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: the first one to answer may be the one whose clock is wrong."""
    monkeypatch.setattr(server_clock, "_PATIENCE_S", LONG_S)
    async with open_client(patient_client(cluster)) as client:
        *others, last = client.topology.masters
        clock, answered, go_on = ServerClock(), trio.Event(), trio.Event()
        real_call, real_observe = client.call_node, clock.observe

        async def call(address: Address, *args: Any) -> Any:
            reply = await real_call(address, *args)
            if address == last:
                await go_on.wait()
            return reply

        def observe(*args: Any) -> None:
            real_observe(*args)
            if clock._masters.keys() == set(others):
                answered.set()

        monkeypatch.setattr(client, "call_node", call)
        monkeypatch.setattr(clock, "observe", observe)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clock.run, client)
            await answered.wait()
            assert not clock.measured.is_set()
            go_on.set()
            await clock.measured.wait()
            assert clock._masters.keys() == {*others, last}
            nursery.cancel_scope.cancel()


async def test_without_an_answer_nothing_is_measured(
    backend: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_client(patient_client(backend)) as client:
        clock = ServerClock()
        with monkeypatch.context() as patched:
            patched.setattr(server_clock, "_PATIENCE_S", 0.0)
            await clock.measure(client)
        assert not clock.measured.is_set()
        monkeypatch.setattr(server_clock, "_PATIENCE_S", LONG_S)
        await clock.measure(client)
        assert clock.measured.is_set()


async def test_it_is_measured_at_every_master(backend: Embedded) -> None:
    async with open_client(patient_client(backend)) as client:
        clock = ServerClock()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clock.run, client)
            await clock.measured.wait()
            nursery.cancel_scope.cancel()
        await clock.measure(client)
        assert clock._masters.keys() == set(client.topology.masters)
        assert clock.now_s() == pytest.approx(time.time(), abs=60)
        assert clock.masters_apart_ms == 0, "they run on one machine"
