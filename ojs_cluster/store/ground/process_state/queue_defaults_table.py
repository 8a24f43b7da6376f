"""This process's copy of the defaults of queues.

An enqueue looks up the queue of its job in ``by_queue``, and whether there is a ``policy``. Without
defaults, this is all it costs. The copy is watched (``versioned_table``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.queue_defaults import POLICY, JobDefaults, QueueDefaults, layered
from ojs_cluster.keys import Meta
from ojs_cluster.store.ground.process_state.queue_defaults import DEFAULTS, NONE
from ojs_cluster.store.ground.versioned_table import Snapshot, VersionedTable

if TYPE_CHECKING:
    import trio

    from ojs_cluster.store.ground.runtime import Runtime


class QueueDefaultsTable:
    """This process's copy of the defaults of queues."""

    def __init__(self) -> None:
        """Start with an empty copy; ``start`` or ``run`` reads the defaults."""
        self._copy = VersionedTable(
            *("defaults of queues", DEFAULTS.read_changed, self._replace),
            channel=Meta().queue_defaults_channel,
        )
        self.run = self._copy.run
        self.read = self._copy.read
        self.try_read = self._copy.try_read
        self.by_queue: dict[str, JobDefaults] = {}
        """The queues with defaults of their own, which are completed by the policy."""
        self.policy: JobDefaults | None = None
        """The defaults of all other queues, None if there are none."""

    async def start(self, store: Runtime, nursery: trio.Nursery) -> None:
        """Read the defaults, then keep the copy current (``VersionedTable.start``)."""
        await self._copy.start(store, nursery, "this process applies those of the server")

    def _replace(self, snapshot: Snapshot[QueueDefaults]) -> None:
        policy = snapshot.records.get(POLICY, NONE)
        self.policy = None if policy.empty else JobDefaults(policy)
        self.by_queue = {
            queue: JobDefaults(layered(own, policy))
            for queue, own in snapshot.records.items()
            if queue != POLICY and not own.empty
        }

    def apply(self, job: NewJob) -> NewJob:
        """Return a new job with the defaults of its queue."""
        defaults = self.by_queue.get(job.queue, self.policy)
        return job if defaults is None else defaults.apply(job)

    def apply_all(self, jobs: Sequence[NewJob]) -> Sequence[NewJob]:
        """Return new jobs with the defaults of their queues."""
        if not self.by_queue and self.policy is None:
            return jobs
        return [self.apply(job) for job in jobs]
