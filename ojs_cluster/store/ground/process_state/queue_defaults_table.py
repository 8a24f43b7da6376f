"""This process's copy of the defaults of queues.

An enqueue looks up the queue of its job in ``by_queue``, and whether there is a ``policy``. Without
defaults, this is all it costs. A
change on another process takes effect here when its message arrives, or within two seconds
(``watched_copy``). While the master of the meta tag is unreachable, the last copy is used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import trio

from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.queue_defaults import POLICY, JobDefaults, layered
from ojs_cluster.store.ground.process_state.queue_defaults import NONE, decode_record
from ojs_cluster.store.ground.versioned_hash import VersionedHash, read_versioned_hash
from ojs_cluster.store.ground.watched_copy import WatchedCopy

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Runtime

log = logging.getLogger("ojs.store")

FIRST_READ_S: Final = 10.0
"""Maximum time in seconds for which a process waits for its first read: a failover is over then."""


class QueueDefaultsTable:
    """This process's copy of the defaults of queues."""

    def __init__(self) -> None:
        """Start with an empty copy; ``start`` or ``run`` reads the defaults."""
        self._version = b""
        self._read_began = float("-inf")
        self._copy = WatchedCopy(
            "defaults of queues", lambda store: store.keys.meta.queue_defaults_channel, self.read
        )
        self.run = self._copy.run
        self.try_read = self._copy.try_read
        self.by_queue: dict[str, JobDefaults] = {}
        """The queues with defaults of their own, which are completed by the policy."""
        self.policy: JobDefaults | None = None
        """The defaults of all other queues, None if there are none."""

    async def start(self, store: Runtime, nursery: trio.Nursery) -> None:
        """Read the defaults, then keep the copy current in ``nursery``.

        It returns after ``FIRST_READ_S`` at the latest. Without a copy, the process applies no
        defaults until it can read them.
        """
        if not await self._copy.first_read(store, FIRST_READ_S):
            log.warning(
                "cannot read the defaults of queues: until the master of the meta tag answers, "
                "this process applies those of the server"
            )
        nursery.start_soon(self.run, store)

    async def read(self, store: Runtime) -> None:
        """Read the defaults now, if they have changed.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        began = trio.current_time()
        found = await read_versioned_hash(
            store, store.keys.meta.queue_defaults, self._version, VersionedHash
        )
        if found is None or began < self._read_began:
            return  # nothing has changed, or a read that began later is already done
        self._read_began, self._version = began, found.version
        decoded = {queue: decode_record(queue, text) for queue, text in found.records.items()}
        policy = decoded.pop(POLICY, NONE)
        self.policy = None if policy.empty else JobDefaults(policy)
        self.by_queue = {
            queue: JobDefaults(layered(own, policy))
            for queue, own in decoded.items()
            if not own.empty
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
