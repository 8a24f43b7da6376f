"""What a search reads of a stored job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.raw_json import object_members
from ojs_cluster.store.engine.jobs.record import JobRecord


@dataclass(frozen=True)
class SearchedRecord:
    """A job as ``core.search`` reads it.

    The properties need only the small fields of the record, the methods need all fields.
    """

    record: JobRecord

    @property
    def id(self) -> str:
        """The id."""
        return self.record.id

    @property
    def type(self) -> str:
        """The job type."""
        return self.record.type

    @property
    def queue(self) -> str:
        """The queue."""
        return self.record.queue

    @property
    def state(self) -> str:
        """The state."""
        return self.record.state.value

    @property
    def priority(self) -> int:
        """The priority."""
        return self.record.priority

    @property
    def attempt(self) -> int:
        """The number of attempts so far."""
        return self.record.attempt

    @property
    def worker(self) -> str:
        """The worker that holds the active job, empty for none."""
        held = self.record.state is State.ACTIVE
        return (self.record.worker_id or "") if held else ""

    def member(self, name: str) -> bytes:
        """Return a member of the job as JSON, such as its args; empty for none."""
        return bytes(self._members.get(name, b""))

    def errors(self) -> Iterable[bytes]:
        """Return the kept errors as JSON objects."""
        return self.record.errors()

    @cached_property
    def _members(self) -> Mapping[str, msgspec.Raw]:
        return object_members(self.record.envelope() + b"}") or {}
