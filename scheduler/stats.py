"""Counters of one scheduler process: plain numbers that a metrics endpoint can read at any time."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class ElectionStats:
    """How this process fared as a candidate.

    :ivar shards: leases that there are: one for each shard, and that of the meta tag.
    :ivar held: shards that this process leads now, and its fencing token for each.
    :ivar terms: leases gained. :ivar lost: leases that ended without this process wanting it.
    :ivar handed_over: leases that it gave to the candidate that is preferred for their shard.
    :ivar failed_calls: lease calls that failed or were not answered in time.
    :ivar unreachable: shards whose last lease call did so.
    """

    shards: int = 0
    held: dict[int, int] = field(default_factory=dict)
    terms: int = 0
    lost: int = 0
    handed_over: int = 0
    failed_calls: int = 0
    unreachable: set[int] = field(default_factory=set)


@dataclass(slots=True)
class LoopStats:
    """What one loop did over all shards.

    :ivar steps: scripts run. :ivar done: jobs (or records) they changed.
    :ivar wakeups: deadlines heard from other processes. :ivar failures: steps that failed.
    :ivar stalled: steps that claimed work and did none. :ivar sick: shards failing right now.
    :ivar quarantined: malformed jobs that were quarantined.
    """

    steps: int = 0
    done: int = 0
    wakeups: int = 0
    failures: int = 0
    stalled: int = 0
    quarantined: int = 0
    sick: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Stats:
    """All counters of one scheduler process."""

    election: ElectionStats = field(default_factory=ElectionStats)
    loops: dict[str, LoopStats] = field(default_factory=dict)

    def loop(self, name: str) -> LoopStats:
        """Return the counters of a loop, new ones when it has none; they outlive one term."""
        return self.loops.setdefault(name, LoopStats())
