"""Counters of one scheduler process: plain numbers that a metrics endpoint can read at any time."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class ElectionStats:
    """Counters of this process as a candidate.

    Attributes:
        shards: number of leases: one for each shard, and that of the meta tag.
        led_shards: shards that this process leads now, with its fencing token for each.
        terms: leases acquired.
        lost: leases that ended although this process wanted to keep them.
        handed_over: leases released for the candidate that is preferred for their shard.
        failed_calls: lease calls that failed or were not answered in time.
        unreachable: shards whose last lease call failed.
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
        steps: steps run.
        done: jobs or records they changed.
        wakeups: deadlines that other processes announced.
        failures: steps that failed.
        stalled: steps that reported work and did none.
        quarantined: malformed jobs that were quarantined.
        failing: shards whose last step failed.
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
        """Return the counters of a loop, new ones when it has none. They outlive one term."""
        return self.loops.setdefault(name, LoopStats())
