"""Write the index of the search: which jobs have a value of an indexed field.

Per value and shard there is a sorted set with the ids of the newest jobs that have the value, at
most 10 000, by the time of their creation (``store/include/jobs/index_value.lua``). The script that
stores a job adds it. No script removes it: a reader compares each job with the whole search, and
removes ids without a job (``store.search.indexed``). A set ends ``search_index_retention_ms`` after
its last job was stored or is due. The key has a hash of the value, so its length is bounded
(docs/adr/057).
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, Protocol

import trio
from msgspec.structs import replace

from ojs_cluster.core.indexed_fields import IndexedField, as_bytes, indexed_values
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.ground.portions import PORTION_BYTES
from ojs_cluster.store.ground.runtime import Arg
from ojs_cluster.store.ground.settings import StoreSettings

MAX_JOBS_OF_VALUE: Final = 10_000
"""Maximum number of jobs of a value in a shard; see ``store/include/jobs/index_value.lua``."""
_ENTRY_BYTES: Final = PORTION_BYTES // 500
"""Number of bytes that a new entry of the index counts as in a portion: it takes about 7 µs."""
_READ_AT_ONCE: Final = 64 * 1024
"""Size of jobs in bytes after which other tasks run before the values of the next job are read. A
job takes a few milliseconds at most. (Rejected: a thread. There is one for all large JSON of the
process, so an enqueue would wait for pages of the dashboard.)"""
_MAX_ENTRIES: Final = 1000
"""Maximum number of entries that one script adds. The further values are left out of the index."""


def value_digest(field: IndexedField, value: str) -> str:
    """Return the hash of a value, which the keys of its sorted sets have."""
    text = b"%b\0%b" % (as_bytes(field.name), as_bytes(value))
    return urlsafe_b64encode(blake2b(text, digest_size=12).digest()).decode()


def index_keys(settings: StoreSettings, shard: Shard, envelope: bytes) -> list[bytes]:
    """Return the keys of the sorted sets to which a job belongs.

    Args:
        settings: the settings of the store.
        shard: the shard of the job.
        envelope: the JSON of the job, as the store keeps it.
    """
    if not settings.search_index:
        return []
    return [shard.indexed_value(digest) for digest in _digests(settings, envelope)]


class WithDigests(Protocol):
    """A job whose indexed values are known."""

    @property
    def indexed(self) -> Sequence[str]:
        """The hashes of the values."""


async def with_digests(settings: StoreSettings, jobs: Sequence[NewJob]) -> Sequence[NewJob]:
    """Return jobs with the hashes of their indexed values; other tasks run between large jobs."""
    found: list[NewJob] = []
    size = 0
    for job in jobs:
        if size > _READ_AT_ONCE:
            await ensure_task()
            await trio.lowlevel.checkpoint()
            size = 0
        size += len(job.body)
        digests = _digests(settings, job.body)
        found.append(replace(job, indexed=digests) if digests else job)
    return found


def index_bytes(job: WithDigests) -> int:
    """Return the number of bytes that the index entries of a job count as in a portion."""
    return _ENTRY_BYTES * len(job.indexed)


def index_arguments(
    settings: StoreSettings, shard: Shard, digests: Iterable[Sequence[str]], first: int
) -> tuple[Sequence[bytes], list[Arg]]:
    """Return what ``enqueue.lua`` takes at the end of KEYS and ARGV to index jobs.

    Args:
        settings: the settings of the store.
        shard: the shard of the jobs.
        digests: the hashes of the values of each job.
        first: position of the first of these keys in KEYS, from 1 on.
    """
    positions: dict[bytes, int] = {}
    entries: list[Arg] = []
    for number, of_job in enumerate(digests, 1):
        for key in map(shard.indexed_value, of_job):
            if len(entries) < 2 * _MAX_ENTRIES:
                entries += (positions.setdefault(key, first + len(positions)), number)
    return list(positions), [settings.search_index_retention_ms, *entries] if entries else []


def _digests(settings: StoreSettings, envelope: bytes) -> tuple[str, ...]:
    values = indexed_values(settings.search_index, envelope)
    return tuple(value_digest(field, value) for field, value in values)
