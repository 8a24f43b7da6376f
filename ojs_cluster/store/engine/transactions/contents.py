"""What a cross-shard transaction writes, and the record that keeps it until it is applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ojs_cluster.keys import Shard
from ojs_cluster.store.engine.jobs.history_entries import UNKNOWN, Cause
from ojs_cluster.store.engine.placement import (
    PlacedJob,
)


class Replacement(msgspec.Struct, frozen=True, array_like=True):
    """A job that is replaced, and the prepared job that replaces it.

    Args:
        old_id: id of the job that is replaced.
        old_shard: index of the shard where the replaced job lives.
        new_id: id of the prepared job.
    """

    old_id: str
    old_shard: int
    new_id: str


class ManualRetry(msgspec.Struct, frozen=True, array_like=True):
    """An ended job that an operator retries.

    As in ``Plan``, new fields go to the end, with a default.

    Args:
        job_id: id of the job.
        shard: index of the shard where the job lives.
        queue: the job's queue.
        retries: how often the job was retried by hand before. The script does nothing when the job
            has another number, so the retry is idempotent.
        required_kind: which jobs may be retried; ``retry_dead.lua`` lists the values.
        cause: who retries the job, for its history.
    """

    job_id: str
    shard: int
    queue: str
    retries: int
    required_kind: str
    cause: Cause = UNKNOWN


class Plan(msgspec.Struct, frozen=True, array_like=True):
    """All contents of a transaction's record except its jobs.

    Records of an earlier version must stay readable, so new fields go to the end, with a default.

    Args:
        replacements: jobs that are replaced.
        locks: pairs of a fingerprint and the id of the job that will hold its lock.
        shards: index of the shard of each portion of the record.
        retries: ended jobs that operators retry.
    """

    replacements: list[Replacement]
    locks: list[tuple[str, str]]
    shards: list[int]
    retries: list[ManualRetry] = []


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a cross-shard transaction writes.

    Args:
        id: id of the transaction. Like a job id, it names its owner shard, which has the record.
        parts: per shard, the jobs to store there, split into the portions that one script stores.
        replacements: jobs that are replaced by some of ``parts``.
        locks: pairs of a fingerprint and the id of the job that will hold its lock.
        retries: ended jobs that operators retry.
    """

    id: str
    parts: Mapping[Shard, Sequence[Sequence[PlacedJob]]]
    replacements: Sequence[Replacement] = ()
    locks: Sequence[tuple[str, str]] = ()
    retries: Sequence[ManualRetry] = ()

    def portions(self) -> Iterator[tuple[Shard, Sequence[PlacedJob]]]:
        """Yield the jobs portion by portion, in the order of the record."""
        for shard, part in self.parts.items():
            for portion in part:
                yield shard, portion

    def new_jobs(self) -> Iterator[tuple[Shard, str]]:
        """Yield shard and queue of each job that increases the depth of its queue."""
        for shard, portion in self.portions():
            for job in portion:
                if not job.outcome:  # prepared and superseded jobs leave the depth unchanged
                    yield shard, job.queue
