"""The simulation agrees with measurements of small clusters, and loses and invents no job."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial

import pytest

from loadtest.sim import __main__ as program
from loadtest.sim import waking
from loadtest.sim.cluster import Cluster, Setup, homes
from loadtest.sim.costs import Costs, Observed, load
from loadtest.sim.engine import Action, Engine
from loadtest.sim.limits import at_rest
from loadtest.sim.predict import again, busiest_share, compared, lifecycle
from loadtest.sim.process import Process

COSTS, OBSERVED = load()
WITHIN = 0.15
SMALL = Setup(masters=3, apis=2, connections=8, network_us=50.0)


def named(observed: Observed) -> str:
    return f"{observed.name} on {observed.connections}"


@pytest.mark.parametrize("observed", OBSERVED, ids=named)
def test_what_was_measured_comes_out(observed: Observed) -> None:
    for measured, simulated in compared(observed, COSTS):
        assert simulated == pytest.approx(measured, rel=WITHIN)
    # Here each process has its own processor, which two cores allow only up to this load.
    assert again(observed, COSTS).cores < 2


def test_one_to_three_masters_were_measured() -> None:
    found = {each.masters for each in OBSERVED if each.clustered}
    assert found == {1, 2, 3}


def test_costs_that_are_twice_as_high_would_be_noticed() -> None:
    higher = Costs(**{name: 2 * getattr(COSTS, name) for name in COSTS.__slots__})
    measured, simulated = compared(OBSERVED[0], higher)[0]
    assert simulated != pytest.approx(measured, rel=WITHIN)


def test_a_process_that_has_slept_pays_for_its_wake() -> None:
    engine = Engine()
    seen: list[float] = []
    process = Process[int](engine, lambda _: (10.0, [(4.0, lambda: seen.append(engine.now))]), 5.0)
    process.receive(1)
    engine.at(3.0, lambda: process.receive(2))  # during the first turn
    engine.at(100.0, lambda: process.receive(3))
    engine.run(200.0)
    assert seen == [9.0, 19.0, 109.0]
    assert process.busy_us == 40.0


def test_events_happen_in_order_and_not_in_the_past() -> None:
    engine = Engine()
    seen: list[int] = []
    for number, moment in enumerate((5.0, 1.0, 5.0)):
        engine.at(moment, partial(seen.append, number))
    engine.run(4.0)
    assert (seen, engine.now) == ([1], 4.0)
    engine.run(6.0)
    assert seen == [1, 0, 2]
    with pytest.raises(ValueError, match="is over"):
        engine.at(5.0, lambda: None)


def test_input_that_comes_during_a_turn_is_for_the_next() -> None:
    engine = Engine()
    turns: list[list[int]] = []

    def turn(taken: Sequence[int]) -> tuple[float, list[tuple[float, Action]]]:
        turns.append(list(taken))
        return 10.0, []

    process = Process[int](engine, turn)
    process.receive(1)
    engine.at(3.0, lambda: process.receive(2))
    engine.at(9.0, lambda: process.receive(3))
    engine.run(100.0)
    assert turns == [[1], [2, 3]]
    assert process.busy_us == 20.0


def test_every_request_that_begins_ends_or_is_under_way() -> None:
    cluster = Cluster(SMALL, COSTS)
    for until_us in (1_500, 20_000, 50_000):
        cluster.run(until_us)
        assert cluster.begun > cluster.ended > 0
        assert cluster.begun - cluster.ended <= len(cluster.clients)
        assert cluster.ended <= sum(cluster.served) <= cluster.begun


def test_no_process_works_longer_than_there_is_time() -> None:
    cluster = Cluster(SMALL, COSTS)
    cluster.run(50_000)
    longest_turn_us = 5_000
    busy_us = [master.busy_us for master in cluster.masters]
    busy_us += [api.busy_us for api in cluster.apis]
    assert all(0 < each < 50_000 + longest_turn_us for each in busy_us)
    least = cluster.ended * (COSTS.api_request + COSTS.api_turn / 100)
    assert sum(api.busy_us for api in cluster.apis) >= least


def test_the_same_seed_gives_the_same_run_and_another_another() -> None:
    first, second = (lifecycle(SMALL, COSTS, warm_ms=2, ms=20) for _ in range(2))
    assert first == second
    other = Setup(masters=3, apis=2, connections=8, network_us=50.0, seed=2)
    assert lifecycle(other, COSTS, warm_ms=2, ms=20) != first


@pytest.mark.parametrize("channel", ["shard", "queue", "process"])
def test_every_job_that_comes_starts_once_and_is_acknowledged(channel: waking.Channel) -> None:
    setup = waking.Setup(masters=3, apis=8, jobs_s=2000.0, channel=channel)
    run = waking.Waking(setup, COSTS)
    run.run(0.1)
    assert run.came > 100
    assert run.came == run.started == run.acked == len(run.waits_us)
    assert not any(queue.jobs for queue in run.queues)
    waiting = sum(count for queue in run.queues for count in queue.waiting.values())
    assert waiting == len(run.queues) * setup.workers, "every worker waits again"


def test_fewer_processes_hear_of_a_job_by_a_narrower_channel() -> None:
    heard: dict[waking.Channel, float] = {}
    channels: tuple[waking.Channel, ...] = ("shard", "queue", "process")
    for channel in channels:
        run = waking.Waking(waking.Setup(masters=10, apis=25, channel=channel), COSTS)
        run.run(0.2)
        heard[channel] = run.heard / run.came
    assert heard["shard"] > 2 * heard["queue"] > 4 * heard["process"]


@pytest.mark.parametrize("masters", [1, 3, 10, 64, 100, 1000])
def test_shards_live_on_masters_as_the_product_places_them(masters: int) -> None:
    owned = Counter(homes(1024, masters))
    assert sum(owned.values()) == 1024
    assert max(owned.values()) - min(owned.values()) <= 2
    used, even = busiest_share(masters, 64)
    assert 0.9 * min(masters, 64) <= used <= min(masters, 64)
    assert even == pytest.approx(64 / masters / max(Counter(homes(64, masters)).values()))


def test_names_and_leases_stay_small_where_masters_are_many() -> None:
    rest = at_rest(100, 1024, 10_000, 3, COSTS)
    assert rest.meta < 0.05
    assert max(rest.gauges, rest.leases) < 0.01
    assert rest.scheduler < 0.25


def test_the_tables_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "FULL", ((1, 64),))
    monkeypatch.setattr(program, "WAKES", (1,))
    monkeypatch.setattr(sys, "argv", ["sim", "--quick"])
    program.main()
    out = capsys.readouterr().out
    for text in ("cluster of 3", "masters used", "channel of a", "topology ms"):
        assert text in out
