"""The schedule of faults: a pure function of a seed.

Faults belong to tracks. A track has one fault at a time, so that a master is not killed while the
only copy of its data restarts. Faults of different tracks may overlap. The times are the earliest
ones at which a fault may begin: it waits until the earlier fault of its track has healed.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Track = Literal["redis", "processes", "network"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault.

    Attributes:
        at: seconds after the start.
        length: seconds until it is healed; ignored by kinds that heal at once.
        choice: chooses the target when the fault begins, from 0 to 1.
    """

    track: Track
    kind: str
    at: float
    length: float
    choice: float

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.kind} for {self.length:.1f} s (choice {self.choice:.3f})"


@dataclass(frozen=True, slots=True)
class Kind:
    """How long a fault of a kind lasts and how long its healing takes, in seconds.

    Attributes:
        run_s: length in seconds of the shortest run that has such a fault.
    """

    shortest: float
    longest: float
    heals_in: float
    run_s: float = 0.0


CLUSTER: Final[Mapping[str, Kind]] = {
    "kill a master": Kind(0.5, 3, 12),
    "kill a replica": Kind(0.5, 3, 6),
    "stop a master shortly": Kind(0.3, 1.5, 2),
    "stop a master until it is replaced": Kind(1, 3, 12),
    "fail over by hand": Kind(0, 0, 5),
    "force a failover": Kind(0, 0, 6),
    "move slots as a whole": Kind(0, 0, 4),
    "move slots key by key": Kind(0, 0, 5),
    "fill a master": Kind(1, 5, 2),
    "fill a disk": Kind(1, 4, 4),
    "flush scripts": Kind(0, 0, 1),
    "kill clients": Kind(0, 0, 1),
}

STANDALONE: Final[Mapping[str, Kind]] = {
    "kill the server": Kind(0.5, 4, 4),
    "stop a master shortly": Kind(0.3, 1.5, 2),
    "stop the server for long": Kind(3, 8, 3),
    "fill a master": Kind(1, 5, 2),
    "fill the disk of the AOF": Kind(1, 4, 3),
    "flush scripts": Kind(0, 0, 1),
    "kill clients": Kind(0, 0, 1),
}

PROCESSES: Final[Mapping[str, Kind]] = {
    "kill an API process": Kind(0, 0, 2),
    "kill an API node": Kind(0.2, 3, 4),
    "stop an API process": Kind(0.5, 7, 1),
    "kill a scheduler": Kind(0.2, 4, 2),
    "stop a scheduler": Kind(1, 7, 1),
    "kill a worker": Kind(0, 0, 1),
    "change the default of partitions": Kind(0, 30, 10, run_s=15),
    "change settings": Kind(0, 0, 4, run_s=15),
    "skew clocks": Kind(2, 12, 1),
    "import jobs": Kind(0.3, 3, 4, run_s=15),
}

CLOCKS: Final = frozenset({"skew clocks"})
"""Faults that need libfaketime."""

NETWORK: Final[Mapping[str, Kind]] = {
    "cut a node off": Kind(0.2, 4, 1),
    "cut some connections": Kind(0, 0, 1),
    "silence a node": Kind(0.5, 4, 1),
    "lose what connections carry": Kind(0.5, 4, 1),
    "slow a node": Kind(1, 5, 1),
}

_QUIET_S: Final = 6.0
"""Longest pause between two faults of a track, in seconds."""


def schedule(seed: int, seconds: float, tracks: Mapping[Track, Mapping[str, Kind]]) -> list[Fault]:
    """Return the faults of a run, in the order of their times.

    Args:
        seed: the same seed gives the same faults.
        seconds: faults begin within this time.
        tracks: the kinds of each track; every kind occurs once before any occurs again.
    """
    faults: list[Fault] = []
    for track, kinds in tracks.items():
        chance = random.Random(f"{seed} {track}")
        possible = {name: kind for name, kind in kinds.items() if kind.run_s <= seconds}
        faults += _of_track(chance, seconds, track, possible)
    return sorted(faults, key=lambda fault: fault.at)


def without(kinds: Mapping[str, Kind], absent: Collection[str]) -> Mapping[str, Kind]:
    """Return the kinds that this machine can cause."""
    return {name: kind for name, kind in kinds.items() if name not in absent}


def _of_track(
    chance: random.Random, seconds: float, track: Track, kinds: Mapping[str, Kind]
) -> Sequence[Fault]:
    faults: list[Fault] = []
    bag: list[str] = []
    at = chance.uniform(0.5, _QUIET_S)
    while at < seconds and kinds:
        if not bag:
            bag = list(kinds)
            chance.shuffle(bag)
        kind = bag.pop()
        length = chance.uniform(kinds[kind].shortest, kinds[kind].longest)
        faults.append(Fault(track, kind, at, length, chance.random()))
        at += length + kinds[kind].heals_in + chance.uniform(0.5, _QUIET_S)
    return faults
