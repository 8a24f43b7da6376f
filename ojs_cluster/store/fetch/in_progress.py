"""The view that the strategies of a fetch have of the fetch in progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ojs_cluster.keys import Shard


class FetchInProgress(Protocol):
    """A fetch that collects jobs from several shards."""

    @property
    def wanted(self) -> int:
        """How many more jobs the fetch may return."""
        ...

    @property
    def full(self) -> bool:
        """Whether the jobs found are as large as a reply may be."""
        ...

    async def fetch_from(self, shard: Shard, queues: Sequence[str]) -> int:
        """Fetch from one shard; return how many jobs the first queue has left there."""
        ...

    async def take(self, shard: Shard, queues: Sequence[str], most: int) -> int:
        """Take up to ``most`` jobs of a shard; return how many jobs were taken."""
        ...
