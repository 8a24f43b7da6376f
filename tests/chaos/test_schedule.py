"""The schedule of faults: repeatable, of every kind, one at a time in each track."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, pairwise

from tests.chaos.faults import LOSING, METHODS, FaultInjector
from tests.chaos.installation import VARIANTS
from tests.chaos.schedule import CLUSTER, NETWORK, PROCESSES, STANDALONE, schedule

TRACKS = {"redis": CLUSTER, "processes": PROCESSES, "network": NETWORK}


def test_a_seed_gives_the_same_faults_again() -> None:
    assert schedule(7, 300, VARIANTS[0].tracks) == schedule(7, 300, VARIANTS[0].tracks)
    assert schedule(7, 300, VARIANTS[0].tracks) != schedule(8, 300, VARIANTS[0].tracks)


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    short = schedule(7, 60, VARIANTS[0].tracks)
    assert short == schedule(7, 300, VARIANTS[0].tracks)[: len(short)]


def test_every_kind_comes_before_any_comes_again() -> None:
    faults = schedule(7, 2000, VARIANTS[0].tracks)
    by_track = sorted(faults, key=lambda fault: fault.track)
    for track, group in groupby(by_track, key=lambda fault: fault.track):
        kinds = VARIANTS[0].tracks[track]
        seen = [fault.kind for fault in group][: len(kinds)]
        assert Counter(seen) == Counter(list(kinds))


def test_a_short_run_has_no_fault_that_takes_longer() -> None:
    tracks = VARIANTS[0].tracks
    every = {name: kind for kinds in tracks.values() for name, kind in kinds.items()}
    short = {fault.kind for seed in range(50) for fault in schedule(seed, 5, tracks)}
    assert short == {name for name, kind in every.items() if kind.run_s <= 5}
    assert "change settings" in {fault.kind for fault in schedule(7, 2000, tracks)}


def test_faults_of_a_track_do_not_overlap() -> None:
    faults = [fault for fault in schedule(7, 2000, VARIANTS[0].tracks) if fault.track == "redis"]
    for before, after in pairwise(faults):
        assert before.at + before.length < after.at


def test_every_kind_can_be_carried_out() -> None:
    kinds = {*CLUSTER, *STANDALONE, *PROCESSES, *NETWORK}
    assert kinds == METHODS.keys()
    assert kinds >= LOSING
    assert all(callable(getattr(FaultInjector, name)) for name in METHODS.values())
