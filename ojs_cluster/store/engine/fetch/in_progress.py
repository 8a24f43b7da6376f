"""The interface of a fetch that ``partition_fetch``, ``ranked_fetch`` and ``pool_fetch`` use.

``fetch.py`` implements it. The first two cannot import ``fetch.py``, which imports them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ojs_cluster.keys import Shard
from ojs_cluster.store.engine.jobs.record import JobRecord


class FetchInProgress(Protocol):
    """A fetch that collects jobs from several shards."""

    jobs: list[JobRecord]
    """The jobs so far."""

    @property
    def tenant(self) -> str:
        """The tenant whose jobs are fetched, '' for any."""
        ...

    @property
    def types(self) -> str:
        """The job types that the worker runs, as ``pack_types``; '' for any."""
        ...

    @property
    def wanted(self) -> int:
        """How many more jobs the fetch may return."""
        ...

    @property
    def full(self) -> bool:
        """Whether the fetched jobs have reached the maximum size of a response."""
        ...

    async def fetch_from(
        self, shard: Shard, queues: Sequence[str], *, with_depth: bool = False
    ) -> int:
        """Fetch from one shard; return how many jobs remain in the first queue there."""
        ...

    async def take(self, shard: Shard, queues: Sequence[str], max_jobs: int) -> int:
        """Fetch up to ``max_jobs`` jobs of a shard; return how many jobs were fetched."""
        ...
