"""Counters of one scheduler process: plain numbers that a metrics endpoint can read at any time."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class ElectionStats:
    """Counters of the elections in which this process takes part.

    Attributes:
        shards: number of leases: one for each shard, and one for the meta tag.
        led_shards: fencing token by index of each shard that this process leads now.
        terms: how many leases the process has acquired.
        lost: how many leases have ended although this process wanted to keep them.
        handed_over: how many leases the process has released for a preferred candidate.
        failed_calls: how many calls for leases failed or were not answered in time.
        unreachable: indexes of the shards whose last call for a lease failed.
    """

    shards: int = 0
    led_shards: dict[int, int] = field(default_factory=dict)
    terms: int = 0
    lost: int = 0
    handed_over: int = 0
    failed_calls: int = 0
    unreachable: set[int] = field(default_factory=set)


@dataclass(slots=True)
class LoopStats:
    """Counters of one loop over all shards.

    Attributes:
        steps: how many steps have succeeded.
        done: how many jobs or records the steps have changed.
        wakeups: how many deadlines other processes have announced.
        failures: how many steps have failed.
        stalled: how often the loop has paused because many steps in a row reported more work but
            changed nothing.
        quarantined: how many malformed jobs were quarantined.
        failing: indexes of the shards whose last step failed.
    """

    steps: int = 0
    done: int = 0
    wakeups: int = 0
    failures: int = 0
    stalled: int = 0
    quarantined: int = 0
    failing: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Stats:
    """All counters of one scheduler process."""

    election: ElectionStats = field(default_factory=ElectionStats)
    loops: dict[str, LoopStats] = field(default_factory=dict)

    def loop(self, name: str) -> LoopStats:
        """Return the counters of a loop; create them at the first call."""
        return self.loops.setdefault(name, LoopStats())
