"""The workers that a process could not keep other jobs from, because they hold some."""

from __future__ import annotations

from typing import Final

import trio

from ojs_cluster.keys import Shard

_BUSY_S: Final = 5.0
"""Time in seconds for which a worker counts as busy."""
_MAX_REMEMBERED: Final = 10_000


class BusyWorkers:
    """Workers that held jobs a short time ago, so that a fetch need not look at them again."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self.probed_shards: set[Shard] = set()
        """Shards with a suspect for which a worker is being checked. A suspect needs only one."""

    def add(self, worker_id: str, for_s: float = _BUSY_S) -> None:
        """Remember a worker for some seconds."""
        if len(self._until) >= _MAX_REMEMBERED:
            self._until.clear()
        self._until[worker_id] = trio.current_time() + for_s

    def discard(self, worker_id: str) -> None:
        """Forget a worker."""
        self._until.pop(worker_id, None)

    def __contains__(self, worker_id: str) -> bool:
        return self._until.get(worker_id, 0.0) > trio.current_time()
